"""The origins that there are, found from the files of `sae_core.activations.origins`, and how settings choose one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from sae_core.foundation.origin import Origin
from sae_core.foundation.rooms import classes_in


def _found() -> dict[str, type[Origin]]:
    found = sorted(classes_in("sae_core.activations.origins", Origin), key=lambda each: each.__name__)
    return {each.model_fields["kind"].default: each for each in found}


ORIGINS = _found()
"""The classes of all origins, by kind."""
_OLD_NAMES = {each.old_name: kind for kind, each in ORIGINS.items() if each.old_name}


def default_origin() -> Origin:
    """The origin of a run whose settings name none."""
    return next(each for each in ORIGINS.values() if each.by_default)()  # type: ignore[call-arg]


if TYPE_CHECKING:
    ChosenOrigin = Origin
else:
    ChosenOrigin = Annotated[Union[tuple(ORIGINS.values())], Field(discriminator="kind")]  # noqa: UP007


def with_origin(values: Mapping[str, Any], *, unnamed: str) -> Mapping[str, Any]:
    """Settings with the origin that they choose; older settings do so by ``text.source`` and ``model.name``.

    These names stay in the settings of such an origin, so that older versions read them, too.

    Args:
        values: The settings.
        unnamed: The text source and the model's name where settings give none.

    Raises:
        ValueError: If the names contradict each other or the origin.
    """
    text, model, chosen = (values.get(name, {}) for name in ("text", "model", "origin"))
    if not all(isinstance(section, Mapping) for section in (text, model, chosen)):
        return values
    names = {"text.source": text.get("source", unnamed), "model.name": model.get("name", unnamed)}
    old = next((name for name in names.values() if isinstance(name, str) and name in _OLD_NAMES), None)
    if "kind" not in chosen and old is not None:
        source, name = names.values()
        if source != name:
            raise ValueError(f"text.source is {source} and model.name {name}; set both to {old}, or neither")
        chosen = {**chosen, "kind": _OLD_NAMES[old]}
    kind = chosen.get("kind", default_origin().kind)
    found = ORIGINS.get(kind) if isinstance(kind, str) else None
    if found is None:
        return values
    if not found.reads_text:
        for setting, name in names.items():
            if name not in (unnamed, found.old_name):
                raise ValueError(f"origin.kind is {kind}, which reads no text; leave out {setting} ({name})")
    elif old is not None:
        raise ValueError(f"origin.kind is {kind}, which reads text, but text.source or model.name is {old}")
    given = {**values, "origin": {**chosen, "kind": kind}}
    if not found.old_name:
        return given
    return {**given, "text": {**text, "source": found.old_name}, "model": {**model, "name": found.old_name}}


def says_more(origin: Origin) -> bool:
    """Whether settings have to write an origin down, as other settings do not tell it already."""
    return not (origin.by_default or origin.old_name) or origin != type(origin)()  # type: ignore[call-arg]
