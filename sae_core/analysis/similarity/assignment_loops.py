"""Loops that solve a sparse assignment problem by shortest augmenting paths, with prices that prove the optimum.

Source: Jonker and Volgenant 1987, in the rectangular form of Crouse 2016. SciPy has a dense solver
(`linear_sum_assignment`, cubic) and a sparse solver (`min_weight_full_bipartite_matching`). The sparse solver does not
return the prices, and does not end in reasonable time if many atoms are equal: its feasibility test is exponential on
such graphs (scipy issue 26147).

Rows bid for columns. The gain of a column is its score minus its price, and a row's profit is the gain of its best
column. A row may also stay ``outside`` for a score below all others, so a solution always exists. At the end no column
gains a row more than its profit, and no free column has a price. So no other assignment is better.
"""

from __future__ import annotations

import numpy as np

from sae_core.training.kernels.cpu.compiled import inlined, loop

FREE, OUTSIDE = -1, -2
"""The numbers that mark a row without a column, a row outside, and a column without a row."""


@inlined
def _push(distances_H, columns_H, size, distance, column):
    """Put an entry into a heap of ``size`` entries, the nearest first."""
    place = size
    while place > 0:
        parent = (place - 1) // 2
        if distances_H[parent] <= distance:
            break
        distances_H[place], columns_H[place] = distances_H[parent], columns_H[parent]
        place = parent
    distances_H[place], columns_H[place] = distance, column


@inlined
def _pop(distances_H, columns_H, size):
    """Take the first entry out of a heap of ``size`` entries."""
    distance, column = distances_H[size - 1], columns_H[size - 1]
    place, left = 0, size - 1
    while True:
        child = 2 * place + 1
        if child >= left:
            break
        if child + 1 < left and distances_H[child + 1] < distances_H[child]:
            child += 1
        if distances_H[child] >= distance:
            break
        distances_H[place], columns_H[place] = distances_H[child], columns_H[child]
        place = child
    distances_H[place], columns_H[place] = distance, column


@inlined
def _take_favourites(pointers_R, columns_E, scores_E, outside, price_M, profit_N, column_N, row_M):
    """Set each row's profit, and give the row its best column if that is free."""
    for row in range(len(profit_N)):
        best, favourite = outside, FREE
        for entry in range(pointers_R[row], pointers_R[row + 1]):
            gain = scores_E[entry] - price_M[columns_E[entry]]
            # Of equal columns, take a free one.
            if gain > best or (gain == best and favourite >= 0 and row_M[favourite] >= 0):
                best, favourite = gain, columns_E[entry]
        profit_N[row] = best
        if favourite >= 0 and row_M[favourite] < 0:
            row_M[favourite], column_N[row] = row, favourite


@inlined
def _search(
    start, pointers_R, columns_E, scores_E, outside, price_M, profit_N, row_M,
    distances_H, columns_H, distance_M, from_M, seen_M, done_M, scanned_M,
):  # fmt: skip
    """Find the nearest free column from a row without a column, or the nearest row that can stay outside (Dijkstra).

    Returns:
        (columns scanned on the way, length of the path, the free column or OUTSIDE, the row that stays outside).
    """
    size, scanned, row, distance = 0, 0, start, 0.0
    nearest_outside, outside_row = np.inf, FREE
    while True:
        if distance + profit_N[row] - outside < nearest_outside:
            nearest_outside, outside_row = distance + profit_N[row] - outside, row
        for entry in range(pointers_R[row], pointers_R[row + 1]):
            column = columns_E[entry]
            reached = distance + (profit_N[row] - (scores_E[entry] - price_M[column]))
            if done_M[column] == start or reached >= nearest_outside:
                continue
            if seen_M[column] != start or reached < distance_M[column]:
                seen_M[column], distance_M[column], from_M[column] = start, reached, row
                _push(distances_H, columns_H, size, reached, column)
                size += 1
        column = FREE
        while size > 0 and column == FREE:
            if done_M[columns_H[0]] != start:
                column = columns_H[0]
            _pop(distances_H, columns_H, size)
            size -= 1
        if column == FREE or distance_M[column] >= nearest_outside:
            return scanned, nearest_outside, OUTSIDE, outside_row
        distance, done_M[column] = distance_M[column], start
        if row_M[column] == FREE:
            return scanned, distance, column, FREE
        scanned_M[scanned] = column
        scanned += 1
        row = row_M[column]


@loop("void(int64[::1], int64[::1], float64[::1], float64, float64[::1], float64[::1], int64[::1], int64[::1])")
def assign_sparsely(pointers_R, columns_E, scores_E, outside, price_M, profit_N, column_N, row_M):
    """Find the assignment with the largest sum of scores, and the prices and profits that prove the optimum.

    Args:
        pointers_R: The start of each row's entries, and at the end the number of entries [N + 1].
        columns_E: Column of each entry.
        scores_E: Score of each entry.
        outside: Score of a row without a column.
        price_M: Zeros; receives the price of each column.
        profit_N: Receives the profit of each row.
        column_N: FREE everywhere; receives the column of each row, or OUTSIDE.
        row_M: FREE everywhere; receives the row of each column, or stays FREE.
    """
    rows, columns = len(profit_N), len(price_M)
    distances_H, columns_H = np.empty(len(columns_E) + 1), np.empty(len(columns_E) + 1, np.int64)
    distance_M, from_M, scanned_M = np.empty(columns), np.empty(columns, np.int64), np.empty(columns, np.int64)
    seen_M, done_M = np.full(columns, FREE), np.full(columns, FREE)
    _take_favourites(pointers_R, columns_E, scores_E, outside, price_M, profit_N, column_N, row_M)
    for start in range(rows):
        if column_N[start] != FREE:
            continue
        scanned, length, column, row = _search(
            start, pointers_R, columns_E, scores_E, outside, price_M, profit_N, row_M,
            distances_H, columns_H, distance_M, from_M, seen_M, done_M, scanned_M,
        )  # fmt: skip
        profit_N[start] -= length
        for number in range(scanned):
            raised = length - distance_M[scanned_M[number]]
            price_M[scanned_M[number]] += raised
            profit_N[row_M[scanned_M[number]]] -= raised
        # Along the path, from its end, each row takes the next column and leaves its own to the row before.
        if column == OUTSIDE:
            column, column_N[row] = column_N[row], OUTSIDE
        while row != start:
            row = from_M[column]
            row_M[column] = row
            column, column_N[row] = column_N[row], column
