"""GroupMax: the largest preactivation of each of k groups of features (sparsify, EleutherAI)."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_core.sae.topk import TopKSAE


class GroupMaxSAE(TopKSAE):
    """c keeps the largest preactivation of each of k groups of neighbouring features, if it is positive.

    Where the features do not fall into k groups of one size, the last groups have fewer.
    """

    architecture = "groupmax"
    brief = "the largest of each of k groups"
    selects = True

    def select(self, pre_BN: Tensor) -> tuple[Tensor, Tensor]:
        """(coefficients [B, K], feature numbers [B, K]); those that are not positive become 0."""
        size = -(-self.width // self.k)
        padded_BN = torch.nn.functional.pad(pre_BN, (0, size * self.k - self.width), value=-torch.inf)
        coefs_BK, within_BK = padded_BN.unflatten(1, (self.k, size)).max(dim=2)
        features_BK = within_BK + size * torch.arange(self.k, device=pre_BN.device)
        return coefs_BK.relu(), features_BK.clamp_max(self.width - 1)
