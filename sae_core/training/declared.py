"""The stage that trains an ensemble. `train_run` does it for all methods, which share what they can."""

from __future__ import annotations

from typing import Any

from sae_core.activations.stages import ACTIVATIONS, CORPUS
from sae_core.foundation.stages import Stage, each_method

TRAIN: Stage[Any] = Stage(
    key="train/{}",
    command="train",
    cost=lambda sizes: sizes.trained * sizes.parameters,
    needs=(CORPUS, ACTIVATIONS),
    of=each_method,
    reads_activations=True,
)
