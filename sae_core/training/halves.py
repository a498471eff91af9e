"""A step in two halves, for a batch that the memory of the device does not hold at once.

Every part of a loss is a mean over activations, so that the gradients of a batch are the mean of those of its halves:
the result is that of `gradients.compute` but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sae_core.sae import SAE
from sae_core.training.gradients import Outcome, compute, encoder_product


@torch.no_grad()
def compute_in_halves(
    sae: SAE, x_BD: Tensor, dead_M: Tensor, *, low_precision: bool = False, **weights: float
) -> Outcome:
    """What `compute` gives for a batch, with the tables [B, N] of one half at a time; it takes the same arguments."""
    whole: Outcome | None = None
    halves = [half_HD for half_HD in x_BD.tensor_split(2) if len(half_HD)]
    told_RK = _told(sae, halves, low_precision) if sae.shares_batch else None
    for place, half_HD in enumerate(halves):
        with _choosing_among_all(sae, told_RK, place, rows=len(x_BD)):
            part = compute(sae, half_HD, dead_M, low_precision=low_precision, **weights)
        part = _weighted(part, len(half_HD) / len(x_BD))
        whole = part if whole is None else _added(whole, part)
    assert whole is not None
    return whole


def _weighted(part: Outcome, weight: float) -> Outcome:
    """The share of a half in what are means over activations."""
    for gradient in part.gradients.values():
        gradient.mul_(weight)
    return replace(part, loss=part.loss * weight)


def _added(whole: Outcome, part: Outcome) -> Outcome:
    """Both together; the gradients of the first become those of both."""
    for name, gradient in whole.gradients.items():
        gradient.add_(part.gradients[name])
    return Outcome(
        whole.gradients,
        torch.cat([whole.recon_BD, part.recon_BD]),
        whole.loss + part.loss,
        whole.squared_error + part.squared_error,
        whole.active + part.active,
        whole.fired_N | part.fired_N,
    )


def _told(sae: SAE, halves: Sequence[Tensor], low_precision: bool) -> Tensor:
    """What each half has to hear of the other, a row for each half."""
    rows = sum(map(len, halves))
    pre = (encoder_product(half_HD - sae.b_dec, sae.W_enc, low_precision).add_(sae.b_enc) for half_HD in halves)
    return torch.stack([sae.candidates(pre_HN, rows) for pre_HN in pre])


@dataclass(slots=True)
class _Half:
    """One half of a batch of which both are known; a `WholeBatch`."""

    batch_size: int
    place: int
    told_RK: Tensor

    def gather(self, values_K: Tensor) -> Tensor:
        return self.told_RK


@contextmanager
def _choosing_among_all(sae: SAE, told_RK: Tensor | None, place: int, *, rows: int) -> Iterator[None]:
    """Within this, what is active is chosen among the batch and not the half; most choose by activation anyway."""
    if told_RK is None:
        yield
        return
    buffers = {name: buffer.clone() for name, buffer in sae.named_buffers()}
    sae.others = _Half(rows, place, told_RK)
    try:
        yield
    finally:
        sae.others = None
    if place:  # the first half has told them of the batch already
        for name, buffer in sae.named_buffers():
            buffer.copy_(buffers[name])
