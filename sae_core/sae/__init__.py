"""Sparse autoencoders, one file per architecture; a file that is added here is all that a new one needs."""

from __future__ import annotations

import importlib
import pkgutil

from sae_core.foundation.settings.run_settings import SAESettings
from sae_core.sae.base import ARCHITECTURES, SAE, Kernel

for _found in pkgutil.iter_modules(__path__):
    if not _found.ispkg:
        importlib.import_module(f"{__name__}.{_found.name}")


def make_sae(settings: SAESettings, d_in: int, *, width: int | None = None, seed: int = 0) -> SAE:
    """A fresh SAE from settings.

    Args:
        settings: Architecture and its options.
        d_in: Dimension of the activations, D.
        width: Number of features, N; ``settings.width`` if not given.
        seed: Seed of the initial weights; the same seed gives the same weights on every device.
    """
    return ARCHITECTURES[settings.architecture].from_settings(settings, d_in, width or settings.width, seed)


def __getattr__(name: str) -> type[SAE]:
    """The classes of the architectures, such as ``TopKSAE``."""
    for kind in ARCHITECTURES.values():
        if kind.__name__ == name:
            return kind
    raise AttributeError(f"module {__name__} has no attribute {name}")


__all__ = ["ARCHITECTURES", "SAE", "Kernel", "make_sae"]
