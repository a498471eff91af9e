"""Make sparse codes of several ensembles over the same activations, without storing a dense [tokens, features] code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from sae_core.ensembles.ensemble import Ensemble, Step
from sae_core.sae import SAE
from sae_core.sae.sparse_code import SparseCode
from sae_core.training.kernels.frozen import FrozenEncoder

BLOCK = 2048
"""Number of activations to encode at a time."""


class Encoders:
    """Ensembles that read the same activations; a member that several ensembles share encodes only once.

    The single SAE, the first bagged member and the first boosted stage are usually the same SAE.

    Args:
        ensembles: The ensembles by name, all on one device.
    """

    def __init__(self, ensembles: Mapping[str, Ensemble]) -> None:
        self.ensembles = dict(ensembles)
        self._encoder = FrozenEncoder()
        distinct: list[SAE] = []
        uses: Counter[int] = Counter()
        self._same_as: dict[int, int] = {}
        for ensemble in self.ensembles.values():
            for member in ensemble.saes():
                twin = next((other for other in distinct if other is member or _same(other, member)), None)
                if twin is None:
                    distinct.append(member)
                key = id(member if twin is None else twin)
                self._same_as[id(member)] = key
                uses[key] += 1
        self._shared = {key for key, count in uses.items() if count > 1}

    def codes(self, acts_BD: Tensor, *, decode: bool) -> Iterator[tuple[str, Iterator[Step]]]:
        """For each ensemble: (name, the steps of its walk). Read each iterator before the next one.

        Args:
            acts_BD: A block of activations.
            decode: Whether reconstructions are needed.
        """
        known: dict[int, tuple[SparseCode, Tensor | None]] = {}

        def run(sae: SAE, input_BD: Tensor, decode: bool) -> tuple[SparseCode, Tensor | None]:
            key = self._same_as[id(sae)]
            if input_BD is not acts_BD or key not in self._shared:
                return self._encoder.code_and_recon(sae, input_BD, decode)
            if key not in known:
                known[key] = self._encoder.code_and_recon(sae, input_BD, decode=True)
            return known[key]

        for name, ensemble in self.ensembles.items():
            yield name, ensemble.walk(acts_BD, run, decode=decode)


def partial_sums(ensemble: Ensemble, steps: Iterable[Step]) -> Iterator[Tensor]:
    """Reconstructions [B, D] by the first 1, 2, … J members, as `Ensemble.first` wires them.

    The first bagged members are averaged; the first boosted stages are summed.

    Args:
        ensemble: The ensemble.
        steps: Its walk, with reconstructions.
    """
    whole = sum(ensemble.weights)
    sum_BD, weight_so_far = None, 0.0
    for step in steps:
        weight_so_far += step.weight
        sum_BD = step.part_BD if sum_BD is None else sum_BD + step.part_BD
        yield sum_BD if ensemble.in_turn else sum_BD * (whole / weight_so_far)


def _same(one: SAE, other: SAE) -> bool:
    """Whether two SAEs compute the same."""
    if type(one) is not type(other) or one.W_dec.shape != other.W_dec.shape:
        return False
    if getattr(one, "k", None) != getattr(other, "k", None) or not torch.equal(one.W_dec[0], other.W_dec[0]):
        return False
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())
