"""Sample training activations from a whole run, for code that needs only some of them."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_core.activations.harvest import learned_cache
from sae_core.foundation.run import Run

SPREAD = 16
"""The number of blocks that a sample consists of."""


def training_sample(run: Run, rows: int) -> Tensor:
    """Return about ``rows`` training activations [B, D], in blocks spread over the whole cache; always the same ones.

    Args:
        run: The run.
        rows: The size of the sample; a smaller cache is returned whole.

    Raises:
        UserError: If the activations are missing or damaged.
    """
    drawn = run.settings.origin.drawn(run, rows)
    if drawn is not None:
        return drawn
    cache = learned_cache(run)
    size = -(-min(rows, cache.rows) // SPREAD)
    starts = [round(place * max(0, cache.rows - size) / max(1, SPREAD - 1)) for place in range(SPREAD)]
    return torch.cat([cache.read(start, min(start + size, cache.rows)) for start in starts])
