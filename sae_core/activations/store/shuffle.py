"""Orders in which a cache is drawn: a permutation of all rows, or of a few piles of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

PILES_AT_ONCE = 2
"""Piles that are mixed. With more than one, passes differ in which piles these are; as many again are being read."""

Read = Callable[[int, int], NDArray[Any]]
Batch = TypeVar("Batch")


def permuted(
    take: Callable[[NDArray[np.int64]], Batch], rows: int, *, batch_size: int, seed: int, first_step: int = 0
) -> Iterator[Batch]:
    """Endless batches of rows, each pass a new random permutation of all of them.

    The rows that do not fill a batch at the end of a pass are left out of that pass.

    Args:
        take: Gives rows by their numbers, which ascend.
        rows: How many there are, at least a batch.
        batch_size: Rows in a batch, B.
        seed: Decides the order.
        first_step: Begin with the batch that has this number; the same as passing over those before it.
    """
    per_pass = rows // batch_size
    number, index = divmod(first_step, per_pass)
    while True:
        order = np.random.default_rng([seed, number]).permutation(rows)
        for step in range(index, per_pass):
            # Sorted, as disks read forwards faster; within a batch the order means nothing.
            yield take(np.sort(order[step * batch_size : (step + 1) * batch_size]))
        number, index = number + 1, 0


class _Mixed:
    """Some piles in memory, of which the rows are drawn in random order."""

    def __init__(self, read: Read, ranges: Sequence[tuple[int, int]], order: NDArray[np.int64]) -> None:
        self.order = order
        self._read, self._ranges, self._filled = read, list(ranges), 0
        self._rows_RD: NDArray[Any] | None = None

    def fill(self, rows: int) -> None:
        """Read about so many rows more, from beginning to end."""
        while rows > 0 and self._ranges:
            start, stop = self._ranges.pop(0)
            if stop - start > rows:
                self._ranges.insert(0, (start + rows, stop))
                stop = start + rows
            part_RD = self._read(start, stop)
            if self._rows_RD is None:
                self._rows_RD = np.empty((len(self.order), part_RD.shape[1]), part_RD.dtype)
            self._rows_RD[self._filled : self._filled + len(part_RD)] = part_RD
            self._filled += len(part_RD)
            rows -= len(part_RD)

    def draw(self, first: int, last: int) -> NDArray[Any]:
        """Rows ``first`` to ``last`` of the random order."""
        self.fill(len(self.order) - self._filled)
        assert self._rows_RD is not None
        return self._rows_RD[self.order[first:last]]


def draw_piles(
    read: Read, piles: Sequence[int], *, batch_size: int, seed: int, first_step: int = 0
) -> Iterator[NDArray[Any]]:
    """Endless batches [batch_size, D] of rows that lie in piles, as they are stored.

    In each pass every row comes once, but for those that do not fill a batch at the end. What is drawn next is read bit
    by bit between batches, so that no batch has to wait for a whole pile. In memory are at most twice `PILES_AT_ONCE`
    piles.

    Args:
        read: Gives rows ``start`` to ``stop``.
        piles: Number of rows of each pile, one after another.
        batch_size: Rows in a batch, B.
        seed: Decides the order.
        first_step: Begin with the batch that has this number; the same as passing over those before it.
    """
    per_pass = sum(piles) // batch_size
    number, index = divmod(first_step, per_pass)
    while True:
        groups = _groups(read, piles, np.random.default_rng([seed, number]))
        yield from islice(_pass(groups, batch_size, index * batch_size), per_pass - index)
        number, index = number + 1, 0


def _groups(read: Read, piles: Sequence[int], chance: np.random.Generator) -> list[_Mixed]:
    """The groups of piles of one pass, in random order; nothing is read yet."""
    ends = np.cumsum(piles)
    order = chance.permutation(len(piles))
    groups = []
    for first in range(0, len(order), PILES_AT_ONCE):
        ranges = [(int(ends[pile] - piles[pile]), int(ends[pile])) for pile in order[first : first + PILES_AT_ONCE]]
        groups.append(_Mixed(read, ranges, chance.permutation(sum(stop - start for start, stop in ranges))))
    return groups


def _pass(groups: list[_Mixed], batch_size: int, skip: int) -> Iterator[NDArray[Any]]:
    """Batches of one pass, of which ``skip`` rows are passed over."""
    rest: list[NDArray[Any]] = []
    missing = batch_size
    while groups:
        group, ahead = groups.pop(0), groups[0] if groups else None
        rows = len(group.order)
        first, skip = min(skip, rows), max(0, skip - rows)
        share = -(-(len(ahead.order) if ahead else 0) * batch_size // max(1, rows - first))
        while first < rows:
            rest.append(group.draw(first, first + missing))
            first, missing = first + len(rest[-1]), missing - len(rest[-1])
            if not missing:
                yield rest[0] if len(rest) == 1 else np.concatenate(rest)
                rest, missing = [], batch_size
                if ahead:
                    ahead.fill(share)
