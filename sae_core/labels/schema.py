"""Define the tables of labels, and convert tables of older formats.

Steps and changes are numbered one after another under the lock of their run. The largest number therefore shows whether
anything has changed, and the database need not generate numbers.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.schema import CreateColumn

from sae_core.labels.records import WRITTEN

FORMAT = max(3, *(one.since for one in WRITTEN.values()))
"""The format of the tables; a field of `Label` that came later says which format has it first.

Format 1 had a table of labels and a table of history, for one run; format 2 named each run after its folder.
"""
READABLE = range(max(2, *(one.since for one in WRITTEN.values())), FORMAT + 1)
"""Formats whose tables can be read without conversion."""
_NAME = 200


def _place(*, is_key: bool) -> list[Column[Any]]:
    return [
        Column("ensemble", String(_NAME), primary_key=is_key, nullable=False),
        Column("feature", Integer, primary_key=is_key, autoincrement=False, nullable=False),
        Column("member", Integer, nullable=False),
        Column("latent", Integer, nullable=False),
    ]


def _written(prefix: str = "") -> list[Column[Any]]:
    """The columns of what people write; rows that are older than a column have no value in it."""
    return [Column(f"{prefix}{name}", one.sql, nullable=bool(prefix) or one.since > 1) for name, one in WRITTEN.items()]


def _who_and_source() -> list[Column[Any]]:
    return [
        Column("author", Text, nullable=False),
        Column("time", String(40), nullable=False),
        Column("source", Integer),
        Column("source_member", Integer),
        Column("source_latent", Integer),
        Column("score", Float(53)),
    ]


_metadata = MetaData()

formats = Table("label_format", _metadata, Column("format", Integer, primary_key=True, autoincrement=False))

runs = Table(
    "label_runs",
    _metadata,
    Column("run", String(_NAME), primary_key=True),
    Column("created", String(40), nullable=False),
    Column("name", String(_NAME), nullable=False, server_default=""),
)
"""One row per run; a writer locks the row. ``run`` is the run's identity, ``name`` the name of its folder, for people.

In format 2 ``run`` was the folder's name, and ``created`` distinguished runs of the same name. Such a row gets the
identity when its run first writes.
"""

labels = Table(
    "labels",
    _metadata,
    Column("run", String(_NAME), primary_key=True),
    *_place(is_key=True),
    *_written(),
    *_who_and_source(),
    Column("version", Integer, nullable=False),
)
"""``version`` is the number of the change that wrote the present label."""

history = Table(
    "history",
    _metadata,
    Column("run", String(_NAME), primary_key=True),
    Column("id", Integer, primary_key=True, autoincrement=False),
    *_place(is_key=False),
    Column("step", Integer),
    Column("previous", Integer, nullable=False),
    Column("restores", Integer),
    *_written("old_"),
    *_written("new_"),
    *_who_and_source(),
    Index("history_of_feature", "run", "ensemble", "feature"),
    Index("history_of_step", "run", "step"),
)
"""Every change. ``previous`` is the feature's change before (0: none); an undo ``restores`` an earlier change."""

steps = Table(
    "label_steps",
    _metadata,
    Column("run", String(_NAME), primary_key=True),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(20), nullable=False),
    Column("author", Text, nullable=False),
    Column("time", String(40), nullable=False),
    Column("text", Text, nullable=False),
    Column("labels", Integer, nullable=False),
    Column("undone", Integer, nullable=False),
)


def format_of(connection: Connection) -> int:
    """The format of the tables in a database; 0 if there are no tables."""
    found = inspect(connection)
    if found.has_table(formats.name):
        return int(connection.execute(select(func.max(formats.c.format))).scalar() or 0)
    return 1 if connection.dialect.name == "sqlite" and found.has_table("labels") else 0


def make_current(connection: Connection) -> None:
    """Make the tables, or convert older tables to this format. The caller's transaction makes this all or nothing."""
    there = format_of(connection)
    if there == FORMAT:
        return
    if there >= 2:
        _add_columns(connection)
        if there == 2:
            connection.execute(update(runs).values(name=runs.c.run))
        connection.execute(update(formats).values(format=FORMAT))
        return
    old_history = there == 1 and inspect(connection).has_table("history")
    if there == 1:
        connection.execute(text("ALTER TABLE labels RENAME TO old_labels"))
        if old_history:
            connection.execute(text("ALTER TABLE history RENAME TO old_history"))
    _metadata.create_all(connection)
    connection.execute(insert(formats).values(format=FORMAT))
    if there == 1:
        _take_over(connection, old_history)


def _add_columns(connection: Connection) -> None:
    """Add the columns that newer formats have."""
    for table in _metadata.sorted_tables:
        there = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                made = CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {made}"))


def _take_over(connection: Connection, old_history: bool) -> None:
    """Copy from the tables of format 1. Format 1 did not record steps, so these changes cannot be undone."""
    if old_history:
        # If a label is gone, the member of its changes is unknown; no undo restores such changes.
        connection.execute(
            text(
                "INSERT INTO history (run, id, ensemble, feature, member, latent, step, previous, restores,"
                " old_label, old_note, new_label, new_note, author, time)"
                " SELECT '', h.id, h.ensemble, h.feature, coalesce(l.member, 0), coalesce(l.latent, 0), NULL,"
                " coalesce(lag(h.id) OVER (PARTITION BY h.ensemble, h.feature ORDER BY h.id), 0), NULL,"
                " h.old_label, h.old_note, h.new_label, h.new_note, h.author, h.time"
                " FROM old_history h LEFT JOIN old_labels l ON l.ensemble = h.ensemble AND l.feature = h.feature"
            )
        )
        connection.execute(text("DROP TABLE old_history"))
    connection.execute(
        text(
            "INSERT INTO labels (run, ensemble, feature, member, latent, label, note, author, time, version)"
            " SELECT '', l.ensemble, l.feature, l.member, l.latent, l.label, l.note, l.author, l.time,"
            " coalesce((SELECT max(h.id) FROM history h"
            " WHERE h.ensemble = l.ensemble AND h.feature = l.feature), 0) FROM old_labels l"
        )
    )
    connection.execute(text("DROP TABLE old_labels"))
