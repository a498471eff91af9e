"""Write safetensors files larger than memory piece by piece, and map them into memory to read them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import damaged, parse_json, reading, replacing

Array = NDArray[Any]
_DTYPES = {"I8": "<i1", "U8": "<u1", "I32": "<i4", "U32": "<u4", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_READABLE = {**_DTYPES, "BF16": "<i2"}
"""Numpy types by safetensors' names. numpy has no bfloat16, so such tensors are mapped as integers of the same bits."""
_ZEROS = 2**24


class TensorWriter:
    """Write pieces of tensors to their places in one open safetensors file."""

    def __init__(self, file: IO[bytes], starts: Mapping[str, int], dtypes: Mapping[str, np.dtype[Any]]) -> None:
        self._file, self._starts, self._dtypes = file, starts, dtypes

    def write(self, name: str, first: int, values: Array) -> None:
        """Write ``values`` into the tensor ``name``, from element ``first`` on."""
        dtype = self._dtypes[name]
        # Write plainly and not through a map: on a full disk a write raises, but a map kills the process.
        self._file.seek(self._starts[name] + first * dtype.itemsize)
        self._file.write(np.ascontiguousarray(values, dtype=dtype).data)


@contextmanager
def writing_tensors(
    path: Path, layout: Mapping[str, tuple[Any, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> Iterator[TensorWriter]:
    """Write a safetensors file of known shapes piece by piece; the file appears at ``path`` when the block succeeds.

    Args:
        path: The file.
        layout: The dtype (``BF16`` for bfloat16, given as integers) and the shape of each tensor. Put the widest dtypes
            first, so that all tensors stay aligned.
        metadata: Strings for the header.
    """
    head, entries = _header(layout, metadata or {})
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + _end(entries))
        starts = {name: len(head) + entry["data_offsets"][0] for name, entry in entries.items()}
        dtypes = {name: np.dtype(_READABLE[entry["dtype"]]) for name, entry in entries.items()}
        yield TensorWriter(file, starts, dtypes)


@contextmanager
def mapping_new_tensors(
    path: Path, layout: Mapping[str, tuple[Any, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> Iterator[dict[str, Array]]:
    """Write a safetensors file of known shapes through arrays mapped into memory; otherwise like `writing_tensors`.

    Raises:
        OSError: If the disk has no room for the whole file. The error comes before anything is mapped.
    """
    head, entries = _header(layout, metadata or {})
    with replacing(path) as partial:
        with partial.open("wb") as file:
            file.write(head)
            file.flush()
            _make_room(file, len(head), _end(entries))
        data = np.memmap(partial, dtype=np.uint8, mode="r+")
        yield {name: _view(np.asarray(data), len(head), entry) for name, entry in entries.items()}
        data.flush()


def _header(
    layout: Mapping[str, tuple[Any, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of a safetensors file before the first tensor, and the header's entry for each tensor."""
    entries, end = dict[str, Any](), 0
    for name, (kind, shape) in layout.items():
        dtype, start = np.dtype(_READABLE["BF16"] if kind == "BF16" else kind), end
        end += math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _NAMES.get(dtype, "BF16"), "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps({"__metadata__": dict(metadata), **entries}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, entries


def _end(entries: Mapping[str, Any]) -> int:
    return max((entry["data_offsets"][1] for entry in entries.values()), default=0)


def _make_room(file: IO[bytes], start: int, size: int) -> None:
    """Reserve all bytes of a file now. On a full disk, writing into a hole of a mapped file would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), start, max(1, size))
        file.truncate(start + size)
    else:
        for first in range(0, size, _ZEROS):
            file.write(bytes(min(_ZEROS, size - first)))


def map_tensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Map the tensors of a safetensors file into memory, read-only; each part is read when used.

    Returns:
        (arrays by name, the header's metadata).

    Raises:
        UserError: If the file is missing, is cut off or is no safetensors file.
    """
    with reading(path):
        data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    try:
        body = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = parse_json(data[8:body].tobytes().decode("utf-8"))
        metadata = header.pop("__metadata__", {})
        arrays = {name: _view(data, body, entry) for name, entry in header.items()}
        if _end(header) != len(data) - body:
            raise ValueError("its length is not the one that its header gives")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(damaged(path, error)) from None
    return arrays, metadata


def _view(data: Array, body: int, entry: Mapping[str, Any]) -> Array:
    first, end = entry["data_offsets"]
    dtype, shape = np.dtype(_READABLE[entry["dtype"]]), tuple(entry["shape"])
    if not 0 <= first <= end <= len(data) - body or end - first != math.prod(shape) * dtype.itemsize:
        raise ValueError("it is cut off, or its header does not fit its contents")
    return data[body + first : body + end].view(dtype).reshape(shape)
