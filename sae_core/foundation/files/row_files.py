"""Read local files row by row in little memory: JSON lines and arrays, CSV, TSV and Parquet; text also compressed.

The text of every row is cleaned. A row that cannot be read correctly is refused, with its file and line in the message.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.clean_text import clean_text
from sae_core.foundation.files.text_streams import COMPRESSED, array_items, first_sign, format_of, open_text

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
MOST_NULS = 0.01
"""A file with a larger share of NUL characters than this is no text, or is UTF-16 without a byte order mark."""
_LONGEST_FIELD = 2**31 - 1
_LONGEST_NAME, _MOST_NAMES = 40, 20


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a file, with ``columns`` and with every other column that holds plain values.

    Dates, times and decimals of a Parquet file become text, except in ``columns``.

    Raises:
        UserError: If the file is missing, damaged or of an unknown format, has a column twice, or lacks one of
            ``columns``.
    """
    check_is_file(path)
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    reader = readers.get(format_of(path))
    if reader is None:
        raise UserError(
            f"{path} is of no known format; give a file that ends in {', '.join(FORMATS)}, text also with "
            f"{' or '.join(COMPRESSED)} behind it."
        )
    if reader is _parquet and path.suffix.lower() in COMPRESSED:
        raise UserError(f"{path} is Parquet, which is compressed inside; decompress the file around it.")
    for number, row in enumerate(reader(path, columns), start=1):
        require_columns(row, columns, f"{path} (row {number})")
        yield row


def require_columns(row: Row, columns: Sequence[str], where: str) -> None:
    """Check that a row has the columns.

    Raises:
        UserError: If a column is missing; the message lists the row's columns.
    """
    for column in columns:
        if column not in row:
            names = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…" for name in map(str, row)]
            there = ", ".join([*names[:_MOST_NAMES], *["…"][: len(names) > _MOST_NAMES]]) or "none"
            raise UserError(f"{where} has no column {column!r}; choose one of those it has: {there}.")


def cleaned(row: Row) -> Row:
    """Clean all texts of a row, also those in nested objects."""
    return {
        name: clean_text(value) if isinstance(value, str) else cleaned(value) if isinstance(value, dict) else value
        for name, value in row.items()
    }


def read_text_file(path: Path) -> str:
    """Read a whole text file.

    Raises:
        UserError: If the file is missing, unreadable, not UTF-8 or no text.
    """
    check_is_file(path)
    try:
        with open_text(path) as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    if text.count("\x00") > MOST_NULS * len(text):
        raise UserError(f"{path} is full of NUL characters, so it is no UTF-8 text; convert it to UTF-8.")
    return clean_text(text)


def check_is_file(path: Path) -> None:
    """Check that a path is a regular file. A pipe cannot be read twice, and a device may never end.

    Raises:
        UserError: If the path is missing, or is a folder, a pipe or a device.
    """
    try:
        if path.is_file():
            return
        if path.is_dir():
            raise UserError(f"{path} is a folder; give the path of a file.")
        if path.exists():
            raise UserError(f"{path} is a pipe or a device; write what comes from it into a file and give that.")
    except OSError as error:
        raise _unreadable(path, error) from None
    raise UserError(f"The file {path} does not exist; check the path.")


def _json(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of a .json file: an array of objects, or one object a line, as the file begins."""
    number = 0
    try:
        with open_text(path) as file:
            is_array = first_sign(file) == "["
        if not is_array:
            yield from _json_lines(path, columns)
            return
        with open_text(path) as file:
            for number, row in enumerate(array_items(file, _DECODER, str(path)), start=1):
                if not isinstance(row, dict):
                    raise UserError(f"Value {number} of {path} is no JSON object; give an array of objects.")
                yield row
    except (_TwiceError, RecursionError, ValueError, OSError) as error:
        raise _json_fault(error, f"Value {number + 1} of {path}", path) from None


def _json_lines(path: Path, _columns: Sequence[str]) -> Iterator[Row]:
    number = 0
    try:
        with open_text(path) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = _DECODER.decode(line)
                if not isinstance(row, dict):
                    raise UserError(f"Line {number} of {path} is no JSON object; give one object a line.")
                yield row
    except (_TwiceError, RecursionError, ValueError, OSError) as error:
        raise _json_fault(error, f"Line {number} of {path}", path) from None


def _json_fault(error: Exception, where: str, path: Path) -> UserError:
    match error:
        case _TwiceError():
            return UserError(f"{where} has the key {error.args[0]!r} twice; leave one of them out.")
        case RecursionError():
            return UserError(f"{where} is nested too deeply to be read; leave it out.")
        case UnicodeDecodeError():
            return _not_utf8(path, error)
        case json.JSONDecodeError():
            return UserError(f"{where} is not JSON ({error}); correct it or leave it out.")
        case OSError():
            return _unreadable(path, error)
    # Python refuses integers with too many digits.
    return UserError(f"{where} has a number that is too long to be read; leave it out.")


class _TwiceError(Exception):
    """A key stands twice in a JSON object."""


def _object(pairs: list[tuple[str, Any]]) -> Row:
    """Build a JSON object with clean keys and texts; refuse a key that stands twice."""
    row: Row = {}
    for key, value in pairs:
        name = clean_text(key)
        if name in row:
            raise _TwiceError(name)
        row[name] = clean_text(value) if isinstance(value, str) else value
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _csv(path: Path, _columns: Sequence[str]) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_FIELD)  # a long document exceeds the default limit of 128 KiB
    delimiter = "\t" if format_of(path) == ".tsv" else ","
    line = 0
    try:
        with open_text(path, newline="") as lines:
            # Strict, because an unclosed quotation mark would otherwise swallow the rest of the file.
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            names = [clean_text(name) for name in next(reader, [])]
            _refuse_twice(names, path)
            for row in reader:
                if not row:
                    continue
                line = reader.line_num
                if len(row) > len(names):
                    raise UserError(
                        f"Line {line} of {path} has more fields than the header; put text that holds {delimiter!r} in "
                        "quotation marks."
                    )
                if len(row) < len(names):
                    raise UserError(
                        f"Line {line} of {path} has {len(row)} of the header's {len(names)} fields; add those that are "
                        "missing, or leave the line out."
                    )
                # Nobody can ask for a column without a name, such as the row numbers that pandas writes.
                yield {name: clean_text(value) for name, value in zip(names, row, strict=True) if name}
    except csv.Error as error:
        raise UserError(f"{path} is not readable as CSV after line {line} ({error}); correct that line.") from None
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = 0
    try:
        with pq.ParquetFile(path) as file:
            _refuse_twice([clean_text(name) for name in file.schema_arrow.names], path)
            # Skip columns of lists, such as embeddings: they take much memory, and no person reads them.
            names = [field.name for field in file.schema_arrow if not pa.types.is_nested(field.type)]
            wanted = [*names, *(name for name in columns if name in file.schema_arrow.names and name not in names)]
            for batch in file.iter_batches(batch_size=1024, columns=wanted):
                lists = [_values(batch.column(name), name, path, done, plain=name not in columns) for name in wanted]
                done += len(batch)
                for values in zip(*lists, strict=True):
                    yield cleaned(dict(zip(map(clean_text, wanted), values, strict=True)))
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _values(column: pa.Array, name: str, path: Path, done: int, *, plain: bool) -> list[Any]:
    """The values of a column of some rows, after ``done`` earlier rows. With ``plain``, dates and decimals are text."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if plain and (pa.types.is_temporal(column.type) or pa.types.is_decimal(column.type)):
        # Arrow's range of dates is wider than Python's.
        with suppress(pa.ArrowException):  # Arrow cannot turn durations into text
            column = column.cast(pa.string())
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        row, byte = _first_undecodable(column)
        raise UserError(
            f"Column {name!r} of {path}, row {done + row}, is not UTF-8 text (byte {byte:#x}); convert it to UTF-8."
        ) from None
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"Column {name!r} of {path}, rows {done + 1} to {done + len(column)}, cannot be read ({error}); leave it "
            "out, or write it as text."
        ) from None
    return values


def _first_undecodable(column: pa.Array) -> tuple[int, int]:
    """The number (from 1) of the first row that is not UTF-8, and the offending byte."""
    for row, value in enumerate(column, start=1):
        try:
            value.as_py()
        except UnicodeDecodeError as error:
            return row, error.object[error.start]
    raise AssertionError("every row is UTF-8 by itself")


def _refuse_twice(names: Sequence[str], path: Path) -> None:
    """Refuse a header that names a column twice, since one column would silently replace the other."""
    twice = next((name for number, name in enumerate(names) if name and name in names[:number]), None)
    if twice is not None:
        raise UserError(f"{path} has the column {twice!r} twice; rename one of them or leave it out.")


def _not_utf8(path: Path, error: UnicodeDecodeError) -> UserError:
    return UserError(f"{path} is not UTF-8 text (byte {error.object[error.start]:#x}); convert it to UTF-8.")


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return UserError(f"{path} cannot be read ({reason}); check that the file is whole and that you may read it.")
