"""BatchTopK: the B·k largest preactivations of a batch, a fixed threshold at inference (Bussmann et al. 2024)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from sae_core.config import SAESettings
from sae_core.sae.base import SAE
from sae_core.sae.sparse import SparseCode, largest

THRESHOLD_MOMENTUM = 0.99


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

    architecture = "batchtopk"
    selects = True
    threshold: Tensor

    def __init__(self, d_in: int, width: int, *, k: int, seed: int = 0) -> None:
        super().__init__(d_in, width, seed=seed)
        self.k = k
        # A tensor and not a float: updating it needs no host synchronisation. Negative means not yet set.
        self.register_buffer("threshold", torch.tensor(-1.0))

    @classmethod
    def from_settings(cls, settings: SAESettings, d_in: int, width: int, seed: int) -> Self:
        """A BatchTopK SAE with ``settings.k``."""
        return cls(d_in, width, k=settings.k, seed=seed)

    def sparse_code(self, pre_BN: Tensor) -> SparseCode:
        """The code as entries sorted by activation; updates the threshold while training."""
        if not self.training:
            return SparseCode.from_dense(self.activate(pre_BN))
        values_1K, places_1K = largest(pre_BN.reshape(1, -1), self.k * pre_BN.shape[0])
        places_K, order_K = places_1K.flatten().sort()
        values_K = values_1K.flatten()[order_K].relu()
        self.update_threshold(values_K.detach())
        rows_K = torch.div(places_K, self.width, rounding_mode="floor")
        return SparseCode(values_K, places_K % self.width, rows_K, (pre_BN.shape[0], self.width))

    def activate(self, pre_BN: Tensor) -> Tensor:
        """Sparse coefficients [B, N]; updates the threshold while training."""
        if self.training:
            return self.sparse_code(pre_BN).dense()
        return pre_BN * (pre_BN > self.threshold.clamp_min(0.0))

    @torch.no_grad()
    def update_threshold(self, values_K: Tensor) -> None:
        """Move the threshold towards the smallest positive one of the coefficients [K] that a batch kept."""
        # Zeros among the kept (fewer than B·k positive preactivations) say nothing about the threshold.
        smallest = torch.where(values_K > 0, values_K, torch.inf).min()
        smallest = torch.where(smallest.isfinite(), smallest, self.threshold.clamp_min(0.0))
        mixed = THRESHOLD_MOMENTUM * self.threshold + (1 - THRESHOLD_MOMENTUM) * smallest
        self.threshold.copy_(torch.where(self.threshold < 0, smallest, mixed))

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        """Biases and the threshold scale together."""
        super().fold_input_scale(scale)
        self.threshold.div_(scale)
