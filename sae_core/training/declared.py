"""The stage that trains an ensemble. `train_run` does it for all methods, which share what they can."""

from __future__ import annotations

from typing import Any

from sae_core.activations.stages import ACTIVATIONS, CORPUS
from sae_core.foundation.stages import Stage, each_method

TRAIN: Stage[Any] = Stage(
    key="train/{}",
    command="train",
    flops=lambda sizes: sizes.train_flops,
    # Gradients, clipping, Adam and unit norm go over both weights; tables of preactivations; sums over active atoms.
    moved=lambda sizes: (
        96 * sizes.steps * sizes.parameters + sizes.trained * (8 * sizes.features + 16 * sizes.d_in * sum(sizes.active))
    ),
    written=lambda sizes: 4 * (2 * sizes.parameters + sizes.features + sizes.d_in * len(sizes.widths)),
    needs=(CORPUS, ACTIVATIONS),
    of=each_method,
    reads_activations=True,
)
