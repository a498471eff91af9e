"""Match features of different members by correlation of activations, and by overlap of top contexts.

Two features can have the same direction and fire on different tokens, or fire on the same tokens with different
directions, so these matchings stand beside the matching of atoms (`matching`). Sources: matching by correlation, one to
one and one to many, Li et al. 2016, *Convergent Learning*; correlation against a null, Gurnee et al. 2024, *Universal
Neurons*, whose threshold of 0.5 we use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.analysis.shared.names_in_tables import CORRELATED, OVERLAPPING
from sae_core.analysis.similarity.assignment_loops import FREE, assign_sparsely
from sae_core.analysis.similarity.firing_loops import collect_edges, keep_best, score_rows
from sae_core.analysis.similarity.pair_scores import CONTEXT, deviations, top_contexts
from sae_core.training.kernels.cpu import team

FLOOR = 0.1
"""The least score of a one-to-one match; a feature without such a score stays alone."""
ENTRIES = 2**25
"""Largest number of activations of a member to read (400 MB by token); if there are more, tokens are skipped evenly."""
PRODUCTS = 2**33
"""Largest number of products of activations on the same token, over all pairs of members; a minute or two."""
CELLS = 2**20
"""Number of scores in memory at a time (8 MB)."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Columns = Callable[[int], csc_array]
"""The sparse columns of a member."""


class Matching(NamedTuple):
    """Matches of N features with M others; −1 and score 0 mean no match.

    Attributes:
        best_N: The most similar other of each feature; several features may have the same one.
        best_score_N: The score of that match, above 0.
        best_M: The most similar feature of each other.
        best_score_M: The score of that match.
        partner_N: The other of each feature in the one-to-one matching with the largest sum of scores of at least
            `FLOOR`.
        partner_score_N: The score of that match.
    """

    best_N: Ints
    best_score_N: Floats
    best_M: Ints
    best_score_M: Floats
    partner_N: Ints
    partner_score_N: Floats

    def turned(self) -> Matching:
        """The same matching with features and others exchanged."""
        partner_M, score_M = np.full(len(self.best_M), -1), np.zeros(len(self.best_M))
        paired = np.flatnonzero(self.partner_N >= 0)
        partner_M[self.partner_N[paired]], score_M[self.partner_N[paired]] = paired, self.partner_score_N[paired]
        return Matching(self.best_M, self.best_score_M, self.best_N, self.best_score_N, partner_M, score_M)


def _partners(edges: list[tuple[Ints, Ints, Floats]], rows: int, columns: int) -> tuple[Ints, Floats]:
    """Find the assignment with the largest sum over the edges, which are sorted by row; rows may stay unmatched."""
    row_E, column_E, score_E = (np.concatenate(parts) for parts in zip(*edges, strict=True))
    pointers = np.searchsorted(row_E, np.arange(rows + 1))
    partner_N, row_M = np.full(rows, FREE), np.full(columns, FREE)
    assign_sparsely(
        pointers, np.ascontiguousarray(column_E), score_E, 0.0, np.zeros(columns), np.zeros(rows), partner_N, row_M
    )
    partner_N = np.where(partner_N >= 0, partner_N, -1)
    # Find the edge of each row and its partner: keys ascend, since edges are sorted by row and then by column.
    keys, paired = row_E * columns + column_E, np.flatnonzero(partner_N >= 0)
    score_N = np.zeros(rows)
    score_N[paired] = score_E[np.searchsorted(keys, paired * columns + partner_N[paired])]
    return partner_N, score_N


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure of how alike two features fire.

    Attributes:
        name: The measure's name in tables.
        threshold: The score from which two features count as the same.
        facts: Returns the facts about columns that `score_rows` needs.
    """

    name: str
    threshold: float
    facts: Callable[[csc_array], tuple[Floats, Floats]]


def _spread(columns: csc_array) -> tuple[Floats, Floats]:
    mean_N, deviation_N = moments(columns)
    return mean_N, np.divide(1.0, deviation_N, out=np.zeros_like(deviation_N), where=deviation_N > 0)


def _counts(columns: csc_array) -> tuple[Floats, Floats]:
    return np.diff(columns.indptr).astype(np.float64), np.zeros(columns.shape[1])


CORRELATION = Measure("correlation", CORRELATED, _spread)
"""Pearson correlation of activations over all rows (tokens); 0 for a constant column."""
OVERLAP = Measure("overlap", OVERLAPPING, _counts)
"""Jaccard index of top contexts, given as columns of ones. Two features that share half of their contexts have 1/3."""


class Others(NamedTuple):
    """A member's features as the others of a matching: sorted by row, with the facts that the measure needs."""

    by_row: csr_array
    measure: Measure
    facts: tuple[Floats, Floats]

    @classmethod
    def of(cls, columns: csc_array, measure: Measure) -> Others:
        """The features of sparse columns [R, M], by `CORRELATION` or `OVERLAP`."""
        return cls(columns.tocsr(), measure, measure.facts(columns))


def match_columns(one: csc_array, other: Others) -> Matching:
    """Match the N features of sparse columns [R, N] with M others by a measure, without holding all scores in memory.

    The one-to-one matching is exact: a score below the floor counts as no match, so only the other scores are kept.
    """
    by_row, measure = other.by_row, other.measure
    columns, others, jaccard = one.shape[1], by_row.shape[1], measure is OVERLAP
    left = (one.indptr.astype(np.int64), one.indices.astype(np.int32, copy=False), one.data)
    right = (by_row.indptr.astype(np.int64), by_row.indices.astype(np.int32, copy=False), by_row.data)
    # Copy, since the compiled code takes no read-only array, such as a map of a file.
    entries = [array if array.flags.writeable else array.copy() for array in (*left, *right)]
    facts = (*measure.facts(one), *other.facts)
    best_N, score_N, best_M, score_M = np.full(columns, -1), np.zeros(columns), np.full(others, -1), np.zeros(others)
    room_BM = np.empty((max(1, CELLS // max(1, others)), others))
    edges = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for start in range(0, columns, len(room_BM)):
        scores_BM = room_BM[: columns - start]
        edges_B = np.empty(len(scores_BM), np.int64)
        team.run(score_rows, start, jaccard, FLOOR, *entries, *facts, scores_BM, best_N, score_N, edges_B)
        team.run(keep_best, start, scores_BM, best_M, score_M)
        count = int(edges_B.sum())
        edges.append((np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count)))
        collect_edges(start, FLOOR, scores_BM, edges_B, *edges[-1])
    return Matching(best_N, score_N, best_M, score_M, *_partners(edges, columns, others))


def moments(columns: csc_array) -> tuple[Floats, Floats]:
    """(mean, standard deviation) of each column over all rows; entries that are not stored are 0."""
    rows, starts = columns.shape[0], columns.indptr[:-1]
    full = np.diff(columns.indptr) > 0
    sum_N, square_N = np.zeros(columns.shape[1]), np.zeros(columns.shape[1])
    if full.any():
        values = columns.data.astype(np.float64)
        sum_N[full] = np.add.reduceat(values, starts[full])
        square_N[full] = np.add.reduceat(np.square(values, out=values), starts[full])
    return sum_N / max(rows, 1), deviations(sum_N, square_N, rows)


def token_columns(index: ActivationIndex, first: int, stop: int, *, stride: int = 1) -> csc_array:
    """The activations of features ``first`` to ``stop`` as sparse columns, one row per token.

    Args:
        index: The ensemble's activations.
        first: The first feature.
        stop: The end of the range of features, exclusive.
        stride: Take every ``stride``-th token.
    """
    pointers = index.pointers[first : stop + 1]
    part = slice(int(pointers[0]), int(pointers[-1]))
    positions, values, pointers = index.positions[part], index.values[part], pointers - pointers[0]
    if stride > 1:
        kept = positions % stride == 0
        pointers = np.concatenate([[0], np.cumsum(kept)])[pointers]
        positions, values = positions[kept] // stride, values[kept]
    return csc_array((values, positions, pointers), shape=(-(-index.tokens // stride), stop - first))


def context_columns(index: ActivationIndex) -> csc_array:
    """The `top_contexts` of all features as sparse columns of ones, one row per context."""
    found = [top_contexts(index, feature) for feature in range(index.features)]
    pointers = np.cumsum([0, *map(len, found)])
    positions = np.concatenate(found).astype(np.int32) if found else np.empty(0, np.int32)
    shape = (max(1, -(-index.tokens // CONTEXT)), len(found))
    return csc_array((np.ones(len(positions), np.float32), positions, pointers), shape=shape)


def turned(columns: csc_array, share: float) -> csc_array:
    """Rotate all rows of columns by a share of their number, so that the last rows come first; for the null."""
    rows_E = (columns.indices.astype(np.int64) + int(share * columns.shape[0])) % columns.shape[0]
    return csc_array((columns.data, rows_E.astype(np.int32), columns.indptr), shape=columns.shape)


def stride_for(index: ActivationIndex, offsets: Sequence[int]) -> int:
    """The stride between tokens that keeps within `ENTRIES` and `PRODUCTS`; 1 if all tokens fit."""
    bounds = index.pointers[np.asarray(offsets)]
    largest = int(np.diff(bounds).max(initial=0))
    products = 0.0
    fires_T = np.zeros(index.tokens, np.int64)
    for first, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        member_T = np.bincount(index.positions[first:stop], minlength=index.tokens)
        products += float(np.dot(fires_T, member_T))
        fires_T += member_T
    return max(1, -(-largest // ENTRIES), int(np.ceil(products / PRODUCTS)))
