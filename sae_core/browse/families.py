"""How alike the features of a family are: the cosine of their atoms, read from the members' weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from sae_core.folders import WEIGHTS, EnsembleFolder
from sae_core.mapped import map_tensors


def atom_cosines(folder: EnsembleFolder, widths: Sequence[int], feature: int, others: Sequence[int]) -> list[float]:
    """The cosine of a feature's atom with those of others.

    Only these rows are read, so that it takes no longer for wide members.

    Args:
        folder: The ensemble.
        widths: Features of each member.
        feature: Number of the feature in the ensemble.
        others: Numbers of the others.

    Raises:
        UserError: If a member's weights are missing or damaged.
    """
    starts = list(accumulate(widths, initial=0))
    atoms = {number: _atom(folder, starts, number) for number in {feature, *others}}
    return [_cosine(atoms[feature], atoms[other]) for other in others]


def _atom(folder: EnsembleFolder, starts: Sequence[int], feature: int) -> NDArray[np.float64]:
    member = int(np.searchsorted(starts, feature, side="right")) - 1
    tensors, _ = map_tensors(folder.member(member) / WEIGHTS)
    return np.asarray(tensors["W_dec"][feature - starts[member]], dtype=np.float64)


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 0 else 0.0
