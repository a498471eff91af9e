"""Sparse codes of several ensembles over the same activations, without a dense [tokens, features] code at rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_core.ensembles.ensemble import Ensemble
from sae_core.sae import SAE
from sae_core.sae.sparse_code import SparseCode
from sae_core.training.kernels.frozen import FrozenEncoder

BLOCK = 2048
"""Activations encoded at a time."""


DENSE_SHARE = 1 / 16
"""A code with more entries than this share of all is decoded faster as a dense product."""


@dataclass(frozen=True, slots=True)
class MemberCode:
    """One member's own code of a block of B activations; α is not folded in.

    Attributes:
        code: The coefficients; entries may be 0.
        decoded_BD: The member's own reconstruction, or None if nobody needs it.
    """

    code: SparseCode
    decoded_BD: Tensor | None

    def firing(self) -> tuple[Tensor, Tensor]:
        """(tokens, features) of the coefficients ≠ 0."""
        fires_E = self.code.values_E != 0
        return self.code.rows_E[fires_E], self.code.features_E[fires_E]


@torch.no_grad()
def member_code(sae: SAE, acts_BD: Tensor, *, encode: FrozenEncoder | None = None, decode: bool = True) -> MemberCode:
    """Encode, and decode if it is wanted, without a dense code where the code is sparse."""
    code = (encode or FrozenEncoder())(sae, acts_BD)
    if not decode:
        return MemberCode(code, None)
    batch, width = code.shape
    dense = len(code.values_E) > DENSE_SHARE * batch * width
    return MemberCode(code, sae.decode(code.dense()) if dense else sae.decode_sparse(code))


class Encoders:
    """Ensembles that read the same activations; a member that several of them share encodes only once.

    The single SAE, the first bagged member and the first boosted stage usually are one and the same SAE.

    Args:
        ensembles: The ensembles by name, all on one device.
    """

    def __init__(self, ensembles: Mapping[str, Ensemble]) -> None:
        self.ensembles = dict(ensembles)
        self._encode = FrozenEncoder()
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

    def codes(self, acts_BD: Tensor, *, decode: bool) -> Iterator[tuple[str, Iterator[MemberCode]]]:
        """For each ensemble: (name, the codes of its members in order). Read each iterator before the next one.

        Args:
            acts_BD: A block of activations.
            decode: Whether reconstructions are needed. The residual wiring decodes what it needs in any case.
        """
        known: dict[int, MemberCode] = {}
        for name, ensemble in self.ensembles.items():
            yield name, self._member_codes(ensemble, acts_BD, decode, known)

    def _member_codes(
        self, ensemble: Ensemble, acts_BD: Tensor, decode: bool, known: dict[int, MemberCode]
    ) -> Iterator[MemberCode]:
        input_BD = acts_BD
        residual = ensemble.wiring == "residual"
        for number, (weight, member) in enumerate(zip(ensemble.weights, ensemble, strict=True)):
            feeds_next = residual and number + 1 < len(ensemble)
            key = self._same_as[id(member)]
            sharable = key in self._shared and (number == 0 or not residual)
            code = known.get(key) if sharable else None
            if code is None or ((decode or feeds_next) and code.decoded_BD is None):
                wanted = decode or feeds_next or sharable
                code = member_code(member, input_BD, encode=self._encode, decode=wanted)
            if sharable:
                known[key] = code
            if feeds_next and code.decoded_BD is not None:
                input_BD = input_BD - weight * code.decoded_BD
            yield code


def partial_sums(ensemble: Ensemble, codes: Iterable[MemberCode]) -> Iterator[Tensor]:
    """Reconstructions [B, D] by the first 1, 2, … J members, as `Ensemble.first` wires them.

    Bagged members are averaged anew, boosted stages just stop.

    Args:
        ensemble: The ensemble.
        codes: The decoded codes of its members, in order.
    """
    whole = sum(ensemble.weights)
    sum_BD, weight_so_far = None, 0.0
    for weight, code in zip(ensemble.weights, codes, strict=True):
        assert code.decoded_BD is not None
        weight_so_far += weight
        part_BD = weight * code.decoded_BD
        sum_BD = part_BD if sum_BD is None else sum_BD + part_BD
        yield sum_BD * (whole / weight_so_far) if ensemble.wiring == "parallel" else sum_BD


def _same(one: SAE, other: SAE) -> bool:
    """Whether two SAEs compute the same."""
    if type(one) is not type(other) or one.W_dec.shape != other.W_dec.shape:
        return False
    if getattr(one, "k", None) != getattr(other, "k", None) or not torch.equal(one.W_dec[0], other.W_dec[0]):
        return False
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())
