"""What every sparse autoencoder shares: parameters, initialisation, encoding and decoding.

Shapes: B activations, D their dimension, N features. Weights are stored as SAELens stores them: W_enc [D, N],
W_dec [N, D], so that row i of W_dec is the atom of feature i.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.architectures import DECLARED, Declared
from sae_core.foundation.settings.bounds import LARGEST_SEED
from sae_core.foundation.settings.run_settings import SAESettings
from sae_core.sae.sparse_code import SparseCode

ARCHITECTURES: dict[str, type[SAE]] = {}
"""The class of each architecture, by name. A class that gives itself a name is added when it is defined."""

_MATHEMATICS = (
    *("pre_activations", "activate", "sparse_code", "encode", "decode", "encode_sparse", "decode_sparse", "forward"),
    *("loss", "penalty", "revival", "thresholds"),
)
"""What the gradients that are written by hand know of an SAE."""


class Kernel(Enum):
    """What compiled code can compute: codes and, unless the class has a `loss` of another kind, training steps."""

    TOP_OF_ROW = "the k largest preactivations of each activation; reads k"
    TOP_OF_BATCH = "those of the whole batch in training, later those above a threshold; reads k and threshold"
    ABOVE_THRESHOLD = "preactivations above a learnt threshold, and an L0 penalty; reads threshold and bandwidth"
    POSITIVE = "positive preactivations, and an L1 penalty"


class WholeBatch(Protocol):
    """The batch of which others have the other rows, in training by several processes."""

    batch_size: int
    place: int
    """Which of the R parts of the batch this one is, from 0."""

    def gather(self, values_K: Tensor) -> Tensor:
        """Values [R, K] of all parts, from those of each; all give equally many."""


class SAE(nn.Module):
    """A sparse autoencoder g(a) = c·W_dec + b_dec with c = activate((a − b_dec)·W_enc + b_enc).

    A subclass is an architecture. It declares what is special about it in the class attributes below and overrides
    `activate` (how preactivations become sparse coefficients), and `penalty`, `revival` or `loss` where it has others.
    One whose coefficients are a fixed number of chosen preactivations also overrides `sparse_code` and declares
    `selects`: it is trained and run through sparse codes. Nothing outside this room knows an architecture by its name.

    The first four attributes have to be literals: settings read them from the file, without importing it.
    """

    architecture: ClassVar[str]
    """The name in settings and files."""
    brief: ClassVar[str] = ""
    """A few words for a list of architectures."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Settings that it reads and not all do. The constructor is given those that it takes; what the SAE keeps of them,
    in attributes of the same names, is saved with it. One that reads ``k`` has a fixed L0, exactly or on average."""
    own_settings: ClassVar[Mapping[str, tuple[str, Any, str]]] = {}
    """Those of them that no other architecture has: kind (of `settings.bounds`), default, what it is."""
    selects: ClassVar[bool] = False
    """Whether coefficients are a fixed number of chosen preactivations, so that training uses `sparse_code`, gradients
    written by hand and AuxK, not `penalty`. A subclass that overrides how it encodes or decodes has to say it again."""
    shares_batch: ClassVar[bool] = False
    """Whether what is active in training depends on the whole batch, so that its parts have to hear of each other: by
    `candidates` and `others`."""
    kernel: ClassVar[Kernel | None] = None
    """The compiled code that computes what this very class does; none unless the class itself declares it. A subclass
    does not inherit it, as it may compute something else: one that does not declares it again."""
    saelens: ClassVar[str | None] = None
    """The architecture of SAELens that is this very class; a subclass does not inherit it either."""
    saved_as: ClassVar[str | None] = None
    """What a trained one is to SAELens, where that is another class; not inherited."""

    biased: bool = True
    """Whether b_dec is learnt; else it stays 0."""
    k: int
    """Active features of an activation, where that is fixed."""
    threshold: Tensor
    """What preactivations have to exceed, one for all features or one each, where there is such a thing."""
    bandwidth: float
    """Width of the kernel that estimates the gradients of learnt thresholds."""
    others: WholeBatch | None = None
    """Where others have rows of the batch too, so that what is kept must be chosen among all."""

    def __init_subclass__(cls, **given: Any) -> None:
        """Take back what a subclass no longer is by what it overrides, and add it to the architectures.

        Raises:
            UserError: If another class has its name.
        """
        super().__init_subclass__(**given)
        own = cls.__dict__
        if not own.keys().isdisjoint(_MATHEMATICS) and "selects" not in own:
            cls.selects = False
        for dense, sparse in (("activate", "sparse_code"), ("encode", "encode_sparse"), ("decode", "decode_sparse")):
            if dense in own and sparse not in own:
                setattr(cls, sparse, getattr(_ThroughDense, sparse))
        for name in ("kernel", "saelens", "saved_as"):
            if name not in own:
                setattr(cls, name, None)
        if "architecture" in own:
            taken = ARCHITECTURES.setdefault(cls.architecture, cls)
            if (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
                raise UserError(
                    f"The architecture {cls.architecture} is {taken.__name__}; rename that of {cls.__name__}."
                )
            ARCHITECTURES[cls.architecture] = cls  # defined anew, as in a notebook
            DECLARED[cls.architecture] = Declared(cls.brief, cls.settings, cls.own_settings)

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
        taken = inspect.signature(cls).parameters
        options = {name: getattr(settings, name) for name in cls.settings if name in taken}
        return cls(d_in, width, seed=seed, **options)

    @classmethod
    def has_compiled_step(cls) -> bool:
        """Whether compiled code computes its training steps, too."""
        return cls.kernel is not None and cls.loss is SAE.loss

    @property
    def options(self) -> dict[str, Any]:
        """What the constructor takes beside dimension, width and seed, and a saved SAE is made again with."""
        return {name: getattr(self, name) for name in self.settings if hasattr(self, name)}

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

    def loss(self, x_BD: Tensor, coefs_BN: Tensor, squared_error: Tensor) -> Tensor:
        """What training lowers, beside penalty and help for dead features; averaged over tokens.

        Args:
            x_BD: What is to be reconstructed.
            coefs_BN: The coefficients.
            squared_error: Σ ‖x − g(x)‖² over the tokens.
        """
        return squared_error / len(x_BD)

    def penalty(self, pre_BN: Tensor, coefs_BN: Tensor) -> Tensor:
        """The sparsity penalty before its weight, averaged over tokens; 0 where the code is sparse by construction."""
        return pre_BN.new_zeros(())

    def revival(self, pre_BN: Tensor, dead_M: Tensor, left_BD: Tensor) -> Tensor:
        """How far dead features are below their threshold, summed over them, averaged over tokens.

        The pre-activation loss of Conerly et al. (2025), AuxK's equivalent where a dead feature has no coefficient to
        learn from.

        Args:
            pre_BN: Preactivations.
            dead_M: Numbers of the dead features.
            left_BD: x − g(x), a constant; not needed here.
        """
        return (self.thresholds(dead_M) - pre_BN[:, dead_M]).relu().sum(dim=1).mean()

    def thresholds(self, features_M: Tensor) -> Tensor:
        """The preactivations [M] above which features are active."""
        return self.b_enc.new_zeros(len(features_M))

    def train_for(self, steps: int, others: WholeBatch | None = None) -> None:
        """Get ready for a training of so many steps, in which others may have other rows of every batch."""

    def update_threshold(self, values_K: Tensor) -> None:
        """Learn from the coefficients [K] that a batch kept."""

    def candidates(self, pre_BN: Tensor, rows: int) -> Tensor:
        """What the other parts of a batch of so many rows have to hear of this part's preactivations, a vector."""
        raise NotImplementedError

    @torch.no_grad()
    def match_activity(self, acts_BD: Tensor, active: int) -> None:
        """Let as many coefficients of activations be ≠ 0, or about so many, by one change for all features.

        That is `open_above`; where no more is known of an architecture, the bias of the encoder, found by halving an
        interval, as more bias never takes a coefficient away.
        """
        pre_BN = self.pre_activations(acts_BD)
        if self.kernel is not None:
            self.open_above(float(pre_BN.flatten().topk(active + 1).values[-1].clamp_min(0.0)))
            return
        high = float(pre_BN.abs().max())
        low = -high
        for _ in range(40):
            middle = (low + high) / 2
            self.b_enc.fill_(middle)
            low, high = (low, middle) if int((self.encode(acts_BD) != 0).sum()) > active else (middle, high)
        self.b_enc.fill_(low)

    @torch.no_grad()
    def open_above(self, level: float) -> None:
        """Let every feature be active where its preactivation, as it is now, exceeds a level."""
        self.b_enc.sub_(level)

    def to_saelens(self) -> dict[str, Tensor]:
        """The tensors that are written, as SAELens expects them."""
        return {name: tensor.detach().float() for name, tensor in self.state_dict().items()}

    @staticmethod
    def from_saelens(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of an SAE from what `to_saelens` gave."""
        return dict(tensors)

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
