"""Measure whether latents fire where true features fire: F1 of each true feature, and of each latent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Detection:
    """The detection of each true feature by its best latent.

    Attributes:
        f1_F: F1 of each true feature on the second half of the activations; NaN if it never fires there.
        latent_F: The latent with the best F1 on the first half, of equal ones the first; −1 if no latent fires with it.
    """

    f1_F: Floats
    latent_F: Integers


def detect_features(truth_TF: sparse.csr_array, latents_TM: sparse.csr_array, *, block: int = 128) -> Detection:
    """F1 of firing for every true feature with its best latent.

    The latent is chosen on the first half of the activations and measured on the second half. Chosen and measured on
    the same activations, the best of many latents would look too good, most of all for rare features and wide
    ensembles.

    Args:
        truth_TF: ≠ 0 where a true feature fires [activations, F].
        latents_TM: ≠ 0 where a latent fires [activations, M].
        block: Number of true features to compare at a time.
    """
    half = truth_TF.shape[0] // 2
    truth, latents = _pattern(truth_TF), _pattern(latents_TM)
    fires_F, fires_M = _firings(truth[:half]), _firings(latents[:half])
    later_F, later_M = _firings(truth[half:]), _firings(latents[half:])
    by_feature, first_latents = sparse.csr_array(truth[:half].T), latents[:half]
    later_truth, later_latents = sparse.csc_array(truth[half:]), sparse.csc_array(latents[half:])
    latent_F = np.full(truth.shape[1], -1)
    f1_F = np.where(later_F > 0, 0.0, np.nan)
    for start in range(0, truth.shape[1], block):
        together = sparse.csr_array(by_feature[start : start + block] @ first_latents)
        best = _best_columns(together, fires_F[start : start + block], fires_M)
        found = np.flatnonzero(best >= 0)
        latent_F[start + found] = best[found]
        chosen, features = best[found], start + found
        both = _firings(later_truth[:, features].multiply(later_latents[:, chosen]))
        either = later_F[features] + later_M[chosen]
        f1 = 2 * both / np.maximum(either, 1)
        f1_F[features] = np.where(later_F[features] > 0, f1, np.nan)
    return Detection(f1_F, latent_F)


def _best_columns(together: sparse.csr_array, fires_b: Floats, fires_M: Floats) -> Integers:
    """The column with the largest F1 in each row of counts of joint firings; −1 for a row without any."""
    together.sort_indices()
    rows = np.repeat(np.arange(together.shape[0]), np.diff(together.indptr))
    f1 = 2 * together.data / (fires_b[rows] + fires_M[together.indices])
    best = np.full(together.shape[0], -1)
    # Sort by row, then by descending F1; the sort is stable, so equal entries stay in the order of the latents.
    order = np.lexsort((-f1, rows))
    first = np.unique(rows, return_index=True)
    best[first[0]] = together.indices[order[first[1]]]
    return best


def latent_figures(
    truth_TF: sparse.csr_array, latents_TM: sparse.csr_array, feature_M: Integers, *, block: int = 4096
) -> dict[str, float]:
    """Mean precision, recall, F1 and accuracy of latents as detectors of the true feature nearest to their atoms.

    An undefined figure counts as 0, as in SAELens' ``compute_classification_metrics``, so dead latents lower all
    figures except the accuracy. All activations count.

    Args:
        truth_TF: ≠ 0 where a true feature fires [activations, F].
        latents_TM: ≠ 0 where a latent fires [activations, M].
        feature_M: The true feature nearest to each atom.
        block: Number of latents to compare at a time.
    """
    truth, latents = sparse.csc_array(_pattern(truth_TF)), sparse.csc_array(_pattern(latents_TM))
    total = truth.shape[0]
    fires_M, true_M = _firings(latents), _firings(truth)[feature_M]
    both_M = np.concatenate(
        [
            _firings(truth[:, feature_M[start : start + block]].multiply(latents[:, start : start + block]))
            for start in range(0, len(feature_M), block)
        ]
    )
    return {
        "precision": float((both_M / np.maximum(fires_M, 1)).mean()),
        "recall": float((both_M / np.maximum(true_M, 1)).mean()),
        "f1": float((2 * both_M / np.maximum(fires_M + true_M, 1)).mean()),
        "accuracy": float(((total - fires_M - true_M + 2 * both_M) / total).mean()),
    }


def _pattern(counts: sparse.csr_array) -> sparse.csr_array:
    """1 where an entry is not 0."""
    pattern = sparse.csr_array(counts != 0, dtype=np.float32)
    pattern.data[:] = 1.0
    return pattern


def _firings(pattern: sparse.csr_array) -> Floats:
    """The number of firings of each column, in float64, since float32 stops counting at 16 million."""
    return np.asarray(pattern.sum(axis=0, dtype=np.float64)).ravel()
