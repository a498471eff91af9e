"""Rows of local files, one after another in little memory: JSON lines, CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sae_core.errors import UserError

Row = dict[str, Any]
FORMATS = (".jsonl", ".csv", ".tsv", ".parquet")
_LONGEST_FIELD = 2**31 - 1


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a file, with all columns that hold plain values, and with ``columns`` whatever they hold.

    Raises:
        UserError: If the file is missing, of an unknown format, damaged, or lacks one of ``columns``.
    """
    _check_is_file(path)
    readers = {".jsonl": _json_lines, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path} is of no known format; give a file that ends in {', '.join(FORMATS)}.")
    for number, row in enumerate(reader(path, columns), start=1):
        require_columns(row, columns, f"{path} (row {number})")
        yield row


def require_columns(row: Row, columns: Sequence[str], where: str) -> None:
    """Check that a row has the columns.

    Raises:
        UserError: If one is missing; the message names those that are there.
    """
    for column in columns:
        if column not in row:
            there = ", ".join(map(str, row)) or "none"
            raise UserError(f"{where} has no column {column!r}; choose one of those it has: {there}.")


def read_text_file(path: Path) -> str:
    """A whole text file.

    Raises:
        UserError: If it is missing, unreadable or not UTF-8.
    """
    _check_is_file(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _check_is_file(path: Path) -> None:
    if not path.exists():
        raise UserError(f"The file {path} does not exist; check the path.")
    if not path.is_file():
        raise UserError(f"{path} is a folder; give the path of a file.")


def _json_lines(path: Path, _columns: Sequence[str]) -> Iterator[Row]:
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(f"Line {number} of {path} is no JSON object; give one object a line.")
                yield row
    except json.JSONDecodeError as error:
        raise UserError(f"Line {number} of {path} is not JSON ({error}); correct it or leave it out.") from None
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _csv(path: Path, _columns: Sequence[str]) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_FIELD)  # the default of 128 KiB is less than a long document
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            # Strict, as a quotation mark that is never closed would otherwise swallow the rest of the file.
            reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
            for row in reader:
                line = reader.line_num
                if None in row:
                    raise UserError(
                        f"Line {line} of {path} has more fields than the header; put text that holds {delimiter!r} in "
                        "quotation marks."
                    )
                yield row
    except csv.Error as error:
        raise UserError(f"{path} is not readable as CSV after line {line} ({error}); correct that line.") from None
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            # Columns of lists, such as embeddings, are heavy and say nothing to a person.
            names = [field.name for field in file.schema_arrow if not pa.types.is_nested(field.type)]
            wanted = [*names, *(name for name in columns if name in file.schema_arrow.names and name not in names)]
            for batch in file.iter_batches(batch_size=1024, columns=wanted):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _not_utf8(path: Path, error: UnicodeDecodeError) -> UserError:
    return UserError(f"{path} is not UTF-8 text (byte {error.object[error.start]:#x}); convert it to UTF-8.")


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0].rstrip(".")
    return UserError(f"{path} cannot be read ({reason}); check that the file is whole and that you may read it.")
