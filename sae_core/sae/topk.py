"""TopK: the k largest preactivations of each token (Gao et al. 2024, *Scaling and evaluating sparse autoencoders*)."""

from __future__ import annotations

from torch import Tensor

from sae_core.sae.base import Kernel
from sae_core.sae.fixed_l0 import FixedL0SAE
from sae_core.sae.sparse_code import SparseCode, largest


class TopKSAE(FixedL0SAE):
    """c keeps the k largest preactivations of a token, if they are positive."""

    architecture = saelens = "topk"
    kernel = Kernel.TOP_OF_ROW
    selects = True

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

    def match_activity(self, acts_BD: Tensor, active: int) -> None:
        """Nothing to do: k coefficients are active whatever the atoms."""
