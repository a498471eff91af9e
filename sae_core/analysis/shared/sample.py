"""Training activations from all over a run's text, for what is set up or fitted on some of them."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_core.activations.harvest import train_cache
from sae_core.foundation.run import Run

SPREAD = 16
"""Places in the training activations from which they are taken."""


def training_sample(run: Run, rows: int) -> Tensor:
    """About so many activations [B, D] from places spread over the training text, always the same ones.

    Args:
        run: The run.
        rows: How many; all of them where there are fewer.

    Raises:
        UserError: If the activations are missing or damaged.
    """
    drawn = run.settings.origin.drawn(run, rows)
    if drawn is not None:
        return drawn
    cache = train_cache(run)
    size = -(-min(rows, cache.rows) // SPREAD)
    starts = [round(place * max(0, cache.rows - size) / max(1, SPREAD - 1)) for place in range(SPREAD)]
    return torch.cat([cache.read(start, min(start + size, cache.rows)) for start in starts])
