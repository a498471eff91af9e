"""People's labels of features: SQLite, safe with several people writing, with who and when; CSV out and in."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from sae_core.errors import UserError

COLUMNS = ("run", "ensemble", "member", "feature", "label", "note", "author", "time")
"""Columns of the table and of the CSV file; ``feature`` is the number within the member."""

_REQUIRED = ("ensemble", "member", "feature", "label")
_WAIT_SECONDS = 30.0
_HARMFUL = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A cell that begins with one of these is a formula, or hides one, to a spreadsheet (OWASP, *CSV injection*)."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS labels (
    ensemble TEXT NOT NULL, feature INTEGER NOT NULL, member INTEGER NOT NULL, latent INTEGER NOT NULL,
    label TEXT NOT NULL, note TEXT NOT NULL, author TEXT NOT NULL, time TEXT NOT NULL,
    PRIMARY KEY (ensemble, feature)
);
CREATE TABLE IF NOT EXISTS history (
    id INTEGER PRIMARY KEY, ensemble TEXT NOT NULL, feature INTEGER NOT NULL,
    old_label TEXT, old_note TEXT, new_label TEXT, new_note TEXT, author TEXT NOT NULL, time TEXT NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Label:
    """What a person wrote about a feature.

    Attributes:
        ensemble: Name of the ensemble.
        member: Number of the member.
        latent: Number of the feature within the member.
        feature: Number of the feature in the ensemble.
        label: A few words.
        note: Anything longer.
        author: Who wrote it.
        time: When, in UTC, as 2026-01-31T12:00:00Z.
    """

    ensemble: str
    member: int
    latent: int
    feature: int
    label: str
    note: str
    author: str
    time: str


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of a label's history; None stands for no label."""

    old_label: str | None
    new_label: str | None
    old_note: str | None
    new_note: str | None
    author: str
    time: str


class LabelStore:
    """The labels of one run. Every call opens its own connection, so threads and processes may share a file.

    Args:
        path: The SQLite file; it is made with the first label.
        run_name: Named in the table and in the CSV file.
    """

    def __init__(self, path: Path, run_name: str) -> None:
        self.path, self.run_name = path, run_name

    def get(self, ensemble: str, feature: int) -> Label | None:
        """The label of a feature, numbered as in the ensemble; None if it has none."""
        found = self._select("WHERE ensemble = ? AND feature = ?", (ensemble, feature))
        return found[0] if found else None

    def all(self, ensemble: str | None = None) -> list[Label]:
        """All labels, or those of one ensemble, in the order of features."""
        return self._select("WHERE ? IS NULL OR ensemble = ? ORDER BY ensemble, feature", (ensemble, ensemble))

    def set(
        self, ensemble: str, member: int, latent: int, feature: int, label: str, note: str = "", author: str = ""
    ) -> None:
        """Write the label of a feature; an empty label without a note removes it.

        Args:
            ensemble: Name of the ensemble.
            member: Number of the member.
            latent: Number of the feature within the member.
            feature: Number of the feature in the ensemble.
            label: A few words.
            note: Anything longer.
            author: Who writes.

        Raises:
            UserError: If the file cannot be written.
        """
        new = Label(ensemble, member, latent, feature, label.strip(), note.strip(), author.strip(), _now())
        with self._writing() as connection:
            _replace(connection, new)

    def delete(self, ensemble: str, feature: int, author: str = "") -> None:
        """Remove the label of a feature, if it has one.

        Raises:
            UserError: If the file cannot be written.
        """
        with self._writing() as connection:
            _replace(connection, Label(ensemble, 0, 0, feature, "", "", author.strip(), _now()))

    def history(self, ensemble: str, feature: int) -> list[Change]:
        """All changes of a feature's label, the first one first."""
        query = (
            "SELECT old_label, new_label, old_note, new_note, author, time FROM history"
            " WHERE ensemble = ? AND feature = ? ORDER BY id"
        )
        with self._reading() as connection:
            return [Change(*row) for row in connection.execute(query, (ensemble, feature))] if connection else []

    def table(self) -> pd.DataFrame:
        """All labels with the columns `COLUMNS`."""
        rows = [
            (self.run_name, one.ensemble, one.member, one.latent, one.label, one.note, one.author, one.time)
            for one in self.all()
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"member": "int64", "feature": "int64"})

    def to_csv(self) -> str:
        """All labels as CSV; cells that a spreadsheet would take for a formula get an apostrophe in front."""
        file = io.StringIO(newline="")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in self.table().itertuples(index=False):
            writer.writerow([_harmless(cell) if isinstance(cell, str) else cell for cell in row])
        return file.getvalue()

    def from_csv(self, text: str, widths: Mapping[str, Sequence[int]]) -> int:
        """Read labels from CSV, all or none; a label that is already there is replaced.

        Args:
            text: A file with at least the columns ensemble, member, feature and label, in any order.
            widths: Features of each member, for every ensemble of the run.

        Returns:
            The number of labels read.

        Raises:
            UserError: One sentence naming the line and column at fault.
        """
        labels = parse_csv(text, widths, self.run_name)
        with self._writing() as connection:
            for label in labels:
                _replace(connection, label)
        return len(labels)

    def _select(self, condition: str, values: tuple[object, ...]) -> list[Label]:
        query = f"SELECT ensemble, member, latent, feature, label, note, author, time FROM labels {condition}"
        with self._reading() as connection:
            return [Label(*row) for row in connection.execute(query, values)] if connection else []

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection for reading; None while nobody has written a label."""
        if not self.path.exists():
            yield None
            return
        try:
            with closing(self._connect("mode=ro")) as connection:
                yield connection
        except sqlite3.Error as error:
            raise UserError(f"Labels cannot be read from {self.path} ({error}); restore or remove the file.") from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A connection within a transaction that is kept if all goes well."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect("mode=rwc")) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
                # The lock is taken before reading, so that nobody writes between reading the old label and the new.
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"Labels cannot be saved in {self.path} ({error}); make the folder writable, or make room."
            ) from None

    def _connect(self, options: str) -> sqlite3.Connection:
        """A connection that has proved to work; on a read-only medium WAL needs to be told that nobody writes."""
        address = f"{self.path.resolve().as_uri()}?{options}"
        connection = sqlite3.connect(address, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            if options != "mode=ro":
                raise
            return self._connect("mode=ro&immutable=1")
        return connection


def _replace(connection: sqlite3.Connection, new: Label) -> None:
    """Put a label in the place of the old one, and the change into the history."""
    key = (new.ensemble, new.feature)
    old = connection.execute("SELECT label, note FROM labels WHERE ensemble = ? AND feature = ?", key).fetchone()
    is_empty = not (new.label or new.note)
    if old == (new.label, new.note) or (old is None and is_empty):
        return
    if is_empty:
        connection.execute("DELETE FROM labels WHERE ensemble = ? AND feature = ?", key)
    else:
        connection.execute(
            "INSERT OR REPLACE INTO labels (ensemble, member, latent, feature, label, note, author, time)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (new.ensemble, new.member, new.latent, new.feature, new.label, new.note, new.author, new.time),
        )
    before, after = old or (None, None), (None, None) if is_empty else (new.label, new.note)
    connection.execute(
        "INSERT INTO history (ensemble, feature, old_label, old_note, new_label, new_note, author, time)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*key, *before, *after, new.author, new.time),
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
    return Label(ensemble, member, latent, feature, label, note, row.get("author", "").strip(), time)


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
        return _now()
    try:
        moment = datetime.fromisoformat(cell.strip())
    except ValueError:
        raise UserError(f"Line {line}, column time: {cell!r} is not a time such as {_now()}.") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
