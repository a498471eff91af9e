"""Score the few features of a family pairwise by all three measures, from their own atoms and activations alone.

The module uses plain NumPy, so that pages need not wait for torch or compiled code. `family_table` does the same for
all families at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sae_core.analysis.index.activation_index import ActivationIndex, Positions
from sae_core.analysis.index.examples import strongest
from sae_core.ensembles.manifest import read_manifest
from sae_core.foundation.files.mapped_tensors import map_tensors
from sae_core.foundation.folders import WEIGHTS, EnsembleFolder
from sae_core.foundation.numbering import place_of

CONTEXT = 32
"""Number of tokens in a context: the indexed corpus is cut into stretches of this length."""
TOP_CONTEXTS = 64
"""Number of top contexts to compare per feature: those with the largest maximal activation."""


def atom_cosines(folder: EnsembleFolder, widths: Sequence[int], feature: int, others: Sequence[int]) -> list[float]:
    """The cosines of a feature's atom with the atoms of other features.

    The function reads only these rows, so wide members take no longer.

    Args:
        folder: The ensemble.
        widths: Number of features of each member.
        feature: Number of the feature in the ensemble.
        others: Numbers of the other features.

    Raises:
        UserError: If a member's weights are missing or damaged.
    """
    atoms = {number: _atom(folder, widths, number) for number in {feature, *others}}
    return [_cosine(atoms[feature], atoms[other]) for other in others]


def _atom(folder: EnsembleFolder, widths: Sequence[int], feature: int) -> NDArray[np.float64]:
    place = place_of(feature, widths)
    if (inner := folder.inner(place.member)).manifest.exists():
        return _atom(inner, read_manifest(inner).widths, place.latent)
    tensors, _ = map_tensors(folder.member(place.member) / WEIGHTS)
    return np.asarray(tensors["W_dec"][place.latent], dtype=np.float64)


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 0 else 0.0


def correlations(index: ActivationIndex, features: Sequence[int]) -> list[float]:
    """Pearson correlation of the activations of every pair of features over all tokens; 0 if a feature is constant.

    Pairs are in the order of `itertools.combinations`.
    """
    tokens, values_T = max(index.tokens, 1), np.zeros(index.tokens, np.float32)
    entries = [index.feature(feature) for feature in features]
    sums_F, squares_F = np.array([_sums(values) for _, values in entries]).reshape(-1, 2).T
    deviation_F, mean_F = deviations(sums_F, squares_F, tokens), sums_F / tokens
    found = []
    for one, (positions, values) in enumerate(entries):
        values_T[positions] = values
        for other in range(one + 1, len(entries)):
            there, theirs = entries[other]
            product = float(values_T[there].astype(np.float64) @ theirs.astype(np.float64))
            covariance = product / tokens - float(mean_F[one] * mean_F[other])
            scale = float(deviation_F[one] * deviation_F[other])
            found.append(min(1.0, max(-1.0, covariance / scale)) if scale > 0 else 0.0)
        values_T[positions] = 0
    return found


def _sums(values: NDArray[np.float32]) -> tuple[float, float]:
    return float(values.sum(dtype=np.float64)), float(np.square(values, dtype=np.float64).sum())


def deviations(sum_N: NDArray[np.float64], square_N: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """Standard deviations of columns, from the sums of entries and of squared entries."""
    mean_square_N = square_N / max(rows, 1)
    variance_N = mean_square_N - (sum_N / max(rows, 1)) ** 2
    # The remainder of a constant column is a rounding error.
    return np.sqrt(np.where(variance_N > 1e-12 * mean_square_N, variance_N, 0.0))


def top_contexts(index: ActivationIndex, feature: int) -> Positions:
    """The `TOP_CONTEXTS` contexts with a feature's largest maximal activations, ascending; of equal ones the first."""
    positions, values = index.feature(feature)
    contexts = positions // CONTEXT
    starts = np.flatnonzero(np.diff(contexts, prepend=-1))
    peaks = np.maximum.reduceat(values, starts) if len(starts) else np.empty(0, np.float32)
    return np.sort(contexts[starts[strongest(peaks, TOP_CONTEXTS)]])


def overlaps(index: ActivationIndex, features: Sequence[int]) -> list[float]:
    """Jaccard index of the top contexts of every pair of features, in the same order; 0 if neither has contexts."""
    contexts = [set(top_contexts(index, feature).tolist()) for feature in features]
    return [len(ours & theirs) / max(len(ours | theirs), 1) for ours, theirs in combinations(contexts, 2)]
