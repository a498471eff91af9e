"""BatchTopK: the B·k largest preactivations of a batch, a fixed threshold at inference (Bussmann et al. 2024)."""

from __future__ import annotations

from typing import Any, Protocol, Self

import torch
from torch import Tensor

from sae_core.foundation.settings.sections import SAESettings
from sae_core.sae.base import SAE
from sae_core.sae.sparse_code import SparseCode, largest

BATCHES, SHARE = 100, 0.05
"""The threshold is the mean over the last so many batches of a training, or over this share of them if they are fewer:
preactivations shrink by orders of magnitude at first, and what is kept of that time would close nearly all features."""


class WholeBatch(Protocol):
    """The batch of which others have the other rows, in training by several processes."""

    batch_size: int
    place: int
    """Which of the R parts of the batch this one is, from 0."""

    def gather(self, values_K: Tensor) -> Tensor:
        """Values [R, K] of all parts, from those of each; all give equally many."""


class BatchTopKSAE(SAE):
    """In training c keeps the B·k largest positive preactivations of the batch; at inference those above `threshold`.

    The threshold is the running mean of the smallest coefficient kept. So at inference a token's code does not depend
    on its neighbours, and the SAE is a JumpReLU SAE with one threshold for all features.

    Args:
        d_in: Dimension of the activations, D.
        width: Number of features, N.
        k: Active features per token, on average.
        seed: Seed of the initial weights.
    """

    architecture = kernel = "batchtopk"
    saelens = "jumprelu"
    selects = True
    threshold: Tensor
    others: WholeBatch | None = None
    """Where others have rows of the batch too, so that what is kept must be chosen among all."""
    momentum: float = 1 - 1 / BATCHES
    """What a batch leaves of the threshold before it."""

    def __init__(self, d_in: int, width: int, *, k: int, seed: int = 0) -> None:
        super().__init__(d_in, width, seed=seed)
        self.k = k
        # A tensor and not a float: updating it needs no host synchronisation. Negative means not yet set.
        self.register_buffer("threshold", torch.tensor(-1.0))

    @classmethod
    def from_settings(cls, settings: SAESettings, d_in: int, width: int, seed: int) -> Self:
        """A BatchTopK SAE with ``settings.k``."""
        return cls(d_in, width, k=settings.k, seed=seed)

    @property
    def options(self) -> dict[str, Any]:
        """The number of active features, k."""
        return {"k": self.k}

    def sparse_code(self, pre_BN: Tensor) -> SparseCode:
        """The code as entries sorted by activation; updates the threshold while training."""
        return self._batch_code(pre_BN) if self.training else SparseCode.from_dense(self.activate(pre_BN))

    def _batch_code(self, pre_BN: Tensor) -> SparseCode:
        values_K, places_K = self._kept(pre_BN.reshape(1, -1), pre_BN.shape[0])
        places_K, order_K = places_K.sort()
        values_K = values_K[order_K].relu()
        rows_K = torch.div(places_K, self.width, rounding_mode="floor")
        return SparseCode(values_K, places_K % self.width, rows_K, (pre_BN.shape[0], self.width))

    def _kept(self, pre_1E: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """(values [K], places [K]) of the largest preactivations of a batch, as far as they are among these."""
        if self.others is None:
            values_K, places_K = (found.flatten() for found in largest(pre_1E, self.k * rows))
            self.update_threshold(values_K.detach().relu())
            return values_K, places_K
        # All that a batch keeps may lie in the rows of one process.
        wanted = self.k * self.others.batch_size
        values_K, places_K = (found.flatten() for found in largest(pre_1E, min(wanted, pre_1E.shape[1])))
        padded_K = values_K.detach().new_full((wanted,), -torch.inf)
        padded_K[: len(values_K)] = values_K.detach()
        all_RK = self.others.gather(padded_K)
        best_K = all_RK.flatten().topk(wanted).values
        self.update_threshold(best_K.relu())
        # Of those that equal the smallest kept, as in bfloat16 many do, earlier parts keep theirs first.
        ties_R = (all_RK == best_K[-1]).sum(dim=1)
        left = (best_K == best_K[-1]).sum() - ties_R[: self.others.place].sum()
        tied_K = values_K.detach() == best_K[-1]
        here_K = (values_K > best_K[-1]) | (tied_K & (tied_K.cumsum(0) <= left))
        return values_K[here_K], places_K[here_K]

    def activate(self, pre_BN: Tensor) -> Tensor:
        """Sparse coefficients [B, N]; updates the threshold while training."""
        if self.training:
            return self._batch_code(pre_BN).dense()
        return pre_BN * (pre_BN > self.threshold.clamp_min(0.0))

    def train_for(self, steps: int) -> None:
        """Let the threshold be a mean over the end of a training of so many steps."""
        self.momentum = 1 - 1 / max(1.0, min(BATCHES, SHARE * steps))

    @torch.no_grad()
    def update_threshold(self, values_K: Tensor) -> None:
        """Move the threshold towards the smallest positive one of the coefficients [K] that a batch kept."""
        # Zeros among the kept (fewer than B·k positive preactivations) say nothing about the threshold.
        smallest = torch.where(values_K > 0, values_K, torch.inf).min()
        smallest = torch.where(smallest.isfinite(), smallest, self.threshold.clamp_min(0.0))
        mixed = self.momentum * self.threshold + (1 - self.momentum) * smallest
        self.threshold.copy_(torch.where(self.threshold < 0, smallest, mixed))

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        """Biases and the threshold scale together."""
        super().fold_input_scale(scale)
        self.threshold.div_(scale)
