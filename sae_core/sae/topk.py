"""TopK: the k largest preactivations of each token (Gao et al. 2024, *Scaling and evaluating sparse autoencoders*)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from sae_core.config import SAESettings
from sae_core.sae.base import SAE


class TopKSAE(SAE):
    """c keeps the k largest preactivations of a token, if they are positive.

    Args:
        d_in: Dimension of the activations, D.
        width: Number of features, N.
        k: Active features per token.
        seed: Seed of the initial weights.
    """

    architecture = "topk"

    def __init__(self, d_in: int, width: int, *, k: int, seed: int = 0) -> None:
        super().__init__(d_in, width, seed=seed)
        self.k = k

    @classmethod
    def from_settings(cls, settings: SAESettings, d_in: int, width: int, seed: int) -> Self:
        """A TopK SAE with ``settings.k``."""
        return cls(d_in, width, k=settings.k, seed=seed)

    def select(self, pre_BN: Tensor) -> tuple[Tensor, Tensor]:
        """(coefficients [B, K], feature numbers [B, K]): the sparse code; training decodes it without going dense."""
        coefs_BK, features_BK = pre_BN.topk(min(self.k, self.width), dim=1, sorted=False)
        return coefs_BK.relu(), features_BK

    def activate(self, pre_BN: Tensor) -> Tensor:
        """The k largest preactivations of each row, the rest 0; shape [B, N]."""
        coefs_BK, features_BK = self.select(pre_BN)
        return torch.zeros_like(pre_BN).scatter(1, features_BK, coefs_BK)
