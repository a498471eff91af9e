"""Bring SAEs that others trained into a run, where they are an ensemble like a trained one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_core.activations.origins.language_model.model.finding_shape import find_shape
from sae_core.activations.origins.language_model.model.shapes import HOOKED
from sae_core.activations.stages import CORPUS
from sae_core.ensembles.ensemble import Ensemble, files_of, save_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.method import Wiring
from sae_core.foundation.methods import EXTENDED, GIVEN, TRAINED
from sae_core.foundation.origin import Origin
from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings
from sae_core.foundation.settings.run_settings import EMBEDDED, RunSettings
from sae_core.runs.given import Given, in_a_list, same_model, together
from sae_core.training.declared import TRAIN

BASE = "given"
"""What the ensemble of a run is called whose residual others learn."""


def starting_settings(given: Sequence[Given], origin: Origin, *, extended: bool = False) -> RunSettings:
    """The settings of a new run for SAEs: the activations that they name, if a model gives them, and what is trained.

    Args:
        given: The SAEs.
        origin: Where the activations come from.
        extended: Whether one new SAE is to learn what they leave; else nothing is trained.

    Raises:
        UserError: If two of them name different activations.
    """
    place, defaults = together(given), RunSettings()
    named: dict[str, Any] = {
        "model.name": _setting_of(place.model),
        "model.layer": place.layer,
        "model.site": place.site,
    }
    untrained = {"training.methods": (GIVEN,), "data.train_tokens": defaults.data.index_tokens}
    one = {"training.methods": (EXTENDED,), "training.boost_from": BASE, "training.members": 1}
    told = {name: value for name, value in named.items() if value is not None and origin.reads_text}
    return load_settings(overrides={**told, **(one if extended else untrained)})


def _setting_of(model: str | None) -> str | None:
    """The name in settings of a model: SAELens calls one without an owner as TransformerLens does."""
    if model is None or "/" in model or model == EMBEDDED or model.startswith(HOOKED) or Path(model).is_dir():
        return model
    return f"{HOOKED}{model}"


def require_fit(given: Sequence[Given], settings: RunSettings, run: Run | None) -> list[str]:
    """Refuse SAEs of other activations than those of a run.

    Args:
        given: The SAEs.
        settings: The run's settings.
        run: The run, if it is there.

    Returns:
        What cannot be told of them, in sentences.

    Raises:
        UserError: If an SAE names another model, layer or site, or is for another dimension.
    """
    place, model, remarks = together(given), settings.model, []
    if settings.origin.reads_text:
        for each in given:
            _require_place(each, settings)
        local = model.name != EMBEDDED and Path(model.name).is_dir()
        if place.model is not None and local and place.model != model.name:
            remarks.append(f"Whether the model in {model.name} is {place.model} cannot be told.")
        for each in given:
            lacking = [name for name in ("model", "layer", "site") if getattr(each.place, name) is None]
            if lacking:
                taken = f"{model.name}, layer {model.layer}, site {model.site}"
                remarks.append(f"{each.source} does not say its {' and '.join(lacking)}; taken to be of {taken}.")
    d_in = CORPUS.facts(run).get("d_in") if run else None
    if d_in is None and settings.origin.reads_text:
        d_in = find_shape(model).d_model
    for each in given:
        if d_in is not None and each.coder.d_in != d_in:
            remedy = "give --model, --layer and --site of the SAE" if settings.origin.reads_text else "give others"
            raise UserError(
                f"{each.source} is for activations of dimension {each.coder.d_in}, but those of the run "
                f"({settings.origin.described(settings)}) have {d_in}; {remedy}."
            )
    for number, each in enumerate(given):
        if twin := next((other for other in given[:number] if other.files == each.files), None):
            remarks.append(f"{each.source} is the same SAE as {twin.source}, byte for byte.")
    if len({each.coder.d_in for each in given}) > 1:
        sizes = ", ".join(f"{each.source} {each.coder.d_in}" for each in given)
        raise UserError(f"SAEs of one ensemble must be for activations of one dimension; these are: {sizes}.")
    return remarks


def _require_place(each: Given, settings: RunSettings) -> None:
    place, model = each.place, settings.model
    if place.hook is not None and place.layer is None:
        raise UserError(
            f"{each.source} reads {place.hook}, which is no site here; sites are what a block, its attention or "
            "its MLP gives."
        )
    for name, here in (("layer", model.layer), ("site", model.site)):
        there = getattr(place, name)
        if there is not None and there != here:
            raise UserError(
                f"{each.source} is of {name} {there}, but the run of {name} {here}; leave --{name} out, or choose "
                "another run folder."
            )
    local = model.name != EMBEDDED and Path(model.name).is_dir()
    if place.model is not None and not local and not same_model(place.model, model.name):
        raise UserError(
            f"{each.source} is of the model {place.model}, but the run of {model.name}; leave --model out, or choose "
            "another run folder."
        )


def import_given(
    run: Run, given: Sequence[Given], *, name: str = GIVEN, wiring: Wiring | None = None
) -> dict[str, Any]:
    """Make an ensemble of SAEs in a run; what is there of the same SAEs already is kept.

    Args:
        run: The run.
        given: The SAEs, which `require_fit` and `require_wiring` have checked.
        name: What the ensemble is called.
        wiring: How the members are wired: parallel unless the only one given is an ensemble.

    Returns:
        The facts that are recorded.

    Raises:
        UserError: If the run has another ensemble of that name, or the name is taken by a method or unusable.
    """
    folder, stage = run.ensemble(name), TRAIN.key_of(name)
    facts: dict[str, Any] = {GIVEN: [each.facts for each in given]}
    if folder.manifest.exists():
        there = run.facts(stage)
        if there.get(GIVEN) == facts[GIVEN] and there.get("wiring") == (wiring or there.get("wiring")):
            return there
        raise UserError(f"{run.path} has an ensemble called {name} already; give another name with --as.")
    ensemble = _ensemble(given, wiring)
    shutil.rmtree(folder.path, ignore_errors=True)  # of an import that was interrupted
    save_ensemble(ensemble, folder)
    parameters = sum(parameter.numel() for parameter in ensemble.parameters())
    facts = {**facts, "wiring": ensemble.wiring, "parameters": parameters}
    run.take_ensemble(stage, facts, files=files_of(ensemble, folder))
    return facts


def require_name(name: str) -> None:
    """Refuse a name that no imported ensemble may have.

    Raises:
        UserError: If it is taken by a method, or no name of a folder.
    """
    if name in TRAINED:
        raise UserError(f"--as {name} is the name of a method that trains; give another name.")
    if not re.fullmatch(r"[\w-]{1,64}", name):
        raise UserError(f"--as {name} is not a name of letters, digits, _ and -; give another one.")


def require_wiring(given: Sequence[Given], wiring: Wiring | None) -> None:
    """Refuse a wiring that the only one given, an ensemble, does not have.

    Raises:
        UserError: If it has another one.
    """
    only = in_a_list(given)
    if only is not None and wiring not in (None, only.wiring):
        raise UserError(f"{given[0].source} is an ensemble whose wiring is {only.wiring}; leave --wiring out.")


def _ensemble(given: Sequence[Given], wiring: Wiring | None) -> Ensemble:
    only = in_a_list(given)
    if only is None:
        return Ensemble([each.coder for each in given], wiring=wiring or "parallel", method=GIVEN)
    return Ensemble(list(only), wiring=only.wiring, weights=only.weights, method=GIVEN)
