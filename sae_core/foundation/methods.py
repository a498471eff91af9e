"""Find the methods in the files of `sae_core.ensembles.methods`, and look up their declarations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sae_core.foundation.method import RANDOM_STAGES, Method
from sae_core.foundation.rooms import classes_in


def _found() -> dict[str, Method]:
    named = [each for each in classes_in("sae_core.ensembles.methods", Method) if "name" in vars(each)]
    return {each.name: each() for each in sorted(named, key=lambda each: each.place)}


def _with_those_before(name: str) -> list[str]:
    return [*(each for before in EVERY[name].first_from for each in _with_those_before(before)), name]


EVERY = _found()
"""All methods by name, in listed order."""
TRAINED = tuple(name for name, method in EVERY.items() if not method.is_given)
"""The methods that train something, in listed order."""
GIVEN = next(name for name, method in EVERY.items() if method.is_given)
"""The collection of SAEs that were brought in."""
EXTENDED = next(name for name, method in EVERY.items() if method.extends_given)
"""The SAEs that learn what one that was brought in leaves."""
TRAINING_ORDER = tuple(dict.fromkeys(each for name in TRAINED for each in _with_those_before(name)))
"""The methods that train something, each after the methods whose SAEs it may reuse."""
BY_DEFAULT = tuple(name for name, method in EVERY.items() if method.by_default)
"""The methods that the default settings train."""
BASELINES = tuple(name for name, method in EVERY.items() if method.is_baseline)
"""Methods of one SAE, with which ensembles are compared."""
REFERENCE = next(name for name, method in EVERY.items() if method.is_reference)
"""The one SAE with which all others are compared."""
REPEATS = next(name for name, method in EVERY.items() if method.repeats_reference)
"""The ensemble whose members are further trainings of the reference."""

if TYPE_CHECKING:
    from sae_core.foundation.settings.run_settings import RunSettings

    MethodName = str
else:
    MethodName = Literal[tuple(EVERY)]


def control_name(ensemble: str) -> str:
    """The name of the control of an ensemble of stages, among methods and for people."""
    own = EVERY[ensemble].control if ensemble in EVERY else ""
    return own or f"{ensemble}: {RANDOM_STAGES}"


def trained_by(settings: RunSettings) -> tuple[str, ...]:
    """The methods of settings that train something."""
    return tuple(name for name in settings.training.methods if name in TRAINED)


def is_control(name: str) -> bool:
    """Whether a method is the control of an ensemble of stages."""
    return name.endswith(RANDOM_STAGES)


def has_stages(settings: RunSettings) -> bool:
    """Whether a method of the settings trains SAEs on residuals of others."""
    return any(EVERY[name].layout(settings).stages > 1 for name in trained_by(settings))


def title_of(ensemble: str) -> str:
    """The name of an ensemble for people."""
    return (EVERY[ensemble].title if ensemble in EVERY else "") or ensemble


def headed(ensemble: str) -> str:
    """`title_of` at the beginning of a sentence; ``L0`` stays as it is."""
    title = title_of(ensemble)
    return title[:1].upper() + title[1:]


def in_words() -> str:
    """The methods and what they train, for help."""
    return ", ".join(f"{name} ({EVERY[name].summary})" if EVERY[name].summary else name for name in TRAINED)
