"""Matryoshka BatchTopK: nested dictionaries, each reconstructing by itself (Bussmann et al. 2025, 2503.17547)."""

from __future__ import annotations

from torch import Tensor

from sae_core.sae.base import Kernel
from sae_core.sae.batch_topk import BatchTopKSAE


class MatryoshkaSAE(BatchTopKSAE):
    """BatchTopK whose first features alone have to reconstruct, too, so that general ones come first.

    The squared errors of all nested dictionaries are added up. A trained one encodes as BatchTopK does, with one
    threshold, and is saved as that.

    Args:
        d_in: Dimension of the activations, D.
        width: Number of features, N.
        k: Active features per token, on average, of all N.
        levels: Nested dictionaries, the whole one included; see `nested_widths`.
        seed: Seed of the initial weights.
    """

    architecture = "matryoshka"
    brief = "nested batchtopk"
    settings = ("k", "levels")
    own_settings = {
        "levels": (
            "Positive",
            5,
            "Nested dictionaries of a matryoshka SAE, each about twice as wide as the last (Bussmann et al. 2025).",
        )
    }
    kernel = Kernel.TOP_OF_BATCH
    saved_as = "jumprelu"

    def __init__(self, d_in: int, width: int, *, k: int, levels: int = 5, seed: int = 0) -> None:
        super().__init__(d_in, width, k=k, seed=seed)
        self.levels = levels

    def loss(self, x_BD: Tensor, coefs_BN: Tensor, squared_error: Tensor) -> Tensor:
        """The squared errors of all nested dictionaries."""
        total, first = super().loss(x_BD, coefs_BN, squared_error), 0
        recon_BD: Tensor = self.b_dec
        for width in nested_widths(self.width, self.levels)[:-1]:
            recon_BD = recon_BD + coefs_BN[:, first:width] @ self.W_dec[first:width]
            total = total + (recon_BD - x_BD).square().sum() / len(x_BD)
            first = width
        return total


def nested_widths(width: int, levels: int) -> tuple[int, ...]:
    """Features of each nested dictionary, ascending; the last has all of them.

    With five levels 1/32, 3/32, 7/32, 15/32 and 1 of the width, as in the paper. Levels that would have no feature are
    left out.
    """
    least = width >> levels
    halved = {(width >> times) - least for times in range(1, min(levels, width.bit_length()))}
    return (*sorted(halved - {0}), width)
