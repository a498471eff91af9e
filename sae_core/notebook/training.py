"""Train an ensemble on activations that are at hand: ``train(acts, method="bagged", members=4)``."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sae_core.foundation.errors import UserError, short
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.method import Method
from sae_core.foundation.methods import EVERY, REFERENCE, TRAINED
from sae_core.foundation.progress import Progress
from sae_core.foundation.settings import architectures
from sae_core.foundation.settings.reading import parse_settings
from sae_core.foundation.settings.run_settings import RunSettings, TrainingSettings, sae_settings
from sae_core.notebook.ensemble import Ensemble
from sae_core.notebook.given import Activations, source_of
from sae_core.notebook.watching import of_rows, watched
from sae_core.sae import ARCHITECTURES, SAE
from sae_core.training.train import train_ensemble


def train(
    acts: Activations,
    *,
    method: str | Method | type[Method] = "bagged",
    architecture: str | type[SAE] = "topk",
    members: int | None = None,
    width: int | None = None,
    k: int | None = None,
    tokens: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    device: str | None = None,
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
            bag_of_boosted …) or a declaration of one's own.
        architecture: The SAE: a name (topk, batchtopk, relu, jumprelu, matryoshka …) or a class of one's own.
        members: Number of SAEs; a method may take another number, as single does.
        width: Features of one SAE.
        k: Active features of an activation, for architectures that fix their number.
        tokens: Number of activations that each SAE sees; if there are fewer, training makes several passes.
        batch_size: Activations per step.
        learning_rate: Peak learning rate of Adam.
        seed: Seed of the initial weights and of the order of the rows.
        device: auto, cpu, cuda or cuda:N.
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
    declared, given = _declared(method), {name: value for name, value in named.items() if value is not None}
    chosen = _settings(declared, _architecture(architecture), {**given, **settings})
    with TemporaryDirectory(prefix="sae-ensemble-") as folder, watched(progress) as tell:
        source = source_of(acts, Path(folder) / "activations", most=chosen.training.tokens)
        trained = train_ensemble(
            chosen, declared, source, EnsembleFolder(Path(folder) / "ensemble"), progress=of_rows(tell)
        )
        return Ensemble.of(trained.ensemble, trained.curves.reset_index(drop=True))


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
