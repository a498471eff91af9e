"""BatchTopK: the B·k largest preactivations of a batch, a fixed threshold at inference (Bussmann et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sae_core.sae.base import Kernel, WholeBatch
from sae_core.sae.fixed_l0 import FixedL0SAE
from sae_core.sae.sparse_code import SparseCode, largest

BATCHES, SHARE = 100, 0.05
"""The threshold is the mean over the last so many batches of a training, or over this share of them if they are fewer:
preactivations shrink by orders of magnitude at first, and what is kept of that time would close nearly all features."""


class BatchTopKSAE(FixedL0SAE):
    """In training c keeps the B·k largest positive preactivations of the batch; at inference those above `threshold`.

    The threshold is the running mean of the smallest coefficient kept. So at inference a token's code does not depend
    on its neighbours, and the SAE is a JumpReLU SAE with one threshold for all features.
    """

    architecture = "batchtopk"
    kernel = Kernel.TOP_OF_BATCH
    saved_as = "jumprelu"
    selects = shares_batch = True
    momentum: float = 1 - 1 / BATCHES
    """What a batch leaves of the threshold before it."""

    def __init__(self, d_in: int, width: int, *, k: int, seed: int = 0) -> None:
        super().__init__(d_in, width, k=k, seed=seed)
        # A tensor and not a float: updating it needs no host synchronisation. Negative means not yet set.
        self.register_buffer("threshold", torch.tensor(-1.0))

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
        # All that a batch keeps may lie in the rows of one process.
        wanted = self.k * (self.others.batch_size if self.others else rows)
        values_K, places_K = (found.flatten() for found in largest(pre_1E, min(wanted, pre_1E.shape[1])))
        if self.others is None:
            self.update_threshold(values_K.detach().relu())
            return values_K, places_K
        all_RK = self.others.gather(_padded(values_K.detach(), wanted))
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

    def candidates(self, pre_BN: Tensor, rows: int) -> Tensor:
        """The k·rows largest of them, −∞ where there are fewer; all that the batch keeps may lie in this part of it."""
        values_1K, _ = largest(pre_BN.view(1, -1), min(self.k * rows, pre_BN.numel()))
        return _padded(values_1K[0], self.k * rows)

    def train_for(self, steps: int, others: WholeBatch | None = None) -> None:
        """Let the threshold be a mean over the end of a training of so many steps."""
        self.others = others
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

    @torch.no_grad()
    def open_above(self, level: float) -> None:
        """By the threshold."""
        self.threshold.fill_(level)

    def to_saelens(self) -> dict[str, Tensor]:
        """JumpReLU with one constant threshold, as the field has it."""
        tensors = super().to_saelens()
        return {**tensors, "threshold": tensors["threshold"].clamp_min(0.0).expand(self.width)}

    @staticmethod
    def from_saelens(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With the threshold for all."""
        return {**tensors, "threshold": tensors["threshold"].max()}


def _padded(values_K: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(values_K, (0, size - len(values_K)), value=-torch.inf)
