"""Train with an SAE architecture of your own: python examples/own_architecture.py"""

import numpy as np
import torch
from torch import Tensor

import sae_core as sc


class SoftThreshold(sc.SAE):
    """What exceeds a bound counts, less the bound; an L1 penalty keeps the codes sparse."""

    architecture = "soft_threshold"
    settings = ("sparsity", "bound")
    own_settings = {"bound": ("Size", 0.1, "What a preactivation has to exceed.")}

    def __init__(self, d_in: int, width: int, *, bound: float = 0.1, seed: int = 0) -> None:
        super().__init__(d_in, width, seed=seed)
        self.bound = bound

    def activate(self, pre_BN: Tensor) -> Tensor:
        """Positive part of what is above the bound."""
        return (pre_BN - self.bound).relu()

    def penalty(self, pre_BN: Tensor, coefs_BN: Tensor) -> Tensor:
        """Mean over rows of the sum of coefficients."""
        return coefs_BN.sum(dim=1).mean()

    def fold_input_scale(self, scale: float) -> None:
        """Training scales the activations; the finished SAE works on them as they are."""
        super().fold_input_scale(scale)
        self.bound /= scale


if __name__ == "__main__":
    acts = torch.from_numpy(np.random.default_rng(0).laplace(size=(5000, 16)).astype(np.float32))
    options = {"architecture": SoftThreshold, "width": 64, "members": 2, "sparsity": 0.3, "tokens": 40_000}
    print(sc.evaluate(sc.train(acts[:4000], bound=0.2, batch_size=200, **options), acts[4000:]))
