"""Label files of older versions, and files that are damaged during reading."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from label_stores import before_and_after
from sqlalchemy import Engine, event

from sae_core.foundation.errors import UserError
from sae_core.labels import Edit, Label, LabelStore

NEW = {11: "third", 5: "again"}


def old_file(path: Path) -> None:
    """A file as version 0.1.0 wrote it."""
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """
            PRAGMA journal_mode = WAL;
            CREATE TABLE labels (
                ensemble TEXT NOT NULL, feature INTEGER NOT NULL, member INTEGER NOT NULL, latent INTEGER NOT NULL,
                label TEXT NOT NULL, note TEXT NOT NULL, author TEXT NOT NULL, time TEXT NOT NULL,
                PRIMARY KEY (ensemble, feature)
            );
            CREATE TABLE history (
                id INTEGER PRIMARY KEY, ensemble TEXT NOT NULL, feature INTEGER NOT NULL,
                old_label TEXT, old_note TEXT, new_label TEXT, new_note TEXT, author TEXT NOT NULL, time TEXT NOT NULL
            );
            INSERT INTO labels VALUES ('bagged', 11, 1, 3, 'second', 'note', 'Ada', '2026-01-02T00:00:00Z');
            INSERT INTO history VALUES
                (1, 'bagged', 11, NULL, NULL, 'first', '', 'Bob', '2026-01-01T00:00:00Z'),
                (2, 'bagged', 5, NULL, NULL, 'gone', '', 'Bob', '2026-01-01T00:00:00Z'),
                (3, 'bagged', 11, 'first', '', 'second', 'note', 'Ada', '2026-01-02T00:00:00Z'),
                (4, 'bagged', 5, 'gone', '', NULL, NULL, 'Ada', '2026-01-02T00:00:00Z');
            """
        )
    connection.close()


def test_a_file_of_old_opens_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    old_file(path)
    store = LabelStore(path, "demo")
    assert store.all() == [Label("bagged", 1, 3, 11, "second", "note", "Ada", "2026-01-02T00:00:00Z")]
    changes = [(*before_and_after(c), c.author) for c in store.history("bagged", 11)]
    assert changes == [(None, "first", "Bob"), ("first", "second", "Ada")]
    assert store.versions("bagged", [11, 5, 6]) == {11: 3, 5: 4, 6: 0}
    edits = [Edit(Label("bagged", f // 8, f % 8, f, text, "", "Cy", "2026-01-31T12:00:00Z")) for f, text in NEW.items()]
    assert store.save(edits, author="Cy").changed == 2
    (step, *_) = store.steps()
    assert store.undo("Cy", step.number).restored == 2
    assert store.all() == [Label("bagged", 1, 3, 11, "second", "note", "Ada", "2026-01-02T00:00:00Z")]


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.sqlite"
    old_file(path)
    before = dump(path)

    def fail(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("DROP TABLE old_labels"):
            raise OSError("no space left on device")

    event.listen(Engine, "before_cursor_execute", fail)
    try:
        with pytest.raises(UserError, match="no space left"):
            LabelStore(path, "demo").set("single", 0, 0, 0, "x")
    finally:
        event.remove(Engine, "before_cursor_execute", fail)
    assert dump(path) == before
    # Where it may not be written it is read as it is.
    with monkeypatch.context() as patch:
        connect = sqlite3.connect
        patch.setattr(sqlite3, "connect", lambda place, **more: connect(place.replace("=rwc", "=ro"), **more))
        assert [label.label for label in LabelStore(path, "demo").all()] == ["second"]
    assert dump(path) == before
    assert [label.label for label in LabelStore(path, "demo").all()] == ["second"]
    assert dump(path) != before


def dump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def test_a_file_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels.sqlite", "demo")
    store.set("single", 0, 0, 0, "x")
    connection = sqlite3.connect(store.path)
    connection.execute("UPDATE label_format SET format = 99")
    connection.commit()
    connection.close()
    for act in (store.all, lambda: store.set("single", 0, 0, 0, "y")):
        with pytest.raises(UserError, match="newer sae-ensemble"):
            act()


def test_a_damaged_file_is_said_once_it_is_read(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels.sqlite", "demo")
    store.path.write_bytes(b"no database" * 100)
    with store.at_once():  # by itself it reads nothing
        for _ in range(2):
            with pytest.raises(UserError, match="cannot be read"):
                store.all()
        store.path.unlink()
        assert store.all() == []
