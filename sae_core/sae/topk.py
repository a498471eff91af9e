"""TopK: the k largest preactivations of each token (Gao et al. 2024, *Scaling and evaluating sparse autoencoders*)."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor

from sae_core.foundation.settings.sections import SAESettings
from sae_core.sae.base import SAE
from sae_core.sae.sparse_code import SparseCode, largest


class TopKSAE(SAE):
    """c keeps the k largest preactivations of a token, if they are positive.

    Args:
        d_in: Dimension of the activations, D.
        width: Number of features, N.
        k: Active features per token.
        seed: Seed of the initial weights.
    """

    architecture = kernel = saelens = "topk"
    selects = True

    def __init__(self, d_in: int, width: int, *, k: int, seed: int = 0) -> None:
        super().__init__(d_in, width, seed=seed)
        self.k = k

    @classmethod
    def from_settings(cls, settings: SAESettings, d_in: int, width: int, seed: int) -> Self:
        """A TopK SAE with ``settings.k``."""
        return cls(d_in, width, k=settings.k, seed=seed)

    @property
    def options(self) -> dict[str, Any]:
        """The number of active features, k."""
        return {"k": self.k}

    def select(self, pre_BN: Tensor) -> tuple[Tensor, Tensor]:
        """(coefficients [B, K], feature numbers [B, K]); those that are not positive become 0."""
        coefs_BK, features_BK = largest(pre_BN, self.k)
        return coefs_BK.relu(), features_BK

    def sparse_code(self, pre_BN: Tensor) -> SparseCode:
        """The k largest preactivations of each row as entries."""
        return SparseCode.from_top(*self.select(pre_BN), self.width)

    def activate(self, pre_BN: Tensor) -> Tensor:
        """The k largest preactivations of each row, the rest 0; shape [B, N]."""
        # Not by `sparse_code`, which in a subclass that overrides this method comes back here.
        return SparseCode.from_top(*self.select(pre_BN), self.width).dense()
