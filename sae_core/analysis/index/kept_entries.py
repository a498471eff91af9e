"""Store the entries of a code in files as they come, block by block, until they are placed by feature."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sae_core.foundation.errors import UserError

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
