"""Plans of invented machines, where every step takes a second, and of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from command_line import call

from sae_core.activations.origins.language_model.model.shapes import ModelShape
from sae_core.foundation.settings.reading import load_settings
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.runs.planning.machines import Machine
from sae_core.runs.planning.plan import stages_of
from sae_core.runs.planning.rates import Rates, needed_steps
from sae_core.runs.planning.stages import Stage, Work

PYTHIA = (
    *("--model", "EleutherAI/pythia-160m", "--layer", 8, "--width", 16128, "--k", 128, "--members", 8),
    *("--tokens", 800_000_000, "--set", "data.train_tokens=800000000", "--set", "training.batch_size=8192"),
)


def payload(file: Path) -> int:
    """Bytes of the tensors in a safetensors file, without its header."""
    with file.open("rb") as opened:
        return file.stat().st_size - 8 - int.from_bytes(opened.read(8), "little")


def rates_of_one(settings: RunSettings, processes: int = 1) -> Rates:
    """A second for every step and a thousandth for everything else."""
    widths = {settings.sae.width, settings.sae.width * settings.training.members}
    small = dict.fromkeys(widths, 1e-3)
    steps = dict.fromkeys(needed_steps(settings, processes), 1.0)
    return Rates(steps, small, small, 1e-3, 0.0, 1.0, 0.0, 0.0, 0.0, tokens_per_text=10, fast=True)


def planned_stages(shape: ModelShape, *, processes: int = 1, places: int = 1, **overrides: Any) -> dict[str, Stage]:
    """Planned stages, without the time that checkpoints take."""
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    base = {"data.train_tokens": 1000, "data.index_tokens": 100, "data.evaluation_tokens": 100}
    settings = load_settings(overrides=base | {"training.tokens": 5000, "training.batch_size": 50} | given)
    rates = rates_of_one(settings, processes)
    work = Work(settings, shape, Machine("one", gpu=False, disk=10**12), rates, processes, places)
    return {stage.name: stage for stage in stages_of(work)}


def planned(*words: object) -> dict[str, Any]:
    """What ``plan --json`` prints."""
    done = call("plan", *words, "--json")
    assert done.code == 0, done.err
    return dict(json.loads(done.out))
