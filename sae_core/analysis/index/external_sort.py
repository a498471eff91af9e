"""An external sort of a code's entries by feature, in bounded memory, stable: entries added in order stay in order.

Entries fill a buffer; each time it is full, it is sorted by counting and becomes a run on the disk. Runs are merged a
range of features at a time. Runs of other processes, or of other parts of a corpus, merge in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sae_core.analysis.index import sort_loops
from sae_core.foundation.files.mapped_tensors import TensorWriter, writing_tensors
from sae_core.training.kernels.cpu import team

Features = NDArray[np.int32]
Positions = NDArray[np.int32]
Values = NDArray[np.float32]
Pointers = NDArray[np.int64]


class SortedRun(Protocol):
    """Entries sorted by feature: those of feature f are pointers[f] to pointers[f + 1]."""

    def pointers(self, first: int, end: int) -> Pointers:
        """Where the features first to end start, and the entry after the last one's last [end − first + 1]."""

    def entries(self, start: int, stop: int) -> tuple[Positions, Values]:
        """The entries start to stop."""


@dataclass(frozen=True, slots=True)
class HeldRun:
    """A run in memory."""

    pointers_F: Pointers
    positions_E: Positions
    values_E: Values

    def pointers(self, first: int, end: int) -> Pointers:
        """As `SortedRun` says."""
        return self.pointers_F[first : end + 1]

    def entries(self, start: int, stop: int) -> tuple[Positions, Values]:
        """As `SortedRun` says."""
        return self.positions_E[start:stop], self.values_E[start:stop]


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run in a file; read and not mapped, so that the memory of those who merge stays what they hold.

    Attributes:
        path: The file.
        pointers_at: Where in it the pointers lie, in bytes.
        positions_at: Where the positions lie.
        values_at: Where the values lie.
    """

    path: Path
    pointers_at: int
    positions_at: int
    values_at: int

    def pointers(self, first: int, end: int) -> Pointers:
        """As `SortedRun` says."""
        return np.fromfile(self.path, np.int64, end - first + 1, offset=self.pointers_at + 8 * first)

    def entries(self, start: int, stop: int) -> tuple[Positions, Values]:
        """As `SortedRun` says."""
        positions_E = np.fromfile(self.path, np.int32, stop - start, offset=self.positions_at + 4 * start)
        return positions_E, np.fromfile(self.path, np.float32, stop - start, offset=self.values_at + 4 * start)


class EntrySorter:
    """Takes entries in order and gives them back in sorted runs.

    Args:
        folder: An existing folder for runs.
        features: How many features there are, F.
        capacity: Entries held at a time, at least F; that takes some 24 bytes each.
    """

    def __init__(self, folder: Path, features: int, capacity: int) -> None:
        self._folder, self._features, self._held = folder, features, 0
        # A run's pointers take as much as F entries, so to hold fewer would spare nothing.
        self._capacity = max(capacity, features)
        self._buffers = self._fresh_buffers(self._capacity)
        self._runs: list[SortedRun] = []

    @staticmethod
    def _fresh_buffers(capacity: int) -> tuple[Features, Positions, Values]:
        return np.empty(capacity, np.int32), np.empty(capacity, np.int32), np.empty(capacity, np.float32)

    def add(self, features_E: NDArray[np.integer], positions_E: NDArray[np.integer], values_E: Values) -> None:
        """Take entries; for one feature, positions must not fall below those of earlier calls."""
        taken, capacity = 0, self._capacity
        while taken < len(features_E):
            if self._held == capacity:
                self._runs.append(self._store(self._sorted()))
            piece = slice(taken, taken + capacity - self._held)
            count = len(features_E[piece])
            for buffer, column_E in zip(self._buffers, (features_E, positions_E, values_E), strict=True):
                buffer[self._held : self._held + count] = column_E[piece]
            self._held += count
            taken += count

    def finish(self) -> list[SortedRun]:
        """All entries as runs, in the order in which they came; the last one never leaves memory."""
        self._runs.append(self._sorted())
        self._buffers = self._fresh_buffers(0)
        return self._runs

    def _sorted(self) -> HeldRun:
        held, self._held = self._held, 0
        features_C, positions_C, values_C = self._buffers
        return sort_entries(features_C[:held], positions_C[:held], values_C[:held], self._features)

    def _store(self, run: HeldRun) -> StoredRun:
        path = self._folder / f"run_{len(self._runs):05d}"
        places = []
        with path.open("wb") as file:
            for array in (run.pointers_F, run.positions_E, run.values_E):
                places.append(file.tell())
                file.write(array.data)
        return StoredRun(path, *places)


def sort_entries(features_E: Features, positions_E: Positions, values_E: Values, features: int) -> HeldRun:
    """Sort entries by feature, those of a feature in the order in which they come."""
    pointers_F = np.zeros(features + 1, np.int64)
    team.run(sort_loops.count_entries, features_E, pointers_F[1:])
    np.cumsum(pointers_F, out=pointers_F)
    sorted_positions_E, sorted_values_E = np.empty_like(positions_E), np.empty_like(values_E)
    team.run(
        sort_loops.place_entries,
        *(_bounds(pointers_F), features_E, positions_E, values_E),
        *(pointers_F[:-1].copy(), sorted_positions_E, sorted_values_E),
    )
    return HeldRun(pointers_F, sorted_positions_E, sorted_values_E)


def write_merged(
    path: Path, runs: Sequence[SortedRun], features: int, capacity: int, metadata: Mapping[str, str]
) -> None:
    """Merge runs into one safetensors file of ``pointers``, ``positions`` and ``values``.

    Args:
        path: The file.
        runs: The runs; of one feature, the entries of an earlier run come before those of a later one.
        features: How many features there are, F.
        capacity: Entries held at a time, at least F; a feature with more of them than this is held whole.
        metadata: Strings kept in the file's header.
    """
    pointers_F, capacity = np.zeros(features + 1, np.int64), max(capacity, features)
    for run in runs:
        pointers_F += run.pointers(0, features)
    entries = int(pointers_F[-1])
    layout = {
        "pointers": (np.int64, (features + 1,)),
        "positions": (np.int32, (entries,)),
        "values": (np.float32, (entries,)),
    }
    with writing_tensors(path, layout, metadata) as writer:
        writer.write("pointers", 0, pointers_F)
        for first, end in _ranges(pointers_F, capacity):
            _write_range(writer, runs, pointers_F, first, end)


def _write_range(writer: TensorWriter, runs: Sequence[SortedRun], pointers_F: Pointers, first: int, end: int) -> None:
    """Merge and write the features first to end; a function, so that one range is gone before the next is read."""
    positions_E, values_E = _merged(runs, pointers_F, first, end)
    writer.write("positions", int(pointers_F[first]), positions_E)
    writer.write("values", int(pointers_F[first]), values_E)


def _ranges(pointers_F: Pointers, capacity: int) -> Iterator[tuple[int, int]]:
    """(first, end) of ranges of features that together have at most ``capacity`` entries, or of one that has more."""
    first, features = 0, len(pointers_F) - 1
    while first < features:
        within = int(np.searchsorted(pointers_F, pointers_F[first] + capacity, side="right")) - 1
        end = min(max(within, first + 1), features)
        yield first, end
        first = end


def _merged(runs: Sequence[SortedRun], pointers_F: Pointers, first: int, end: int) -> tuple[Positions, Values]:
    """All entries of features first to end, by feature and then by run."""
    if len(runs) == 1:
        return runs[0].entries(int(pointers_F[first]), int(pointers_F[end]))
    next_F = pointers_F[first:end] - pointers_F[first]
    size = int(pointers_F[end] - pointers_F[first])
    merged = np.empty(size, np.int32), np.empty(size, np.float32)
    for run in runs:
        run_pointers_F = run.pointers(first, end)
        found = run.entries(int(run_pointers_F[0]), int(run_pointers_F[-1]))
        team.run(sort_loops.append_entries, _bounds(run_pointers_F), run_pointers_F, *found, next_F, *merged)
    return merged


def _bounds(pointers_F: Pointers) -> Pointers:
    """Where the features of each part start, such that parts have about as many entries; at the end, F."""
    parts = team.count_parts()
    entries_P = pointers_F[0] + np.arange(parts + 1) * (pointers_F[-1] - pointers_F[0]) // parts
    bounds_P: Pointers = np.searchsorted(pointers_F, entries_P).astype(np.int64)
    bounds_P[0], bounds_P[-1] = 0, len(pointers_F) - 1
    return bounds_P
