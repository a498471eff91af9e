"""What TopK, BatchTopK and their like share: k active features, and AuxK for those that are dead."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sae_core.sae.base import SAE


class FixedL0SAE(SAE):
    """Keeps k preactivations of an activation, exactly or on average.

    Args:
        d_in: Dimension of the activations, D.
        width: Number of features, N.
        k: Active features per token.
        seed: Seed of the initial weights.
    """

    settings: ClassVar[tuple[str, ...]] = ("k",)
    selects = True

    def __init__(self, d_in: int, width: int, *, k: int, seed: int = 0) -> None:
        super().__init__(d_in, width, seed=seed)
        self.k = k

    def revival(self, pre_BN: Tensor, dead_M: Tensor, left_BD: Tensor) -> Tensor:
        """AuxK (Gao et al. 2024, appendix A.2): how badly the dead features explain what the others leave.

        The D/2 of them with the largest preactivations reconstruct left_BD, from which b_dec is already subtracted.
        Only those that train densely come here; `gradients.py` has the same by hand.
        """
        coefs_BM, k = pre_BN[:, dead_M].relu(), max(1, left_BD.shape[1] // 2)
        if k < len(dead_M):
            best = coefs_BM.topk(k, dim=1, sorted=False)
            coefs_BM = torch.zeros_like(coefs_BM).scatter(1, best.indices, best.values)
        return (coefs_BM @ self.W_dec[dead_M] - left_BD).square().sum(dim=1).mean()
