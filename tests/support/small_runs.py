"""Runs that a test can train: 60 steps per stage on synthetic data, three members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from sources import TensorSource, sparse_data
from torch import Tensor

from sae_core.ensembles.ensemble import Ensemble, load_ensemble
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.methods import BY_DEFAULT
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.training.train import train_run

D, WIDTH, K, MEMBERS = 24, 64, 3, 3
BATCH, STEPS = 100, 60
"""Steps are no multiple of those between two looks at dead features, and more than one pass has."""


def data() -> Tensor:
    """Activations [1550, D], 15 batches and a half."""
    return sparse_data(1550)


def new_run(path: Path, sae: dict[str, Any] | None = None, **training: Any) -> Run:
    """A run of all four methods that is not trained yet, on settings under which some features die."""
    defaults = {
        "members": MEMBERS,
        "tokens": STEPS * BATCH,
        "batch_size": BATCH,
        "learning_rate": 3e-3,
        "device": "cpu",
        "methods": BY_DEFAULT,
    }
    settings = {
        "sae": {"width": WIDTH, "k": K, "dead_after_tokens": 1000, **(sae or {})},
        "training": {**defaults, **training},
    }
    return Run.create(path, RunSettings.model_validate(settings))


def trained(path: Path, sae: dict[str, Any] | None = None, *, acts_RD: Tensor | None = None, **training: Any) -> Run:
    """A run, trained from start to end."""
    run = new_run(path, sae, **training)
    train_run(run, source=TensorSource(data() if acts_RD is None else acts_RD))
    return run


def ensembles(run: Run) -> dict[str, Ensemble]:
    """The ensembles of a run, by name."""
    return {folder.name: load_ensemble(folder) for folder in run.ensembles()}


def weights(run: Run) -> dict[str, Tensor]:
    """Every tensor of every ensemble, by name."""
    return {
        f"{name}.{key}": tensor
        for name, ensemble in ensembles(run).items()
        for key, tensor in ensemble.state_dict().items()
    }


def curves(run: Run, name: str) -> pd.DataFrame:
    """The training curves of an ensemble."""
    return read_table(run.ensemble(name).curves)


def assert_same_training(run: Run, other: Run) -> None:
    """Check that two runs have the same weights bit by bit, and the same curves but for the seconds."""
    one, two = weights(run), weights(other)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
    for folder in run.ensembles():
        rows = [curves(each, folder.name).drop(columns="seconds") for each in (run, other)]
        pd.testing.assert_frame_equal(*rows, check_exact=True)
