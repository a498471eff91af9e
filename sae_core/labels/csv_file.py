"""Write labels as CSV and read them back, to the byte; features are numbered in the ensemble, in the member or both."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.spreadsheets import original, write_rows
from sae_core.foundation.files.whole_files import read_text
from sae_core.foundation.numbering import feature_at, place_of, whole_number
from sae_core.labels.records import AUTHOR, COLUMNS, WRITTEN, Label, Source, cells_of, fault_of, now

LARGEST_MB = 20
"""The size limit of a file of labels in megabytes; some 200,000 labels fit."""
_REQUIRED = ("ensemble", "label")
_WITHIN = ("latent", "number_in_member")
"""Names of the column with the number within the member; older exports of the map use the second name."""
_FIRST_YEAR = 1970


@dataclass(frozen=True, slots=True)
class LabelFile:
    """The contents of a CSV file of labels.

    Attributes:
        labels: The labels, one per feature.
        unlabelled: Number of rows in which nobody has written, which are skipped; exports of the map have such rows.
        is_old: Whether ``feature`` is the number within the member, as in files of versions without column ``latent``.
        lacking: The fields for which the file has no column.
    """

    labels: Sequence[Label]
    unlabelled: int = 0
    is_old: bool = False
    lacking: Sequence[str] = ()


def write_csv(labels: Sequence[Label], run_name: str) -> str:
    """Return labels as CSV with the columns `COLUMNS`."""
    return write_rows(COLUMNS, [_written(one, run_name) for one in labels])


def _written(one: Label, run_name: str) -> list[object]:
    *cells, score = cells_of(one, run_name)
    # A number is written as it is, but a text that begins with a minus would look like a formula.
    return [*("" if cell is None else cell for cell in cells), "" if score is None else Decimal(f"{score:.4f}")]


def read_label_file(path: Path) -> str:
    """Read the text of a CSV file of labels.

    Raises:
        UserError: If the path is no regular file, or the file is larger than `LARGEST_MB` or not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no ordinary file; give the CSV file that labels export wrote.")
    if path.exists() and path.stat().st_size > LARGEST_MB * 1_000_000:
        raise UserError(f"{path} is larger than {LARGEST_MB} MB; split it into several files.")
    return read_text(path)


def parse_csv(text: str, widths: Mapping[str, Sequence[int]], run_name: str) -> LabelFile:
    """Parse the labels of a CSV text; arguments and errors as in `plan_import`."""
    labels: dict[tuple[str, int], Label] = {}
    unlabelled, is_old, lacking = 0, False, list[str]()
    for line, row in _rows(text):
        label = _parse_row(line, row, widths, run_name)
        is_old, lacking = _is_old(row), [name for name in WRITTEN if name not in row]
        if label.empty:
            unlabelled += 1
            continue
        if label.key in labels:
            raise UserError(f"Line {line}, column feature: the feature was already labelled above; keep one line.")
        labels[label.key] = label
    if unlabelled and not labels:
        raise UserError("Column label is empty in every line; write labels into it.")
    return LabelFile(list(labels.values()), unlabelled, is_old, lacking)


def _rows(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, cells by column) of each row that is not blank."""
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    # In much of Europe, spreadsheets separate cells by semicolons.
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = _header([name.strip().lower() for name in next(reader, [])])
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) != len(header):
                    raise UserError(f"Line {line} has {len(cells)} cells but the header {len(header)}; correct it.")
                yield line, {name: original(cell) for name, cell in zip(header, cells, strict=True)}
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"Line {reader.line_num} is not CSV ({error}); save the table as CSV again.") from None


def _header(names: list[str]) -> list[str]:
    """Check the names of the columns, and call the number within the member ``latent``."""
    there = ", ".join(names) or "none"
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise UserError(f"Line 1: column {missing[0]} is missing; the file has {there}.")
    if "feature" not in names and not ("member" in names and any(name in names for name in _WITHIN)):
        raise UserError(f"Line 1: column feature is missing, or member and latent; the file has {there}.")
    header = ["latent" if name in _WITHIN else name for name in names]
    twice = [name for name in dict.fromkeys(header) if name and header.count(name) > 1]
    if twice:
        raise UserError(f"Line 1: column {twice[0]} is there twice; keep one.")
    return header


def _is_old(row: Mapping[str, str]) -> bool:
    """Whether ``feature`` is the number within the member, as versions without the column ``latent`` wrote it."""
    return "feature" in row and "member" in row and "latent" not in row


def _parse_row(line: int, row: Mapping[str, str], widths: Mapping[str, Sequence[int]], run_name: str) -> Label:
    for name, cell in row.items():
        if "\0" in cell:
            raise UserError(f"Line {line}, column {name}: there is a NUL character in it; take it out.")
    if row.get("run", "").strip() not in ("", run_name):
        raise UserError(
            f"Line {line}, column run: the label is of run {row['run']!r} and this is {run_name!r};"
            " empty the column if the features are the same."
        )
    ensemble = row["ensemble"].strip()
    if ensemble not in widths:
        raise UserError(f"Line {line}, column ensemble: {ensemble[:80]!r} is none of {', '.join(widths)}.")
    place = place_of(_feature(line, row, widths[ensemble]), widths[ensemble])
    values = {}
    for name, kind in WRITTEN.items():
        try:
            values[name] = kind.parse(row.get(name, ""))
        except ValueError as error:
            raise UserError(f"Line {line}, column {name}: {error}") from None
    time, source = _time(line, row.get("time", "")), _source(line, row, widths[ensemble])
    label = Label.by(AUTHOR.parse(row.get("author", "")), ensemble, place, values)
    label = replace(label, time=time, source=source)
    if fault := fault_of(label):
        raise UserError(f"Line {line}, {fault}")
    return label


def _feature(line: int, row: Mapping[str, str], widths: Sequence[int], prefix: str = "") -> int:
    """The feature of a row, from its number in the ensemble, its number within the member, or both."""
    cells = {name: row.get(prefix + name, "").strip() for name in ("feature", "member", "latent")}
    if _is_old(row):
        cells["feature"], cells["latent"] = "", cells["feature"]
    within_name = f"{prefix}{'feature' if _is_old(row) else 'latent'}"
    numbers = []
    if cells["member"] or cells["latent"]:
        member = _number(line, f"{prefix}member", cells["member"], len(widths))
        if cells["latent"]:
            numbers.append(feature_at(member, _number(line, within_name, cells["latent"], widths[member]), widths))
    if cells["feature"] or not numbers:
        name = within_name if _is_old(row) else f"{prefix}feature"
        numbers.append(_number(line, name, cells["feature"], sum(widths)))
        if cells["member"]:
            numbers += [] if place_of(numbers[-1], widths).member == member else [-1]
    if len(set(numbers)) > 1:
        is_at = place_of(_number(line, f"{prefix}feature", cells["feature"], sum(widths)), widths)
        raise UserError(
            f"Line {line}, column {prefix}feature: {is_at.feature} is number {is_at.latent} of member {is_at.member},"
            f" and the columns {prefix}member and {prefix}latent say {cells['latent'] or 'any'} of {cells['member']};"
            " correct one of them."
        )
    return numbers[0]


def _source(line: int, row: Mapping[str, str], widths: Sequence[int]) -> Source | None:
    """The source of a propagated label; None if the cells are empty or missing."""
    names = ("source_feature", "source_member", "source_latent", "score")
    if not any(row.get(name, "").strip() for name in names):
        return None
    feature, member, latent = place_of(_feature(line, row, widths, "source_"), widths)
    cell = row.get("score", "").strip()
    try:
        # In much of Europe, spreadsheets write a decimal comma.
        score = float(cell.replace(",", "."))
    except ValueError:
        score = math.nan
    if not -1.0 <= score <= 1.0:
        raise UserError(f"Line {line}, column score: {cell[:40]!r} is not a number from -1 to 1.")
    return Source(feature, member, latent, round(score, 4))


def _number(line: int, column: str, cell: str, end: int) -> int:
    number = whole_number(cell, end)
    if number is None:
        raise UserError(f"Line {line}, column {column}: {cell[:40]!r} is not a number from 0 to {end - 1}.")
    return number


def _time(line: int, cell: str) -> str:
    """Parse a time into the stored format; an empty cell means now, and a time without a zone is in UTC."""
    cell = cell.strip()
    if not cell:
        return now()
    try:
        moment = datetime.fromisoformat(cell)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UserError(f"Line {line}, column time: {cell[:40]!r} is not a time such as {now()}.") from None
    if moment.year < _FIRST_YEAR or moment > datetime.now(UTC) + timedelta(days=1):
        raise UserError(
            f"Line {line}, column time: {cell[:40]!r} is before {_FIRST_YEAR} or in the future; give the time at which"
            f" the label was written, such as {now()}, or empty the cell."
        )
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
