"""Sparse autoencoders, one file per architecture."""

from __future__ import annotations

from sae_core.foundation.settings.sections import Architecture, SAESettings
from sae_core.sae.base import SAE
from sae_core.sae.batch_topk import BatchTopKSAE
from sae_core.sae.jumprelu import JumpReLUSAE
from sae_core.sae.relu import ReLUSAE
from sae_core.sae.topk import TopKSAE

ARCHITECTURES: dict[Architecture, type[SAE]] = {
    "relu": ReLUSAE,
    "topk": TopKSAE,
    "batchtopk": BatchTopKSAE,
    "jumprelu": JumpReLUSAE,
}


def make_sae(settings: SAESettings, d_in: int, *, width: int | None = None, seed: int = 0) -> SAE:
    """A fresh SAE from settings.

    Args:
        settings: Architecture and its options.
        d_in: Dimension of the activations, D.
        width: Number of features, N; ``settings.width`` if not given.
        seed: Seed of the initial weights; the same seed gives the same weights on every device.
    """
    return ARCHITECTURES[settings.architecture].from_settings(settings, d_in, width or settings.width, seed)


__all__ = ["ARCHITECTURES", "SAE", "BatchTopKSAE", "JumpReLUSAE", "ReLUSAE", "TopKSAE", "make_sae"]
