"""The loops of matching by firing. The tests have a plain twin over dense scores."""

from __future__ import annotations

import numpy as np
from numba.types import Array, float32, float64, int32, int64, void

from sae_core.training.kernels.cpu.compiled import loop

# Numba compiles for read-only maps of a file only if the signature says so.
_POINTERS, _NUMBERS, _VALUES = (Array(kind, 1, "C", readonly=True) for kind in (int64, int32, float32))


@loop(
    "void(int64, int64, int64, boolean, float64, int64[::1], int32[::1], float32[::1], int64[::1], int32[::1],"
    " float32[::1], float64[::1], float64[::1], float64[::1], float64[::1],"
    " float64[:, ::1], int64[::1], float64[::1], int64[::1])"
)
def score_rows(
    part, parts, start, jaccard, floor, pointers_N, rows_E, values_E, pointers_R, columns_E, others_E,
    first_N, second_N, first_M, second_M, scores_BM, best_N, score_N, edges_B,
):  # fmt: skip
    """Score a block of columns of a sparse matrix with all of another one, and keep the best other of each.

    The first is given column by column, the second row by row, so that only entries that share a row are ever met.

    Args:
        part: Which of the rows of scores to compute.
        parts: How many parts they are shared among.
        start: The block's first column.
        jaccard: Whether scores are Jaccard indices, else Pearson correlations.
        floor: Least score that is counted as an edge.
        pointers_N: Where the entries of each column begin, and at the end their number [N + 1].
        rows_E: Row of each entry.
        values_E: Its value.
        pointers_R: Where the other's entries of each row begin, and at the end their number [R + 1].
        columns_E: Column of each of them.
        others_E: Its value.
        first_N: Entries of each column; for correlations its mean.
        second_N: One over its standard deviation, 0 for a constant column; for correlations only.
        first_M: As first_N, of the other.
        second_M: As second_N, of the other.
        scores_BM: Becomes the block's scores.
        best_N: Becomes the best other of each column; stays where none scores above 0.
        score_N: Zeros; becomes its score.
        edges_B: Becomes the number of scores that reach the floor.
    """
    rows = len(pointers_R) - 1
    for line in range(part, len(scores_BM), parts):
        column, scores_M, edges = start + line, scores_BM[line], 0
        scores_M[:] = 0.0
        for entry in range(pointers_N[column], pointers_N[column + 1]):
            row, value = rows_E[entry], values_E[entry]
            for other in range(pointers_R[row], pointers_R[row + 1]):
                scores_M[columns_E[other]] += np.float64(value) * others_E[other]
        if jaccard:
            for other in range(len(scores_M)):
                shared = scores_M[other]
                if shared > 0:
                    scores_M[other] = shared / (first_N[column] + first_M[other] - shared)
        else:
            mean, scale = first_N[column], second_N[column]
            for other in range(len(scores_M)):
                scores_M[other] = (scores_M[other] / rows - mean * first_M[other]) * scale * second_M[other]
        best, score = -1, 0.0
        for other in range(len(scores_M)):
            if scores_M[other] > score:
                best, score = other, scores_M[other]
            edges += scores_M[other] >= floor
        edges_B[line] = edges
        if best >= 0:
            best_N[column], score_N[column] = best, score


@loop("void(int64, int64, int64, float64[:, ::1], int64[::1], float64[::1])")
def keep_best(part, parts, start, scores_BM, best_M, score_M):
    """Keep the best column so far of each other; of equals the first. Every part has others of its own."""
    others = len(best_M)
    for line in range(len(scores_BM)):
        for other in range(others * part // parts, others * (part + 1) // parts):
            if scores_BM[line, other] > score_M[other]:
                score_M[other], best_M[other] = scores_BM[line, other], start + line


@loop("void(int64, float64, float64[:, ::1], int64[::1], int64[::1], int64[::1], float64[::1])")
def collect_edges(start, floor, scores_BM, edges_B, edge_N, edge_M, edge_scores):
    """Write down column, other and score of the scores that reach a floor, by column and then by other."""
    found = 0
    for line in range(len(scores_BM)):
        if edges_B[line] == 0:
            continue
        for other in range(scores_BM.shape[1]):
            if scores_BM[line, other] >= floor:
                edge_N[found], edge_M[found], edge_scores[found] = start + line, other, scores_BM[line, other]
                found += 1


@loop(void(int64, int64, _POINTERS, _NUMBERS, _VALUES, int64[::1], int64[::1], float64[::1]))
def multiply_pairs(part, parts, pointers_F, positions_E, values_E, first_P, second_P, products_P):
    """Sum the products of the activations of pairs of features on the tokens on which both fire."""
    for pair in range(part, len(first_P), parts):
        one, end = pointers_F[first_P[pair]], pointers_F[first_P[pair] + 1]
        other, other_end = pointers_F[second_P[pair]], pointers_F[second_P[pair] + 1]
        total = 0.0
        while one < end and other < other_end:
            here, there = positions_E[one], positions_E[other]
            if here == there:
                total += np.float64(values_E[one]) * values_E[other]
            one += here <= there
            other += there <= here
        products_P[pair] = total


@loop(void(int64, int64, _POINTERS, _VALUES, int64[::1], float64[::1], float64[::1]))
def sum_features(part, parts, pointers_F, values_E, features_U, sums_U, squares_U):
    """Sum the activations of features, and their squares."""
    for place in range(part, len(features_U), parts):
        total, square = 0.0, 0.0
        for entry in range(pointers_F[features_U[place]], pointers_F[features_U[place] + 1]):
            value = np.float64(values_E[entry])
            total += value
            square += value * value
        sums_U[place], squares_U[place] = total, square
