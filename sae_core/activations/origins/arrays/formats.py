"""Find the rows of activations in .npy, .npz, .safetensors, Parquet and Arrow files, and check what they are.

Nothing is unpickled. Rows that lie one after the other in a file stay there; others are unpacked, block by block.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sae_core.activations.store.array_rows import BFLOAT16, BLOCK_BYTES, RowArray
from sae_core.foundation.errors import UserError, short
from sae_core.foundation.files.row_files import check_is_file
from sae_core.foundation.files.whole_files import parse_json

Blocks = Callable[[], Iterator[NDArray[Any]]]
"""Gives the rows of an array, some [B, D] at a time."""
_SAFETENSORS = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": BFLOAT16, "I8": "|i1", "U8": "|u1", "I16": "<i2"}
_SAFETENSORS |= {"U16": "<u2", "I32": "<i4", "I64": "<i8", "U32": "<u4", "BOOL": "|u1"}
_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Found:
    """One array of activations.

    Attributes:
        name: The file, and where it holds several things, which of them; for messages.
        rows: Number of rows.
        width: Numbers in a row.
        dtype: As `RowArray` has it.
        array: Where its rows lie, if they lie one after the other.
        blocks: Gives its rows, if they do not.
    """

    name: str
    rows: int
    width: int
    dtype: str
    array: RowArray | None = None
    blocks: Blocks | None = None


def find_arrays(files: Sequence[str], field: str | None) -> list[Found]:
    """The arrays of some files and folders, in the order in which they are given; the files of a folder by name.

    Raises:
        UserError: If a file is missing, damaged or of no known format, holds no rows of numbers, or has another width
            or type than the first one.
    """
    found = [_open(path, field) for path in _files(files)]
    first = found[0]
    for each in found:
        if each.width != first.width:
            raise UserError(
                f"{each.name} has {each.width} numbers in a row, but {first.name} has {first.width}; give arrays of "
                "one width, with one activation a row."
            )
        if each.dtype != first.dtype:
            raise UserError(
                f"{each.name} holds {_type_name(each.dtype)}, but {first.name} holds {_type_name(first.dtype)}; write "
                "all arrays in one number format."
            )
    return found


def _files(given: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for name in given:
        path = Path(name)
        inside = [path]
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in _READERS and file.is_file())
            if not inside:
                raise UserError(f"The folder {path} holds no file that ends in {_endings()}; give one that does.")
        found += inside
    for number, path in enumerate(found):
        check_is_file(path)
        if path in found[:number]:
            raise UserError(f"{path} is given twice; leave one of them out.")
    return found


def _endings() -> str:
    return ", ".join(_READERS)


def _open(path: Path, field: str | None) -> Found:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path} is of no known format; give a file that ends in {_endings()}, or a folder of these.")
    with _reading(path):
        found = reader(path, field)
    if not found.rows or not found.width:
        raise UserError(f"{found.name} is empty ({found.rows} rows of {found.width} numbers); leave it out.")
    return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # what the readers of NumPy, zipfile and Arrow raise on damaged files is of many types
        raise _damaged(path, error) from None


def _damaged(path: Path, error: BaseException) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return UserError(f"{path} cannot be read ({short(reason)}); check that the file is whole.")


def _npy(path: Path, field: str | None) -> Found:
    if field is not None:
        raise UserError(f"{path} holds one array without a name; leave out origin.field ({field}).")
    with path.open("rb") as file:
        shape, by_column, dtype = _npy_header(file, str(path))
        start = file.tell()
    return _plain(str(path), path, start, shape, dtype, by_column, path.stat().st_size - start)


def _npz(path: Path, field: str | None) -> Found:
    with zipfile.ZipFile(path) as archive:
        names = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        heads = {}
        for name, entry in names.items():
            with archive.open(entry) as file:
                heads[name] = (*_npy_header(file, f"Array {name!r} of {path}", strict=name == field), file.tell())
        name = _chosen(path, field, {name: head[0] for name, head in heads.items()}, "array")
        entry, (shape, by_column, dtype, head) = names[name], heads[name]
        told = f"Array {name!r} of {path}"
        _require_numbers(told, dtype)
        if entry.compress_type == zipfile.ZIP_STORED:
            # The local header of an entry ends with its name and an extra field, whose lengths it says.
            with path.open("rb") as file:
                file.seek(entry.header_offset + 26)
                start = entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))) + head
            return _plain(told, path, start, shape, dtype, by_column, entry.file_size - head)
    if by_column:
        raise UserError(f"{told} is compressed and stored column by column; save it with numpy.savez.")
    _require_rows(told, shape)
    rows, width = shape
    if (whole := rows * width * dtype.itemsize) != entry.file_size - head:
        raise UserError(f"{told} is cut off: it says that it holds {whole:,} bytes; write it again.")
    return Found(told, rows, width, _name_of(dtype), blocks=lambda: _unzipped(path, entry.filename, head, shape, dtype))


def _npy_header(file: IO[bytes], told: str, *, strict: bool = True) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, whether it lies column by column, type) of a NumPy array, whose header alone is read."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, by_column, dtype = read(file)
    if strict:
        _require_numbers(told, dtype)
    return shape, by_column, dtype


def _require_numbers(told: str, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise UserError(
            f"{told} holds pickled Python objects, which are never read, as they may run code; save an array of floats."
        )
    if dtype.kind == "V" and dtype.itemsize == 2:
        raise UserError(
            f"{told} holds values of 2 bytes without a type, as NumPy writes bfloat16; save it as .safetensors or as "
            "float32."
        )
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise UserError(f"{told} holds {dtype}, not real numbers; save it as float32.")


def _require_rows(told: str, shape: Sequence[int]) -> None:
    if len(shape) != 2:
        raise UserError(
            f"{told} has the shape {list(shape)}, not [rows, numbers in a row]; reshape it, so that each row is one "
            "activation."
        )


def _plain(
    told: str, path: Path, start: int, shape: Sequence[int], dtype: np.dtype[Any] | str, by_column: bool, there: int
) -> Found:
    """An array whose numbers lie side by side in a file, ``there`` bytes of which are its own."""
    _require_rows(told, shape)
    rows, width = shape
    kind = dtype if isinstance(dtype, str) else _name_of(dtype)
    array = RowArray(str(path.absolute()), start, rows, width, kind)
    if rows * array.row_bytes > there:
        raise UserError(f"{told} is cut off: {rows} rows of {width} numbers do not fit into its bytes; write it again.")
    if not by_column or 1 in (rows, width):
        return Found(told, rows, width, kind, array)
    return Found(told, rows, width, kind, blocks=lambda: _by_rows(path, start, rows, width, np.dtype(dtype)))


def _name_of(dtype: np.dtype[Any]) -> str:
    return "|u1" if dtype.kind == "b" else dtype.str


def _by_rows(path: Path, start: int, rows: int, width: int, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    columns_DR = np.memmap(path, dtype, "r", start, (width, rows))
    step = max(1, BLOCK_BYTES // (width * dtype.itemsize))
    for first in range(0, rows, step):
        yield np.ascontiguousarray(columns_DR[:, first : first + step].T)


def _unzipped(
    path: Path, entry: str, head: int, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[NDArray[Any]]:
    rows, width = shape
    step = max(1, BLOCK_BYTES // (width * dtype.itemsize))
    with zipfile.ZipFile(path) as archive, archive.open(entry) as file:
        file.read(head)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            yield np.frombuffer(file.read(count * width * dtype.itemsize), dtype).reshape(count, width)


def _tensors(path: Path, field: str | None) -> Found:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        room = path.stat().st_size - 8 - length
        if room < 0:
            raise ValueError("its header is longer than the file")
        header = parse_json(file.read(length).decode("utf-8"))
    header.pop("__metadata__", None)
    name = _chosen(path, field, {name: entry["shape"] for name, entry in header.items()}, "tensor")
    entry, told = header[name], f"Tensor {name!r} of {path}"
    if entry["dtype"] not in _SAFETENSORS:
        raise UserError(f"{told} holds {entry['dtype']}, not real numbers that can be read; save it as F32 or BF16.")
    (first, end), shape = entry["data_offsets"], entry["shape"]
    if not all(isinstance(number, int) and number >= 0 for number in (first, end, *shape)):
        raise ValueError("its header holds negative numbers")
    if end > room:
        raise ValueError("it is cut off")
    return _plain(told, path, 8 + length + first, shape, _SAFETENSORS[entry["dtype"]], False, end - first)


def _chosen(path: Path, field: str | None, shapes: dict[str, Sequence[int]], what: str) -> str:
    """Which of the things in a file is meant."""
    named = ", ".join(map(repr, list(shapes)[:_MOST_NAMED])) + (", …" if len(shapes) > _MOST_NAMED else "") or "none"
    if field is not None:
        if field not in shapes:
            raise UserError(f"{path} holds no {what} {field!r}; set origin.field to one of those there: {named}.")
        return field
    tables = [name for name, shape in shapes.items() if len(shape) == 2]
    if len(shapes) == 1:
        return next(iter(shapes))
    if len(tables) != 1:
        raise UserError(f"{path} holds {len(shapes)} {what}s; say by --set origin.field=NAME which: {named}.")
    return tables[0]


def _parquet(path: Path, field: str | None) -> Found:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows

    def batches(names: list[str]) -> Iterator[Any]:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=4096, columns=names)

    return _of_columns(path, field, schema, rows, batches)


def _arrow(path: Path, field: str | None) -> Found:
    import pyarrow as pa

    def opened() -> Any:
        source = pa.memory_map(str(path))
        try:
            return pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            return pa.ipc.open_stream(source)

    def batches(names: list[str] | None = None) -> Iterator[Any]:
        file = opened()
        if isinstance(file, pa.ipc.RecordBatchFileReader):
            found: Iterable[Any] = (file.get_batch(number) for number in range(file.num_record_batches))
        else:
            found = file
        for batch in found:
            yield batch if names is None else batch.select(names)

    return _of_columns(path, field, opened().schema, sum(batch.num_rows for batch in batches()), batches)


def _of_columns(
    path: Path, field: str | None, schema: Any, rows: int, batches: Callable[[list[str]], Iterator[Any]]
) -> Found:
    """Rows from a column of lists, or from a table of which every column is a dimension."""
    import pyarrow as pa

    def is_list(kind: Any) -> bool:
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return bool(lists and _is_number(kind.value_type))

    kinds = {column.name: column.type for column in schema}
    lists = [name for name, kind in kinds.items() if is_list(kind)]
    if field is not None and field not in lists:
        named = ", ".join(map(repr, lists[:_MOST_NAMED])) or "none"
        raise UserError(f"{path} has no column {field!r} of lists of numbers; its columns of that kind: {named}.")
    if field is None and len(lists) > 1:
        named = ", ".join(map(repr, lists[:_MOST_NAMED]))
        raise UserError(f"{path} has {len(lists)} columns of lists; say by --set origin.field=NAME which: {named}.")
    if lists:
        name = field or lists[0]
        told, value = f"Column {name!r} of {path}", np.dtype(kinds[name].value_type.to_pandas_dtype())
        width = _list_width(told, name, batches)
        return Found(
            told,
            rows,
            width,
            _name_of(value),
            blocks=lambda: (_lists(told, batch.column(0), width) for batch in batches([name]) if len(batch)),
        )
    other = next((name for name, kind in kinds.items() if not _is_number(kind)), None)
    if other is not None:
        raise UserError(
            f"{path} has no column of lists of numbers, and column {short(other)} holds {kinds[other]}; leave out what "
            "is no dimension of an activation, and give it with --rows."
        )
    types = {np.dtype(kind.to_pandas_dtype()) for kind in kinds.values()}
    if len(types) > 1:
        raise UserError(f"The columns of {path} have the types {', '.join(sorted(map(str, types)))}; write all as one.")
    names = list(kinds)
    dtype = types.pop() if types else np.dtype("<f4")
    return Found(
        str(path), rows, len(names), _name_of(dtype), blocks=lambda: (_table(path, batch) for batch in batches(names))
    )


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _list_width(told: str, name: str, batches: Callable[[list[str]], Iterator[Any]]) -> int:
    for batch in batches([name]):
        if len(batch):
            first = batch.column(0)[0].as_py()
            if first is None:
                raise UserError(f"{told} has no list in row 1; give each row its numbers.")
            return len(first)
    return 0


def _lists(told: str, column: Any, width: int) -> NDArray[Any]:
    """Lists as rows [B, D]."""
    if column.null_count:
        raise UserError(f"{told} has rows without a list; give each row its numbers.")
    flat = column.flatten()
    if flat.null_count:
        raise UserError(f"{told} has lists with missing numbers; fill them in.")
    import pyarrow.compute as pc

    lengths = np.asarray(pc.list_value_length(column))
    if not np.all(lengths == width):
        raise UserError(
            f"{told} has lists of {width} and of {int(lengths[lengths != width][0])} numbers; give one width."
        )
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, width)


def _table(path: Path, batch: Any) -> NDArray[Any]:
    """Columns as rows [B, D]."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.null_count:
            raise UserError(f"Column {short(name)} of {path} has missing numbers; fill them in.")
    return np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns], axis=1)


def _type_name(dtype: str) -> str:
    return "bfloat16" if dtype == BFLOAT16 else str(np.dtype(dtype))


_READERS: dict[str, Callable[[Path, str | None], Found]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _tensors,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}
