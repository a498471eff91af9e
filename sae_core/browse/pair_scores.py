"""How alike the few features of a family are, by all three measures, from their own atoms and activations alone.

Plain NumPy, as pages ask for it that are not to wait for torch or for compiled code. `family_table` does the same for
all families at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from sae_core.browse.examples import strongest
from sae_core.browse.index import ActivationIndex, Positions
from sae_core.folders import WEIGHTS, EnsembleFolder
from sae_core.mapped import map_tensors

CONTEXT = 32
"""Tokens of a context: the indexed corpus is cut into stretches of so many."""
TOP_CONTEXTS = 64
"""Contexts of a feature that are compared: those in which its largest activation is largest."""


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


def correlation(index: ActivationIndex, one: int, other: int) -> float:
    """Pearson correlation of the activations of two features over all indexed tokens; 0 where one is constant."""
    (few, few_values), (many, many_values) = sorted((index.feature(one), index.feature(other)), key=lambda x: len(x[0]))
    tokens = max(index.tokens, 1)
    places = np.searchsorted(many, few)
    both = np.flatnonzero(places < len(many))
    both = both[many[places[both]] == few[both]]
    products = few_values[both].astype(np.float64) @ many_values[places[both]].astype(np.float64)
    sums, squares = np.array([_sums(few_values), _sums(many_values)]).T
    scale = float(deviations(sums, squares, tokens).prod())
    covariance = float(products) / tokens - float(np.prod(sums / tokens))
    return min(1.0, max(-1.0, covariance / scale)) if scale > 0 else 0.0


def _sums(values: NDArray[np.float32]) -> tuple[float, float]:
    return float(values.sum(dtype=np.float64)), float(np.square(values, dtype=np.float64).sum())


def deviations(sum_N: NDArray[np.float64], square_N: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """Standard deviations of columns with these sums of their entries and of the squares of these."""
    mean_square_N = square_N / max(rows, 1)
    variance_N = mean_square_N - (sum_N / max(rows, 1)) ** 2
    # What is left of a constant column is rounding.
    return np.sqrt(np.where(variance_N > 1e-12 * mean_square_N, variance_N, 0.0))


def top_contexts(index: ActivationIndex, feature: int) -> Positions:
    """The `TOP_CONTEXTS` stretches of `CONTEXT` tokens in which a feature's largest activation is largest, ascending.

    Of equals the earlier ones.
    """
    positions, values = index.feature(feature)
    contexts = positions // CONTEXT
    starts = np.flatnonzero(np.diff(contexts, prepend=-1))
    peaks = np.maximum.reduceat(values, starts) if len(starts) else np.empty(0, np.float32)
    return np.sort(contexts[starts[strongest(peaks, TOP_CONTEXTS)]])


def overlap(index: ActivationIndex, one: int, other: int) -> float:
    """Jaccard index of the top contexts of two features; 0 where neither has any."""
    ours, theirs = (set(top_contexts(index, feature).tolist()) for feature in (one, other))
    return len(ours & theirs) / max(len(ours | theirs), 1)
