"""The loop behind the matching by what features do; its plain twin, over dense scores, is in the tests."""

from __future__ import annotations

from sae_core.training.kernels.compiled import loop


@loop(
    "int64(int64, int64, boolean, float64, int64[::1], int32[::1], float32[::1], int64[::1], int32[::1], float32[::1],"
    " float64[::1], float64[::1], float64[::1], float64[::1], float64[::1],"
    " int64[::1], float64[::1], int64[::1], float64[::1], int64[::1], int64[::1], float64[::1])"
)
def match_rows(
    start, stop, jaccard, floor, pointers_N, rows_E, values_E, pointers_R, columns_E, others_E,
    first_N, second_N, first_M, second_M, sums_M,
    best_N, score_N, best_M, score_M, edge_N, edge_M, edge_scores,
):  # fmt: skip
    """Score columns start to stop of a sparse matrix with all of another one; keep the best and those above a floor.

    The first is given column by column, the second row by row, so that only entries that share a row are ever met.

    Args:
        start: The first column.
        stop: The one after the last.
        jaccard: Whether scores are Jaccard indices, else Pearson correlations.
        floor: Least score that is kept as an edge.
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
        sums_M: Room for a row of products.
        best_N: Becomes the best other of each column; stays where none scores above 0.
        score_N: Zeros; becomes its score.
        best_M: The best column of each other so far.
        score_M: Its score so far.
        edge_N: Becomes the column of each edge, by column and then by other; room for all.
        edge_M: Its other.
        edge_scores: Its score.

    Returns:
        The number of edges.
    """
    rows, edges = len(pointers_R) - 1, 0
    for column in range(start, stop):
        sums_M[:] = 0.0
        for entry in range(pointers_N[column], pointers_N[column + 1]):
            row, value = rows_E[entry], values_E[entry]
            for other in range(pointers_R[row], pointers_R[row + 1]):
                sums_M[columns_E[other]] += float(value) * others_E[other]
        for other in range(len(sums_M)):
            shared = sums_M[other]
            if jaccard:
                score = shared / (first_N[column] + first_M[other] - shared) if shared > 0 else 0.0
            else:
                score = (shared / rows - first_N[column] * first_M[other]) * second_N[column] * second_M[other]
            if score > score_N[column]:
                score_N[column], best_N[column] = score, other
            if score > score_M[other]:
                score_M[other], best_M[other] = score, column
            if score >= floor:
                edge_N[edges], edge_M[edges], edge_scores[edges] = column, other, score
                edges += 1
    return edges
