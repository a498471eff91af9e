"""Store the entries of a code in files as they come, then sort them by feature into a mapped index.

Two passes read the stored entries: the first counts the entries of every feature, the second writes each entry after
the earlier entries of its feature. Memory holds one block at a time, and a feature's entries stay in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sae_core.analysis.index import placing_loops
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import mapping_new_tensors
from sae_core.training.kernels.cpu import team

_COLUMNS = (np.dtype("<i4"), np.dtype("<i4"), np.dtype("<f4"))
"""The types of a block's arrays after the number of entries: features, positions and values."""
_END = b"\xff" * 8
"""Stands in the place of a block's number of entries when all were written."""
Block = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]


class KeptEntries:
    """A file of entries, to be written in a ``with`` block."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                self._file.write(_END)

    def add(
        self, features_E: NDArray[np.integer], positions_E: NDArray[np.integer], values_E: NDArray[np.floating]
    ) -> None:
        """Append a block of entries; a feature's positions must not be smaller than those of earlier blocks."""
        self._file.write(len(features_E).to_bytes(8, "little"))
        for column_E, dtype in zip((features_E, positions_E, values_E), _COLUMNS, strict=True):
            self._file.write(np.ascontiguousarray(column_E, dtype).data)


def kept_blocks(path: Path) -> Iterator[Block]:
    """The blocks of a file of entries, in order.

    Raises:
        UserError: If the file is cut off.
    """
    with path.open("rb") as file:
        while (head := file.read(8)) != _END:
            count = int.from_bytes(head, "little") if len(head) == len(_END) else -1
            parts = [file.read(count * dtype.itemsize) for dtype in _COLUMNS] if count >= 0 else []
            if [len(part) for part in parts] != [count * dtype.itemsize for dtype in _COLUMNS]:
                raise UserError(f"{path} is cut off; look for room on the disk, and index again.")
            features_E, positions_E = (np.frombuffer(part, np.int32) for part in parts[:2])
            yield features_E, positions_E, np.frombuffer(parts[2], np.float32)


def write_placed(path: Path, kept: Sequence[Path], features: int, metadata: Mapping[str, str]) -> None:
    """Write one safetensors file of ``pointers``, ``positions`` and ``values``: entries by feature.

    Args:
        path: The file.
        kept: Files of `KeptEntries`; a feature's entries in an earlier file come before those in a later file.
        features: Number of features, F.
        metadata: Strings for the file's header.

    Raises:
        UserError: If a file of entries is cut off.
        OSError: If the disk has no room.
    """
    pointers_F = np.zeros(features + 1, np.int64)
    for file in kept:
        for features_E, _, _ in kept_blocks(file):
            pointers_F[1:] += np.bincount(features_E, minlength=features)
    np.cumsum(pointers_F, out=pointers_F)
    entries, bounds_P, next_F = int(pointers_F[-1]), _shares(pointers_F), pointers_F[:-1].copy()
    layout = {
        "pointers": (np.int64, (features + 1,)),
        "positions": (np.int32, (entries,)),
        "values": (np.float32, (entries,)),
    }
    with mapping_new_tensors(path, layout, metadata) as placed:
        placed["pointers"][:] = pointers_F
        for file in kept:
            for block in kept_blocks(file):
                columns = (*block, next_F, placed["positions"], placed["values"])
                team.run(placing_loops.place_entries, bounds_P, *columns)


def _shares(pointers_F: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first feature of each part, with about equally many entries per part, and at the end F."""
    parts = team.count_parts()
    entries_P = np.arange(parts + 1) * pointers_F[-1] // parts
    bounds_P: NDArray[np.int64] = np.searchsorted(pointers_F, entries_P).astype(np.int64)
    bounds_P[0], bounds_P[-1] = 0, len(pointers_F) - 1
    return bounds_P
