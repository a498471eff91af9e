"""What every sparse autoencoder shares: parameters, initialisation, encoding and decoding.

Shapes: B activations, D their dimension, N features. Weights are stored as SAELens stores them: W_enc [D, N],
W_dec [N, D], so that row i of W_dec is the atom of feature i.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.bounds import LARGEST_SEED
from sae_core.foundation.settings.sections import Architecture, SAESettings
from sae_core.sae.sparse_code import SparseCode

_MATHEMATICS = (
    *("pre_activations", "activate", "sparse_code", "encode", "decode", "encode_sparse", "decode_sparse", "forward"),
    *("penalty", "revival", "thresholds"),
)
"""What the gradients that are written by hand know of an SAE."""


class SAE(nn.Module):
    """A sparse autoencoder g(a) = c·W_dec + b_dec with c = activate((a − b_dec)·W_enc + b_enc).

    A subclass overrides `activate` (how preactivations become sparse coefficients) and, if it has one, `penalty`. One
    whose coefficients are a fixed number of chosen preactivations also overrides `sparse_code` and declares `selects`:
    it is trained and run through sparse codes.
    """

    architecture: ClassVar[Architecture]
    selects: ClassVar[bool] = False
    """Whether coefficients are a fixed number of chosen preactivations, so that training uses `sparse_code`, gradients
    written by hand and AuxK, not `penalty`. A subclass that overrides how it encodes or decodes has to say it again."""
    kernel: ClassVar[Architecture | None] = None
    """The compiled code that computes what this very class does; none unless the class itself declares it. A subclass
    does not inherit it, as it may compute something else: one that does not declares it again."""
    saelens: ClassVar[str | None] = None
    """The architecture of SAELens that is this very class; a subclass does not inherit it either."""

    def __init_subclass__(cls, **given: Any) -> None:
        """Take back what a subclass no longer is by what it overrides, so that all ways to encode stay the same."""
        super().__init_subclass__(**given)
        own = cls.__dict__
        if not own.keys().isdisjoint(_MATHEMATICS) and "selects" not in own:
            cls.selects = False
        for dense, sparse in (("activate", "sparse_code"), ("encode", "encode_sparse"), ("decode", "decode_sparse")):
            if dense in own and sparse not in own:
                setattr(cls, sparse, getattr(_ThroughDense, sparse))
        for name in ("kernel", "saelens"):
            if name not in own:
                setattr(cls, name, None)

    def __init__(self, d_in: int, width: int, *, seed: int = 0) -> None:
        super().__init__()
        if not 0 <= seed <= LARGEST_SEED:  # torch's generator would keep the low 32 bits without a word
            raise UserError(f"The seed of an SAE is {seed}; it must lie between 0 and {LARGEST_SEED}.")
        # Drawn on the CPU in float32 whatever the device, so that a seed means the same weights everywhere.
        generator = torch.Generator().manual_seed(seed)
        W_dec_ND = torch.randn(width, d_in, generator=generator)
        W_dec_ND /= W_dec_ND.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(W_dec_ND)
        # The encoder starts as the decoder's transpose: few features die (Gao et al. 2024, section 2.4).
        # W_enc is [D, N] but lies in memory feature by feature, as its sparse gradient does.
        self.W_enc = nn.Parameter(W_dec_ND.clone().T)
        self.b_enc = nn.Parameter(torch.zeros(width))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @classmethod
    def from_settings(cls, settings: SAESettings, d_in: int, width: int, seed: int) -> Self:
        """An SAE with the options that its architecture reads from the settings."""
        return cls(d_in, width, seed=seed)

    @property
    def options(self) -> dict[str, Any]:
        """What the constructor takes beside dimension, width and seed, and a saved SAE is made again with."""
        return {}

    @property
    def d_in(self) -> int:
        """Dimension of the activations, D."""
        return self.W_dec.shape[1]

    @property
    def width(self) -> int:
        """Number of features, N."""
        return self.W_dec.shape[0]

    @property
    def dictionary(self) -> Tensor:
        """The atoms [N, D]."""
        return self.W_dec

    def pre_activations(self, acts_BD: Tensor) -> Tensor:
        """(a − b_dec)·W_enc + b_enc, shape [B, N]."""
        # b_dec is folded into the bias, which spares a [B, D] copy.
        return torch.addmm(self.b_enc - self.b_dec @ self.W_enc, acts_BD, self.W_enc)

    def activate(self, pre_BN: Tensor) -> Tensor:
        """Sparse, non-negative coefficients [B, N] from preactivations [B, N]."""
        raise NotImplementedError

    def sparse_code(self, pre_BN: Tensor) -> SparseCode:
        """The code of preactivations [B, N] as a list of entries."""
        return SparseCode.from_dense(self.activate(pre_BN))

    def encode(self, acts_BD: Tensor) -> Tensor:
        """Coefficients [B, N] of activations [B, D]."""
        return self.activate(self.pre_activations(acts_BD))

    def decode(self, coefs_BN: Tensor) -> Tensor:
        """Reconstruction [B, D] from coefficients [B, N]."""
        return coefs_BN @ self.W_dec + self.b_dec

    def encode_sparse(self, acts_BD: Tensor) -> SparseCode:
        """The same coefficients as `encode` gives, as a list of entries."""
        return self.sparse_code(self.pre_activations(acts_BD))

    def decode_sparse(self, code: SparseCode) -> Tensor:
        """Reconstruction [B, D] from a sparse code."""
        return code.weighted_sum(self.W_dec) + self.b_dec

    def forward(self, acts_BD: Tensor) -> Tensor:
        """Reconstruction [B, D] of activations [B, D]."""
        if self.selects:
            return self.decode_sparse(self.encode_sparse(acts_BD))
        return self.decode(self.encode(acts_BD))

    def penalty(self, pre_BN: Tensor, coefs_BN: Tensor) -> Tensor:
        """The sparsity penalty before its weight, averaged over tokens; 0 where the code is sparse by construction."""
        return pre_BN.new_zeros(())

    def revival(self, pre_BN: Tensor, dead_M: Tensor) -> Tensor:
        """How far dead features are below their threshold, summed over them, averaged over tokens.

        The pre-activation loss of Conerly et al. (2025), AuxK's equivalent where a dead feature has no coefficient to
        learn from.
        """
        return (self.thresholds(dead_M) - pre_BN[:, dead_M]).relu().sum(dim=1).mean()

    def thresholds(self, features_M: Tensor) -> Tensor:
        """The preactivations [M] above which features are active."""
        return self.b_enc.new_zeros(len(features_M))

    @torch.no_grad()
    def normalize_atoms(self) -> None:
        """Scale every atom to unit norm."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def fold_input_scale(self, scale: float) -> None:
        """Make an SAE trained on ``scale·a`` work on ``a``.

        All activation functions here are positively homogeneous once their thresholds scale too, so only biases (and
        thresholds) change and the atoms keep unit norm: g(a) = g'(scale·a)/scale.
        """
        self.b_enc.div_(scale)
        self.b_dec.div_(scale)


class _ThroughDense:
    """Sparse ways that follow the dense ones; what a subclass gets that overrides only these."""

    def sparse_code(self: Any, pre_BN: Tensor) -> SparseCode:
        """The code of preactivations [B, N] as a list of entries."""
        return SparseCode.from_dense(self.activate(pre_BN))

    def encode_sparse(self: Any, acts_BD: Tensor) -> SparseCode:
        """The same coefficients as `encode` gives, as a list of entries."""
        return SparseCode.from_dense(self.encode(acts_BD))

    def decode_sparse(self: Any, code: SparseCode) -> Tensor:
        """Reconstruction [B, D] from a sparse code."""
        decoded: Tensor = self.decode(code.dense())
        return decoded
