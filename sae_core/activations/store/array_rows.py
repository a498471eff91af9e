"""Read rows of arrays where they lie in their files, in any order, without mapping or copying whole files.

Mapped pages would count as memory of the process; a plain read of some rows does not.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import map_tensors
from sae_core.foundation.files.whole_files import write_tensors

BLOCK_BYTES = 8 * 2**20
"""Bytes that are read together where an array is read from beginning to end."""
BFLOAT16 = "BF16"
ORDER = "rows.safetensors"
_OPEN = 64
"""Files that are open at once, at most."""
_SERVED = {"<f4": "float32", "<f2": "float16", BFLOAT16: "bfloat16"}


@dataclass(frozen=True, slots=True)
class RowArray:
    """Where the rows of one array lie in a file, one after the other.

    Attributes:
        file: The file.
        start: Its byte at which the first row begins.
        rows: Number of rows.
        width: Numbers in a row, D.
        dtype: Their type as NumPy spells it, or `BFLOAT16`.
    """

    file: str
    start: int
    rows: int
    width: int
    dtype: str

    def within(self, folder: Path) -> Path:
        """The file, where a relative path begins at a folder, which need not be there yet."""
        return Path(os.path.normpath(folder / self.file))

    @property
    def stored(self) -> np.dtype[Any]:
        """The NumPy type of what is read; that of bfloat16 is an integer of the same bits."""
        return np.dtype("<i2" if self.dtype == BFLOAT16 else self.dtype)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.width * self.stored.itemsize

    @property
    def block(self) -> int:
        """Rows that are read together."""
        return max(1, BLOCK_BYTES // max(self.row_bytes, 4 * self.width))


def served_dtype(dtype: str) -> str:
    """The number format of a cache over arrays of this type: their own, or float32 for wider and for whole numbers."""
    return _SERVED.get(dtype, "float32")


class ArrayRows:
    """Rows of arrays, in an order of their own. Several threads may read.

    Args:
        folder: Relative paths of files begin here.
        arrays: The arrays, one after another.
        order_R: The number of each row in the arrays together, int64 [rows].
    """

    def __init__(self, folder: Path, arrays: Sequence[RowArray], order_R: NDArray[np.int64]) -> None:
        self._folder, self._arrays, self._order_R = folder, arrays, order_R
        self._starts = np.cumsum([0, *(array.rows for array in arrays)])
        self._open: OrderedDict[Path, IO[bytes]] = OrderedDict()
        self._lock = threading.Lock()
        self.shape = (len(order_R), arrays[0].width)

    def __len__(self) -> int:
        return len(self._order_R)

    def stored(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop`` of the order [stop − start, D]; bfloat16 as integers, wide numbers as float32."""
        return self._read(self._order_R[start:stop])

    def take(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """The rows at some places of the order [places, D]."""
        return self._read(self._order_R[places])

    def _read(self, rows_B: NDArray[np.int64]) -> NDArray[Any]:
        first = self._arrays[0]
        found_BD = np.empty((len(rows_B), first.width), first.stored)
        array_B = np.searchsorted(self._starts, rows_B, side="right") - 1
        # A run of rows that follow each other in one array is read at once.
        cuts = np.flatnonzero((np.diff(rows_B) != 1) | (np.diff(array_B) != 0)) + 1
        bounds = [0, *cuts.tolist(), len(rows_B)] if len(rows_B) else [0]
        with self._lock:
            for begin, end in pairwise(bounds):
                array = self._arrays[array_B[begin]]
                row = int(rows_B[begin] - self._starts[array_B[begin]])
                self._fill(array, row, found_BD[begin:end])
        return found_BD if array_is_served(first) else found_BD.astype(np.float32)

    def _fill(self, array: RowArray, row: int, into_BD: NDArray[Any]) -> None:
        path = array.within(self._folder)
        file = self._open.get(path)
        if file is None:
            if len(self._open) >= _OPEN:
                self._open.popitem(last=False)[1].close()
            try:
                file = self._open[path] = path.open("rb", buffering=0)
            except OSError as error:
                raise gone(path, error) from None
        self._open.move_to_end(path)
        file.seek(array.start + row * array.row_bytes)
        view, done = _bytes(into_BD), 0
        while done < len(view):
            read = file.readinto(view[done:])  # type: ignore[attr-defined]
            if not read:
                raise UserError(f"{path} has become shorter since its rows were counted; restore it.")
            done += read


def array_is_served(array: RowArray) -> bool:
    """Whether rows are given as they are stored, and not as float32."""
    return array.dtype in _SERVED


def _bytes(rows_BD: NDArray[Any]) -> memoryview:
    return rows_BD.view(np.uint8).reshape(-1).data


def read_blocks(
    folder: Path, array: RowArray, digest: Callable[[memoryview], object] | None = None
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Read an array from beginning to end, some rows at a time.

    Args:
        folder: Where a relative path begins.
        array: The array.
        digest: Told the bytes of every block, as they are in the file.

    Yields:
        (number of the first row, rows [B, D] as they are stored).
    """
    rows = ArrayRows(folder, [array], np.arange(array.rows))
    for start in range(0, array.rows, array.block):
        count = min(array.block, array.rows - start)
        block_BD = np.empty((count, array.width), array.stored)
        rows._fill(array, start, block_BD)
        if digest is not None:
            digest(_bytes(block_BD))
        yield start, block_BD


def described(folder: Path, array: RowArray, checksum: str) -> dict[str, Any]:
    """What the manifest of a cache says of an array: where it lies, and how it is known again."""
    status = array.within(folder).stat()
    return {**asdict(array), "bytes": status.st_size, "changed": status.st_mtime_ns, "checksum": checksum}


def write_order(folder: Path, order_R: NDArray[np.int64]) -> Path:
    """Write which rows of the arrays a cache has, in order."""
    import torch

    write_tensors(folder / ORDER, {"rows": torch.from_numpy(order_R)})
    return folder / ORDER


def open_rows(folder: Path, described: Sequence[dict[str, Any]]) -> ArrayRows:
    """The rows of a cache over arrays; a file that was written to since is read once, to see whether it is the same.

    Raises:
        UserError: If a file is gone, or its numbers are no longer what they were.
    """
    arrays = [RowArray(**{name: each[name] for name in RowArray.__dataclass_fields__}) for each in described]
    for array, each in zip(arrays, described, strict=True):
        path = array.within(folder)
        try:
            status = path.stat()
        except OSError as error:
            raise gone(path, error) from None
        if (status.st_size, status.st_mtime_ns) == (each["bytes"], each["changed"]):
            continue
        digest = hashlib.sha256()
        short = status.st_size < array.start + array.rows * array.row_bytes
        if not short:
            for _ in read_blocks(folder, array, digest.update):
                pass
        if short or digest.hexdigest() != each["checksum"]:
            raise UserError(f"{path} is no longer what it was when the run was begun; restore it, or use a new folder.")
    tensors, _ = map_tensors(folder / ORDER)
    try:
        order_R = tensors["rows"]
    except KeyError:
        raise UserError(f"{folder / ORDER} holds no rows; delete {folder} and run the command again.") from None
    most = sum(array.rows for array in arrays)
    if order_R.ndim != 1 or (len(order_R) and not 0 <= order_R.min() <= order_R.max() < most):
        raise UserError(f"{folder / ORDER} does not fit its arrays; delete {folder} and run the command again.")
    return ArrayRows(folder, arrays, order_R)


def gone(path: Path, error: OSError) -> UserError:
    """The sentence on a file of activations that cannot be read."""
    why = "is not there any more" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
    return UserError(f"{path}, which holds activations of this run, {why}; bring it back to this place.")
