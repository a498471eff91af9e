"""What an SAE and an ensemble have in common, so that the members of an ensemble may be either."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor, nn

from sae_core.sae.sparse_code import SparseCode


class Coder(Protocol):
    """Sparse coefficients c of activations, and a reconstruction c·dictionary + b_dec."""

    @property
    def d_in(self) -> int:
        """Dimension of the activations, D."""

    @property
    def width(self) -> int:
        """Number of features, N."""

    @property
    def dictionary(self) -> Tensor:
        """The atoms [N, D]."""

    @property
    def b_dec(self) -> Tensor:
        """What is reconstructed where no feature fires, shape [D]."""

    def encode(self, acts_BD: Tensor) -> Tensor:
        """Coefficients [B, N] of activations [B, D]."""

    def decode(self, coefs_BN: Tensor) -> Tensor:
        """Reconstruction [B, D] from coefficients [B, N]."""

    def encode_sparse(self, acts_BD: Tensor) -> SparseCode:
        """The same coefficients as `encode` gives, as a list of entries."""

    def decode_sparse(self, code: SparseCode) -> Tensor:
        """Reconstruction [B, D] from a sparse code."""

    def __call__(self, acts_BD: Tensor) -> Tensor:
        """Reconstruction [B, D] of activations [B, D]."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights, in a fixed order."""
