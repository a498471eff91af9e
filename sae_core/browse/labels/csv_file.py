"""Labels as CSV and back, to the byte; what a spreadsheet would run as a formula is harmless on the way."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from sae_core.browse.labels.records import COLUMNS, Label, Source, now
from sae_core.errors import UserError

_REQUIRED = ("ensemble", "member", "feature", "label")
_HARMFUL = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A cell that begins with one of these is a formula, or hides one, to a spreadsheet (OWASP, *CSV injection*)."""


def write_csv(labels: Sequence[Label], run_name: str) -> str:
    """Labels as CSV with the columns `COLUMNS`."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in labels:
        texts = (run_name, one.ensemble, one.member, one.latent, one.label, one.note, one.author, one.time)
        source = one.source
        origin = (source.member, source.latent, f"{source.score:.4f}") if source else ("", "", "")
        writer.writerow([*(_harmless(cell) if isinstance(cell, str) else cell for cell in texts), *origin])
    return file.getvalue()


def _harmless(cell: str) -> str:
    # A cell that already begins with an apostrophe gets one more, so that reading takes back exactly what was added.
    return f"'{cell}" if cell.startswith((*_HARMFUL, "'")) else cell


def _original(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith((*_HARMFUL, "'")) else cell


def parse_csv(text: str, widths: Mapping[str, Sequence[int]], run_name: str) -> list[Label]:
    """The labels in a CSV text; arguments and errors as in `LabelStore.from_csv`."""
    labels: dict[tuple[str, int], Label] = {}
    for line, row in _rows(text):
        label = _parse_row(line, row, widths, run_name)
        key = (label.ensemble, label.feature)
        if key in labels:
            raise UserError(f"Line {line}, column feature: the feature was already labelled above; keep one line.")
        labels[key] = label
    return list(labels.values())


def _rows(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, cells by column) of each row that is not blank."""
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    # Spreadsheets in much of Europe separate by semicolons.
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in _REQUIRED if name not in header]
        if missing:
            raise UserError(f"Line 1: column {missing[0]} is missing; the file has {', '.join(header) or 'none'}.")
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) != len(header):
                    raise UserError(f"Line {line} has {len(cells)} cells but the header {len(header)}; correct it.")
                yield line, {name: _original(cell) for name, cell in zip(header, cells, strict=True)}
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"Line {reader.line_num} is not CSV ({error}); save the table as CSV again.") from None


def _parse_row(line: int, row: Mapping[str, str], widths: Mapping[str, Sequence[int]], run_name: str) -> Label:
    if row.get("run", "").strip() not in ("", run_name):
        raise UserError(
            f"Line {line}, column run: the label is of run {row['run']!r} and this is {run_name!r};"
            " empty the column if the features are the same."
        )
    ensemble = row["ensemble"].strip()
    if ensemble not in widths:
        raise UserError(f"Line {line}, column ensemble: {ensemble!r} is none of {', '.join(widths)}.")
    member = _number(line, "member", row["member"], len(widths[ensemble]))
    latent = _number(line, "feature", row["feature"], widths[ensemble][member])
    label, note = row["label"].strip(), row.get("note", "").strip()
    if not (label or note):
        raise UserError(f"Line {line}, column label: the label is empty; write one or remove the line.")
    feature = sum(widths[ensemble][:member]) + latent
    time = _time(line, row.get("time", ""))
    source = _source(line, row, widths[ensemble])
    return Label(ensemble, member, latent, feature, label, note, row.get("author", "").strip(), time, source).cleaned()


def _source(line: int, row: Mapping[str, str], widths: Sequence[int]) -> Source | None:
    """Where a propagated label comes from; None if the cells are empty or not there."""
    names = ("source_member", "source_feature", "score")
    cells = [row.get(name, "").strip() for name in names]
    if not any(cells):
        return None
    member = _number(line, names[0], cells[0], len(widths))
    latent = _number(line, names[1], cells[1], widths[member])
    try:
        # Spreadsheets in much of Europe write a comma in a number.
        score = float(cells[2].replace(",", "."))
    except ValueError:
        score = math.nan
    if not -1.0 <= score <= 1.0:
        raise UserError(f"Line {line}, column score: {cells[2]!r} is not a number from -1 to 1.")
    return Source(sum(widths[:member]) + latent, member, latent, round(score, 4))


def _number(line: int, column: str, cell: str, end: int) -> int:
    try:
        number = int(cell)
    except ValueError:
        number = -1
    if not 0 <= number < end:
        raise UserError(f"Line {line}, column {column}: {cell!r} is not a number from 0 to {end - 1}.")
    return number


def _time(line: int, cell: str) -> str:
    """A time as it is stored; now if none is given."""
    if not cell.strip():
        return now()
    try:
        moment = datetime.fromisoformat(cell.strip())
    except ValueError:
        raise UserError(f"Line {line}, column time: {cell!r} is not a time such as {now()}.") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
