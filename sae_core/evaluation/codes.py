"""Sparse codes of several ensembles over the same activations, without a dense [tokens, features] code at rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from sae_core.ensemble import Ensemble
from sae_core.sae import SAE, TopKSAE

BLOCK = 2048
"""Activations encoded at a time."""


@dataclass(frozen=True, slots=True)
class SparseCode:
    """The coefficients ≠ 0 of one member for a block of B activations, E of them, token by token.

    Attributes:
        tokens_E: Row in the block.
        features_E: Feature within the member.
        values_E: The member's own coefficient; α is not folded in.
        decoded_BD: The member's own reconstruction, or None if nobody needs it.
    """

    tokens_E: Tensor
    features_E: Tensor
    values_E: Tensor
    decoded_BD: Tensor | None


@torch.no_grad()
def sparse_encode(sae: SAE, acts_BD: Tensor, *, decode: bool = True) -> SparseCode:
    """What ``sae.encode`` and ``sae.decode`` give, as a sparse code."""
    if isinstance(sae, TopKSAE):
        # Reading K atoms a token is some five times cheaper than a product with a dense code that is nearly all zeros.
        coefs_BK, features_BK = sae.select(sae.pre_activations(acts_BD))
        kept_BK = coefs_BK != 0
        tokens_E, _ = kept_BK.nonzero(as_tuple=True)
        decoded_BD = None
        if decode:
            decoded_BD = embedding_bag(features_BK, sae.W_dec, per_sample_weights=coefs_BK, mode="sum") + sae.b_dec
        return SparseCode(tokens_E, features_BK[kept_BK], coefs_BK[kept_BK], decoded_BD)
    coefs_BN = sae.encode(acts_BD)
    tokens_E, features_E = coefs_BN.nonzero(as_tuple=True)
    return SparseCode(tokens_E, features_E, coefs_BN[tokens_E, features_E], sae.decode(coefs_BN) if decode else None)


class Encoders:
    """Ensembles that read the same activations; a member that several of them share encodes only once.

    The single SAE, the first bagged member and the first boosted stage usually are one and the same SAE.

    Args:
        ensembles: The ensembles by name, all on one device.
    """

    def __init__(self, ensembles: Mapping[str, Ensemble]) -> None:
        self.ensembles = dict(ensembles)
        distinct: list[SAE] = []
        uses: Counter[int] = Counter()
        self._same_as: dict[int, int] = {}
        for ensemble in self.ensembles.values():
            for member in ensemble:
                twin = next((other for other in distinct if other is member or _same(other, member)), None)
                if twin is None:
                    distinct.append(member)
                key = id(member if twin is None else twin)
                self._same_as[id(member)] = key
                uses[key] += 1
        self._shared = {key for key, count in uses.items() if count > 1}

    def codes(self, acts_BD: Tensor, *, decode: bool) -> Iterator[tuple[str, Iterator[SparseCode]]]:
        """For each ensemble: (name, the codes of its members in order). Read each iterator before the next one.

        Args:
            acts_BD: A block of activations.
            decode: Whether reconstructions are needed. The residual wiring decodes what it needs in any case.
        """
        known: dict[int, SparseCode] = {}
        for name, ensemble in self.ensembles.items():
            yield name, self._member_codes(ensemble, acts_BD, decode, known)

    def _member_codes(
        self, ensemble: Ensemble, acts_BD: Tensor, decode: bool, known: dict[int, SparseCode]
    ) -> Iterator[SparseCode]:
        input_BD = acts_BD
        residual = ensemble.wiring == "residual"
        for number, (weight, member) in enumerate(zip(ensemble.weights, ensemble, strict=True)):
            feeds_next = residual and number + 1 < len(ensemble)
            key = self._same_as[id(member)]
            sharable = key in self._shared and (number == 0 or not residual)
            code = known.get(key) if sharable else None
            if code is None or ((decode or feeds_next) and code.decoded_BD is None):
                code = sparse_encode(member, input_BD, decode=decode or feeds_next or sharable)
            if sharable:
                known[key] = code
            if feeds_next and code.decoded_BD is not None:
                input_BD = input_BD - weight * code.decoded_BD
            yield code


def _same(one: SAE, other: SAE) -> bool:
    """Whether two SAEs compute the same."""
    if type(one) is not type(other) or one.W_dec.shape != other.W_dec.shape:
        return False
    if getattr(one, "k", None) != getattr(other, "k", None) or not torch.equal(one.W_dec[0], other.W_dec[0]):
        return False
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())
