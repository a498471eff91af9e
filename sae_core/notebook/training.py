"""Train an ensemble on activations that are at hand: ``train(acts, method="bagged", members=4)``."""

from __future__ import annotations

from copy import deepcopy
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from sae_core.ensembles import ensemble as ensembles
from sae_core.ensembles.coder import Coder
from sae_core.foundation.errors import UserError, short
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.machine.device import resolve_device
from sae_core.foundation.method import Method
from sae_core.foundation.methods import EVERY, EXTENDED, REFERENCE, TRAINED
from sae_core.foundation.progress import Progress
from sae_core.foundation.settings import architectures
from sae_core.foundation.settings.reading import parse_settings
from sae_core.foundation.settings.run_settings import RunSettings, TrainingSettings, sae_settings
from sae_core.notebook.ensemble import Ensemble, load
from sae_core.notebook.given import Activations, source_of
from sae_core.notebook.watching import of_rows, watched
from sae_core.sae import ARCHITECTURES, SAE
from sae_core.training.train import train_ensemble


def train(
    acts: Activations,
    *,
    method: str | Method | type[Method] | None = None,
    architecture: str | type[SAE] = "topk",
    members: int | None = None,
    width: int | None = None,
    k: int | None = None,
    tokens: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    boost_from: Coder | str | PathLike[str] | None = None,
    progress: Progress | bool = True,
    **settings: Any,
) -> Ensemble:
    """Train an ensemble of sparse autoencoders.

    The same seed gives the same weights, and on the same rows in float32 those of a run with the same settings. A table
    is read where it lies, shuffled anew in each pass. Batches keep the order in which they come: those that can be read
    again (a list, a DataLoader) are read once for their mean and scale and once for each pass; those that cannot (a
    generator) are read once and kept on disk meanwhile. Of batches at most ``tokens`` rows are read.

    Args:
        acts: Activations [rows, D]: an array, a memory map or a tensor; or batches of them.
        method: How the members work together: the name of a method (single, bagged, boosted, expanded,
            bag_of_boosted …) or a declaration of one's own; bagged by default.
        architecture: The SAE: a name (topk, batchtopk, relu, jumprelu, matryoshka …) or a class of one's own.
        members: Number of SAEs; a method may take another number, as single does.
        width: Features of one SAE.
        k: Active features of an activation, for architectures that fix their number.
        tokens: Number of activations that each SAE sees; if there are fewer, training makes several passes.
        batch_size: Activations per step.
        learning_rate: Peak learning rate of Adam.
        seed: Seed of the initial weights and of the order of the rows.
        device: auto, cpu, cuda or cuda:N.
        boost_from: A finished ensemble or SAE, or where one lies, whose residual the new members learn (the method
            extended, 2507.12990); it becomes the first member.
        progress: True draws progress in the notebook or terminal, False shows none; or a function that is told.
        **settings: All other settings of the SAE and of the training by their names, such as sparsity or inner;
            `SAESettings` and `TrainingSettings` list them. What is not given has the default that they give.

    Returns:
        The ensemble, ready for inference on the device on which it was trained.

    Raises:
        UserError: If the activations or a setting cannot be used; the sentence names the row or the setting.
        KeyboardInterrupt: After Ctrl-C, or the stop button of a notebook; nothing is left behind.
    """
    named: dict[str, Any] = {"members": members, "width": width, "k": k, "tokens": tokens, "batch_size": batch_size}
    named |= {"learning_rate": learning_rate, "seed": seed, "device": device}
    if boost_from is not None:
        settings["boost_from"] = "given"
    declared = _declared(method or (EXTENDED if boost_from is not None else "bagged"))
    settings |= {name: value for name, value in named.items() if value is not None}
    chosen = _settings(declared, _architecture(architecture), settings)
    finished = load(boost_from) if isinstance(boost_from, str | PathLike) else boost_from
    with TemporaryDirectory(prefix="sae-ensemble-") as folder, watched(progress) as tell:
        source = source_of(acts, Path(folder) / "activations", most=chosen.training.tokens)
        if finished is not None and finished.d_in != source.d_in:
            raise UserError(f"boost_from is for activations of dimension {finished.d_in}, but acts has {source.d_in}.")
        options: dict[str, Any] = {"given": _placed(finished, chosen), "progress": of_rows(tell)}
        trained = train_ensemble(chosen, declared, source, EnsembleFolder(Path(folder) / "ensemble"), **options)
        return Ensemble.of(trained.ensemble, trained.curves.reset_index(drop=True))


def _placed(finished: Coder | None, settings: RunSettings) -> Coder | None:
    """A copy of a finished member where it is trained with others; an ensemble of one SAE as that SAE."""
    if finished is None:
        return None
    members = list(finished) if isinstance(finished, ensembles.Ensemble) else [finished]
    alone = len(members) == 1 and getattr(finished, "weights", [1.0]) == [1.0]
    placed: Any = deepcopy(members[0] if alone else finished)
    return cast(Coder, placed.to(resolve_device(settings.training.device)).eval())


def _declared(method: str | Method | type[Method]) -> Method:
    if isinstance(method, Method):
        return method
    if isinstance(method, type) and issubclass(method, Method):
        return method()
    if not isinstance(method, str) or method not in TRAINED:
        raise UserError(f"There is no method {short(repr(method))}; known are {', '.join(TRAINED)}.")
    return EVERY[method]


def _architecture(architecture: str | type[SAE]) -> str:
    """The name of an architecture."""
    if isinstance(architecture, str):
        return architecture
    name = getattr(architecture, "architecture", None)
    if not isinstance(name, str) or ARCHITECTURES.get(name) is not architecture:
        raise UserError(
            f"architecture is {short(repr(architecture))}, which is no registered architecture; give the class a name "
            "of its own (architecture = 'name' in its body)."
        )
    return name


def _settings(method: Method, architecture: str, given: dict[str, Any]) -> RunSettings:
    """The settings of a run that trains this ensemble."""
    fields = {"sae": set(sae_settings().model_fields), "training": set(TrainingSettings.model_fields) - {"methods"}}
    sections: dict[str, dict[str, Any]] = {"sae": {"architecture": architecture}, "training": {}}
    for name, value in given.items():
        section = next((section for section, names in fields.items() if name in names), None)
        if section is None:
            known = sorted(fields["sae"] | fields["training"])
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
            raise UserError(f"train() has no setting {short(repr(name))}; {hint}")
        sections[section][name] = value
    sections["training"]["methods"] = [method.name if EVERY.get(method.name) is method else REFERENCE]
    settings = parse_settings(sections, origin="train()")
    if fault := method.fault(settings):
        raise UserError(f"{method.name} cannot be trained: {fault}.")
    if method.needs_fixed_l0 and not architectures.fixes_l0(architecture):
        raise UserError(f"{method.name} needs an architecture with a fixed L0; {architecture} has none.")
    return settings
