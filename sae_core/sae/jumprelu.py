"""JumpReLU with an L0 penalty and straight-through gradients for the thresholds (Rajamanoharan et al. 2024)."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from sae_core.foundation.settings.run_settings import SAESettings
from sae_core.sae.base import SAE, Kernel


class JumpReLUSAE(SAE):
    """c = pre where pre > θ, else 0, with a learnt threshold θ per feature; penalty ‖c‖₀.

    θ is kept raw and in float32: in half precision, or in log space under Adam, it hardly moves.

    Args:
        d_in: Dimension of the activations, D.
        width: Number of features, N.
        threshold: θ before training.
        bandwidth: Width ε of the rectangular kernel that estimates the gradients with respect to θ.
        seed: Seed of the initial weights.
    """

    architecture = saelens = "jumprelu"
    brief = "with an L0 penalty"
    settings = ("sparsity", "bandwidth", "initial_threshold")
    own_settings = {
        "bandwidth": (
            "Size",
            0.03,
            "Width of JumpReLU's straight-through kernel, on scaled activations (Rajamanoharan et al. 2024).",
        ),
        "initial_threshold": ("Size", 0.05, "JumpReLU's threshold before training, on scaled activations."),
    }
    kernel = Kernel.ABOVE_THRESHOLD

    def __init__(
        self, d_in: int, width: int, *, threshold: float = 0.05, bandwidth: float = 0.03, seed: int = 0
    ) -> None:
        super().__init__(d_in, width, seed=seed)
        self.threshold = nn.Parameter(torch.full((width,), threshold))
        self.bandwidth = bandwidth

    @classmethod
    def from_settings(cls, settings: SAESettings, d_in: int, width: int, seed: int) -> Self:
        """A JumpReLU SAE with the threshold and bandwidth of the settings."""
        own: Any = settings  # its own settings are declared above
        return cls(d_in, width, threshold=own.initial_threshold, bandwidth=own.bandwidth, seed=seed)

    def activate(self, pre_BN: Tensor) -> Tensor:
        """Preactivations above their threshold [B, N]."""
        coefs_BN: Tensor = _JumpReLU.apply(pre_BN, self.threshold, self.bandwidth)
        return coefs_BN

    def penalty(self, pre_BN: Tensor, coefs_BN: Tensor) -> Tensor:
        """Mean L0 per token, differentiable in θ."""
        steps_BN: Tensor = _Step.apply(pre_BN, self.threshold, self.bandwidth)
        return steps_BN.sum(dim=1).mean()

    def thresholds(self, features_M: Tensor) -> Tensor:
        """θ of features, shape [M]."""
        return self.threshold[features_M]

    @torch.no_grad()
    def open_above(self, level: float) -> None:
        """By the thresholds."""
        self.threshold.fill_(level)

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        """Biases, thresholds and the bandwidth scale together."""
        super().fold_input_scale(scale)
        self.threshold.div_(scale)
        self.bandwidth /= scale


class _JumpReLU(torch.autograd.Function):
    """z·H(z − θ), with ∂/∂θ ≈ −(θ/ε)·rect((z − θ)/ε) (equation 11)."""

    @staticmethod
    def forward(ctx: Any, pre_BN: Tensor, threshold_N: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_BN, threshold_N)
        ctx.bandwidth = bandwidth
        return pre_BN * _open(pre_BN, threshold_N)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None]:
        (grad_BN,) = gradients
        pre_BN, threshold_N = ctx.saved_tensors
        near_BN = ((pre_BN - threshold_N).abs() < ctx.bandwidth / 2).to(pre_BN.dtype)
        grad_threshold_N = (-(threshold_N / ctx.bandwidth) * near_BN * grad_BN).sum(dim=0)
        return grad_BN * _open(pre_BN, threshold_N), grad_threshold_N, None


class _Step(torch.autograd.Function):
    """H(z − θ), with ∂/∂θ ≈ −(1/ε)·rect((z − θ)/ε) and no gradient for z (equation 12)."""

    @staticmethod
    def forward(ctx: Any, pre_BN: Tensor, threshold_N: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_BN, threshold_N)
        ctx.bandwidth = bandwidth
        return _open(pre_BN, threshold_N).to(pre_BN.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, Tensor, None]:
        (grad_BN,) = gradients
        pre_BN, threshold_N = ctx.saved_tensors
        near_BN = ((pre_BN - threshold_N).abs() < ctx.bandwidth / 2).to(pre_BN.dtype)
        return None, (-(1.0 / ctx.bandwidth) * near_BN * grad_BN).sum(dim=0), None


def _open(pre_BN: Tensor, threshold_N: Tensor) -> Tensor:
    # Coefficients stay non-negative even where a threshold has drifted below zero.
    return (pre_BN > threshold_N) & (pre_BN > 0)
