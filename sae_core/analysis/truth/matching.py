"""Match learnt dictionaries with the true one: which true features are found, and which atoms are true.

All cosines are absolute, since the sign of an atom is a convention (O'Neill et al. 2024; SAELens).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import maximum_bipartite_matching
from torch import Tensor
from torch.nn.functional import normalize

from sae_core.analysis.similarity.cosines import match_atoms

THRESHOLD = 0.9
"""The |cosine| from which an atom counts as a true feature, and from which two atoms count as the same."""
EDGES = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The bounds of the bins of firing probability."""

Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Nearness:
    """The nearest neighbours between the M atoms of a dictionary and F true features.

    Attributes:
        cosine_F: |cosine| of each true feature with the nearest atom.
        atom_F: The nearest atom, of equal ones the first.
        cosine_M: |cosine| of each atom with the nearest true feature.
        feature_M: The nearest true feature, of equal ones the first.
        near_FM: The pairs that reach the threshold, sparse.
    """

    cosine_F: Floats
    atom_F: Integers
    cosine_M: Floats
    feature_M: Integers
    near_FM: sparse.csr_array


@torch.no_grad()
def nearness(truth_FD: Tensor, atoms_MD: Tensor, *, threshold: float = THRESHOLD, block: int = 4096) -> Nearness:
    """Compare a dictionary with the true one, with at most ``block``² cosines in memory at a time.

    Args:
        truth_FD: The true atoms.
        atoms_MD: The learnt atoms, of any norm; a zero atom has cosine 0 with all others.
        threshold: The |cosine| from which a pair is near.
        block: Number of atoms to compare at a time.
    """
    truth_FD, atoms_MD = normalize(truth_FD.float()), normalize(atoms_MD.float())
    best_F, atom_F = np.full(len(truth_FD), -1.0), np.zeros(len(truth_FD), dtype=np.int64)
    best_M, feature_M = np.full(len(atoms_MD), -1.0), np.zeros(len(atoms_MD), dtype=np.int64)
    features, atoms = [], []
    for row in range(0, len(truth_FD), block):
        for column in range(0, len(atoms_MD), block):
            part_fm = (truth_FD[row : row + block] @ atoms_MD[column : column + block].T).abs().cpu()
            _keep_best(best_F[row : row + block], atom_F[row : row + block], part_fm, column)
            _keep_best(best_M[column : column + block], feature_M[column : column + block], part_fm.T, row)
            near = (part_fm >= threshold).nonzero().numpy()
            features.append(near[:, 0] + row)
            atoms.append(near[:, 1] + column)
    places = (np.concatenate(features), np.concatenate(atoms))
    ones = np.ones(len(places[0]), dtype=bool)
    near_FM = sparse.csr_array((ones, places), shape=(len(truth_FD), len(atoms_MD)))
    return Nearness(best_F, atom_F, best_M, feature_M, near_FM)


def _keep_best(best_b: Floats, place_b: Integers, cosine_bc: Tensor, first: int) -> None:
    values, places = (tensor.numpy() for tensor in cosine_bc.max(dim=1))
    better_b = values > best_b
    best_b[better_b] = values[better_b]
    place_b[better_b] = places[better_b] + first


def matched_one_to_one(near_FM: sparse.csr_array) -> Bools:
    """Whether each true feature [F] gets its own atom in a largest one-to-one matching (Hopcroft and Karp).

    So ten copies of one true atom count once, and an atom near two true features finds only one of them.
    """
    found: Bools = maximum_bipartite_matching(near_FM, perm_type="column") >= 0
    return found


@torch.no_grad()
def distinct_atoms(atoms_MD: Tensor, *, threshold: float = THRESHOLD, block: int = 1024) -> Integers:
    """The atoms that greedy de-duplication keeps, ascending; an atom that repeats a kept atom is dropped.

    Args:
        atoms_MD: Atoms in order of precedence.
        threshold: The |cosine| from which two atoms are the same.
        block: Number of atoms to decide on together.
    """
    atoms_MD = normalize(atoms_MD.float())
    kept_KD, kept = atoms_MD[:0], []
    for start in range(0, len(atoms_MD), block):
        part_bD = atoms_MD[start : start + block]
        open_b = np.ones(len(part_bD), dtype=bool)
        if len(kept_KD):
            open_b = ((part_bD @ kept_KD.T).abs().amax(dim=1) < threshold).cpu().numpy()
        like_bb = ((part_bD @ part_bD.T).abs() >= threshold).cpu().numpy()
        keep_b = np.zeros(len(part_bD), dtype=bool)
        for row in np.flatnonzero(open_b):
            keep_b[row] = not (like_bb[row, :row] & keep_b[:row]).any()
        kept_KD = torch.cat([kept_KD, part_bD[torch.from_numpy(keep_b).to(part_bD.device)]])
        kept.append(np.flatnonzero(keep_b) + start)
    return np.concatenate(kept)


def matched_cosines(truth_FD: Tensor, atoms_MD: Tensor) -> Floats:
    """|cosine| of each true feature [F] with its atom in the one-to-one matching with the largest mean.

    The value is NaN for a feature without an atom, which exists if M < F. `mcc` averages these values.

    Source: O'Neill et al. 2024 (arXiv 2411.13117), with the matching of SAELens' `mean_correlation_coefficient`.
    """
    match = match_atoms(truth_FD, atoms_MD, absolute=True)
    cosine_F = np.full(len(truth_FD), np.nan)
    cosine_F[match.rows.numpy()] = match.cosine.double().numpy()
    return cosine_F


def mcc(matched_F: Floats) -> float:
    """The sum of the matched |cosines| divided by the number F of true features; no atom counts as 0.

    SAELens averages over the min(F, M) pairs, so a dictionary too narrow for the truth can look better than a wider one
    that finds more of it; the two figures agree if M ≥ F.

    Args:
        matched_F: The result of `matched_cosines`.
    """
    return float(np.nan_to_num(matched_F, nan=0.0).mean())


def frequency_bins(probability_F: Floats, edges: Sequence[float] = EDGES) -> Iterator[tuple[float, float, Bools]]:
    """Yield (lowest probability, highest probability, features [F]) of each bin that has features.

    The highest probability is exclusive except in the last bin. The most frequent features come first.
    """
    bin_F = np.clip(np.searchsorted(edges, probability_F, side="right") - 1, 0, len(edges) - 2)
    for number in reversed(range(len(edges) - 1)):
        if (bin_F == number).any():
            yield edges[number], edges[number + 1], bin_F == number
