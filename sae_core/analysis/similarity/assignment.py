"""Find the one-to-one assignment with the largest sum of scores, exactly and at any size.

A dense solver holds all scores in float64: 2 GB for 16,384 × 16,384. But an optimal assignment mostly uses the largest
scores of each row and column. We solve the assignment among these *candidates*. The prices (dual variables) of the
solution then show which other scores could improve it. These scores become candidates too, and the solver runs again,
until no score can improve the solution. So the result is a proven optimum over all scores (column generation, as for
linear programs), and the scores are computed block by block.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae_core.analysis.similarity.assignment_loops import FREE, assign_sparsely

DENSE_CELLS = 2**22
"""Up to this many scores (2,048 × 2,048), a dense solver is as fast and takes little memory."""
CANDIDATES = 16
"""Number of largest scores of each row and each column among the first candidates."""
SLACK = 1e-9
"""The gain beyond a row's profit that counts as rounding."""
JITTER = 1e-6
"""Noise for choosing new candidates, so that equal rows do not all choose the same few of equal columns."""

Blocks = Iterable[tuple[int, Tensor]]
"""(number of the first row, scores [b, M]), for all rows; iterated more than once, and the same each time."""


@torch.no_grad()
def largest_assignment(
    blocks: Blocks, rows: int, columns: int, *, candidates: int = CANDIDATES, dense_cells: int = DENSE_CELLS
) -> NDArray[np.int64]:
    """Find a different column for each row [N] with the largest possible sum of scores.

    Args:
        blocks: The scores, from −1 to 1.
        rows: Number of rows, N.
        columns: Number of columns, M ≥ N.
        candidates: Number of first candidates of each row and column.
        dense_cells: Up to this many scores, use SciPy's dense solver.
    """
    if rows * columns <= dense_cells:
        scores_NM = torch.cat([block_bM for _, block_bM in blocks]).cpu().numpy()
        column_N: NDArray[np.int64] = linear_sum_assignment(scores_NM, maximize=True)[1]
        return column_N
    graph = _first_candidates(blocks, rows, columns, candidates)
    while True:
        column_N, price_M, profit_N = graph.assign()
        if not graph.extend(blocks, price_M, profit_N, candidates):
            return column_N
        candidates = min(2 * candidates, columns)


class _Graph:
    """The candidates, ordered by row and column.

    Attributes:
        keys_E: Row times M plus column, ascending.
        scores_E: Score of each candidate.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.keys_E, self.scores_E = np.empty(0, np.int64), np.empty(0, np.float64)
        chance = torch.Generator().manual_seed(0)
        noise_M = JITTER * torch.rand(columns, generator=chance, dtype=torch.float64)
        self._noise = torch.cat([noise_M, noise_M])
        self._shift_N = torch.randint(columns, (rows,), generator=chance)

    def add(self, row_E: Tensor, column_E: Tensor, score_E: Tensor) -> None:
        """Add candidates; existing candidates stay as they are."""
        keys = np.concatenate([self.keys_E, (row_E * self.columns + column_E).cpu().numpy()])
        scores = np.concatenate([self.scores_E, score_E.double().cpu().numpy()])
        self.keys_E, first = np.unique(keys, return_index=True)
        self.scores_E = scores[first]

    def assign(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Solve among the candidates: (column of each row, price of each column, profit of each row)."""
        pointers = np.searchsorted(self.keys_E, np.arange(self.rows + 1) * self.columns)
        column_N, row_M = np.full(self.rows, FREE), np.full(self.columns, FREE)
        price_M, profit_N = np.zeros(self.columns), np.zeros(self.rows)
        # A row outside gets less than any free column would give it, and each row outside has a free column.
        assign_sparsely(pointers, self.keys_E % self.columns, self.scores_E, -4.0, price_M, profit_N, column_N, row_M)
        return column_N, price_M, profit_N

    def extend(
        self, blocks: Blocks, price_M: NDArray[np.float64], profit_N: NDArray[np.float64], candidates: int
    ) -> bool:
        """Make candidates of the scores that gain a row more than its profit, the best few of each such row.

        Returns:
            Whether there are such scores; if not, the assignment is the optimum over all scores.
        """
        found = []
        price, profit = torch.from_numpy(price_M), torch.from_numpy(profit_N)
        for start, block_bM in blocks:
            gain_bM = block_bM.double() - price.to(block_bM.device)
            limit_b = profit[start : start + len(gain_bM)].to(gain_bM.device) + SLACK
            late_L = (gain_bM.max(dim=1).values > limit_b).nonzero().flatten()
            if not len(late_L):
                continue
            gain_LM, limit_L1 = gain_bM[late_L], limit_b[late_L, None]
            picks_LC = (gain_LM + self._jitter(start + late_L)).topk(candidates, dim=1).indices
            # Always include the best score, so that every round adds a candidate.
            picks_LC = torch.cat([gain_LM.argmax(dim=1, keepdim=True), picks_LC], dim=1)
            keep_LC = gain_LM.gather(1, picks_LC) > limit_L1
            rows_LC = (start + late_L)[:, None].expand_as(picks_LC)
            scores_LC = block_bM[late_L].gather(1, picks_LC)
            found.append((rows_LC[keep_LC], picks_LC[keep_LC], scores_LC[keep_LC]))
        if found:
            self.add(*(torch.cat(parts) for parts in zip(*found, strict=True)))
        return bool(found)

    def _jitter(self, rows_L: Tensor) -> Tensor:
        """Noise [L, M] that differs from row to row: the same numbers, shifted differently for each row."""
        return self._noise.to(rows_L.device).unfold(0, self.columns, 1)[self._shift_N.to(rows_L.device)[rows_L]]


def _first_candidates(blocks: Blocks, rows: int, columns: int, candidates: int) -> _Graph:
    """Collect the largest scores of every row and of every column."""
    graph = _Graph(rows, columns)
    most: tuple[Tensor, Tensor] | None = None  # the largest scores of each column so far [≤ C, M], and their rows
    found = []
    for start, block_bM in blocks:
        scores_bC, columns_bC = block_bM.topk(min(candidates, columns), dim=1)
        rows_b = torch.arange(start, start + len(block_bM), device=block_bM.device)
        found.append((rows_b[:, None].expand_as(columns_bC).flatten(), columns_bC.flatten(), scores_bC.flatten()))
        scores_CM, rows_CM = block_bM.topk(min(candidates, len(block_bM)), dim=0)
        rows_CM = rows_CM + start
        if most is not None:
            scores_CM, rows_CM = torch.cat([most[0], scores_CM]), torch.cat([most[1], rows_CM])
            scores_CM, chosen_CM = scores_CM.topk(min(candidates, len(scores_CM)), dim=0)
            rows_CM = rows_CM.gather(0, chosen_CM)
        most = scores_CM, rows_CM
    assert most is not None
    columns_CM = torch.arange(columns, device=most[1].device).expand_as(most[1])
    found.append((most[1].flatten(), columns_CM.flatten(), most[0].flatten()))
    graph.add(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    return graph
