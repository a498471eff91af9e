"""ReLU with an L1 penalty, the original SAE (Bricken et al. 2023, Cunningham et al. 2023)."""

from __future__ import annotations

from torch import Tensor

from sae_core.sae.base import SAE, Kernel


class ReLUSAE(SAE):
    """c = max(pre, 0); penalty ‖c‖₁."""

    architecture = "relu"
    brief = "with an L1 penalty"
    settings = ("sparsity",)
    kernel = Kernel.POSITIVE
    saelens = "standard"

    def activate(self, pre_BN: Tensor) -> Tensor:
        """Positive preactivations [B, N]."""
        return pre_BN.relu()

    def penalty(self, pre_BN: Tensor, coefs_BN: Tensor) -> Tensor:
        """Mean over tokens of Σ|c|·‖atom‖; the norm keeps the penalty from being escaped by growing atoms."""
        penalty: Tensor = (coefs_BN @ self.W_dec.norm(dim=1)).mean()
        return penalty
