"""People's labels: round trips, harmless CSV, all-or-nothing import and several writers at once."""

from __future__ import annotations

import csv
import io
import multiprocessing
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from sae_core.browse.labels import COLUMNS, LabelStore
from sae_core.errors import UserError

WIDTHS = {"single": [8], "bagged": [8, 8]}


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / "labels.sqlite", "demo")


def test_a_label_is_written_replaced_and_removed_with_its_history(store: LabelStore) -> None:
    assert store.get("bagged", 11) is None
    store.set("bagged", 1, 3, 11, " imports ", "second line", "Ada")
    label = store.get("bagged", 11)
    assert label is not None
    assert (label.member, label.latent, label.feature) == (1, 3, 11)
    assert (label.label, label.note, label.author) == ("imports", "second line", "Ada")
    store.set("bagged", 1, 3, 11, "import lines", author="Bob")
    store.set("bagged", 1, 3, 11, "import lines", author="Eve")  # nothing changes
    store.delete("bagged", 11, author="Cy")
    assert store.get("bagged", 11) is None
    changes = [(c.old_label, c.new_label, c.author) for c in store.history("bagged", 11)]
    assert changes == [(None, "imports", "Ada"), ("imports", "import lines", "Bob"), ("import lines", None, "Cy")]
    assert store.history("single", 11) == []


def test_an_empty_label_removes_and_reading_makes_no_file(store: LabelStore) -> None:
    assert store.table().empty
    assert store.history("single", 0) == []
    assert not store.path.exists()
    store.set("single", 0, 0, 0, "x")
    store.set("single", 0, 0, 0, "  ")
    assert store.all() == []


def test_the_table_numbers_features_within_their_member(store: LabelStore) -> None:
    store.set("single", 0, 5, 5, "b")
    store.set("bagged", 1, 2, 10, "a", "n", "w")
    table = store.table()
    assert tuple(table.columns) == COLUMNS
    assert table[["run", "ensemble", "member", "feature", "label"]].to_numpy().tolist() == [
        ["demo", "bagged", 1, 2, "a"],
        ["demo", "single", 0, 5, "b"],
    ]
    assert [one.feature for one in store.all("bagged")] == [10]


AWKWARD = ["=1+1", "+x", "-x", "@SUM(A1)", "'=1", "'quoted'", "''", 'a "b", c;\td', "two\nlines\r\nthree", "<b>é✓</b>"]


def test_csv_is_harmless_and_comes_back_as_it_was(store: LabelStore, tmp_path: Path) -> None:
    for feature, text in enumerate(AWKWARD):
        store.set("bagged", feature // 8, feature % 8, feature, text, note=text, author=text)
    exported = store.to_csv()
    for row in list(csv.reader(io.StringIO(exported, newline="")))[1:]:
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)
    other = LabelStore(tmp_path / "other.sqlite", "demo")
    assert other.from_csv(exported, WIDTHS) == len(AWKWARD)
    assert other.all() == store.all()
    assert other.to_csv() == exported


def test_a_run_whose_name_is_a_formula_is_harmless_too(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels.sqlite", "=HYPERLINK(1)")
    store.set("single", 0, 0, 0, "x")
    assert "\n'=HYPERLINK(1),single,0,0,x," in store.to_csv()
    assert store.from_csv(store.to_csv(), WIDTHS) == 1


def test_import_takes_what_spreadsheets_write(store: LabelStore) -> None:
    text = "\ufeffFeature;Label;Member;Ensemble\r\n3;a, b;1;bagged\r\n;;;\r\n0;c;0;single\r\n"
    assert store.from_csv(text, WIDTHS) == 2
    label = store.get("bagged", 11)
    assert label is not None
    assert (label.label, label.latent, label.member) == ("a, b", 3, 1)


def test_times_are_kept_in_utc(store: LabelStore) -> None:
    store.from_csv("ensemble,member,feature,label,time\nsingle,0,1,x,2026-01-31T13:00:00+01:00\n", WIDTHS)
    label = store.get("single", 1)
    assert label is not None
    assert label.time == "2026-01-31T12:00:00Z"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Line 1: column ensemble is missing"),
        ("ensemble,member,feature\n", "Line 1: column label is missing"),
        ("ensemble,member,feature,label\nother,0,0,x\n", "Line 2, column ensemble: 'other' is none of single, bagged"),
        ("ensemble,member,feature,label\nsingle,1,0,x\n", "Line 2, column member: '1' is not a number from 0 to 0"),
        ("ensemble,member,feature,label\nsingle,0,8,x\n", "Line 2, column feature: '8' is not a number from 0 to 7"),
        ("ensemble,member,feature,label\nsingle,0,1.5,x\n", "Line 2, column feature: '1.5'"),
        ("ensemble,member,feature,label\nsingle,0,1, \n", "Line 2, column label: the label is empty"),
        ("ensemble,member,feature,label\nsingle,0,1,good\nsingle,0,9,x\n", "Line 3, column feature: '9'"),
        ("ensemble,member,feature,label\nsingle,0,1\n", "Line 2 has 3 cells but the header 4"),
        ('ensemble,member,feature,label\nsingle,0,1,"a\nb"\nsingle,0,9,x\n', "Line 4, column feature"),
        ("ensemble,member,feature,label\nsingle,0,1,a\nsingle,0,01,b\n", "Line 3, column feature: the feature was"),
        ("run,ensemble,member,feature,label\nelse,single,0,1,a\n", "Line 2, column run: the label is of run 'else'"),
        ("ensemble,member,feature,label,time\nsingle,0,1,a,noon\n", "Line 2, column time: 'noon' is not a time"),
        ('ensemble,member,feature,label\nsingle,0,1,"a\n', "is not CSV"),
    ],
)
def test_a_fault_in_one_line_imports_nothing(store: LabelStore, text: str, message: str) -> None:
    store.set("single", 0, 0, 0, "before")
    with pytest.raises(UserError, match=re.escape(message)):
        store.from_csv(text, WIDTHS)
    assert [label.label for label in store.all()] == ["before"]


def test_import_replaces_and_remembers(store: LabelStore) -> None:
    store.set("single", 0, 0, 0, "before")
    store.from_csv("ensemble,member,feature,label,author\nsingle,0,0,after,Ada\n", WIDTHS)
    assert [(c.old_label, c.new_label, c.author) for c in store.history("single", 0)][-1] == ("before", "after", "Ada")


def _write_some(path: Path, writer: int) -> None:
    store = LabelStore(path, "demo")
    for feature in range(20):
        store.set("bagged", 0, 7, 7, f"{writer}-{feature}", author=str(writer))
        store.set("single", 0, writer, writer * 100 + feature, "own", author=str(writer))


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_some, args=(path, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    store = LabelStore(path, "demo")
    assert len(store.all("single")) == 80
    changes = store.history("bagged", 7)
    assert len(changes) == 80
    # Each change begins where the one before it ended: no writer overwrote what it had not seen.
    assert [c.old_label for c in changes[1:]] == [c.new_label for c in changes[:-1]]


def test_a_damaged_file_and_an_unwritable_place_are_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "labels.sqlite").write_bytes(b"no database" * 100)
    damaged = LabelStore(tmp_path / "labels.sqlite", "demo")
    with pytest.raises(UserError, match="cannot be read"):
        damaged.all()
    with pytest.raises(UserError, match="cannot be saved"):
        damaged.set("single", 0, 0, 0, "x")
    with pytest.raises(UserError, match="cannot be saved"):
        LabelStore(tmp_path / "labels.sqlite" / "below", "demo").set("single", 0, 0, 0, "x")


def test_labels_are_read_where_no_lock_file_can_be_made(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.set("single", 0, 0, 0, "x")
    connect = sqlite3.connect

    class ReadOnlyMedium:
        def execute(self, query: str) -> None:
            raise sqlite3.OperationalError("unable to open database file")

        def close(self) -> None:
            pass

    def on_read_only_medium(address: str, **options: Any) -> sqlite3.Connection | ReadOnlyMedium:
        return connect(address, **options) if address.endswith("immutable=1") else ReadOnlyMedium()

    monkeypatch.setattr("sae_core.browse.labels.database.sqlite3.connect", on_read_only_medium)
    assert [label.label for label in store.all()] == ["x"]
    with pytest.raises(UserError, match="cannot be saved"):
        store.set("single", 0, 0, 0, "y")
