"""People's labels: round trips, harmless CSV, all-or-nothing import and several writers at once."""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from label_stores import before_and_after, read_csv

from sae_core.foundation.errors import UserError
from sae_core.labels import (
    COLUMNS,
    LARGEST_MB,
    Edit,
    Label,
    LabelStore,
    Source,
    plan_import,
    read_label_file,
)

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
    changes = [(*before_and_after(c), c.author) for c in store.history("bagged", 11)]
    assert changes == [(None, "imports", "Ada"), ("imports", "import lines", "Bob"), ("import lines", None, "Cy")]
    assert store.history("single", 11) == []


def test_an_empty_label_removes_and_reading_makes_no_file(store: LabelStore) -> None:
    assert store.table().empty
    assert store.history("single", 0) == []
    assert not store.path.exists()
    store.set("single", 0, 0, 0, "x")
    store.set("single", 0, 0, 0, "  ")
    assert store.all() == []


def test_the_table_has_both_numbers_of_a_feature(store: LabelStore) -> None:
    store.set("single", 0, 5, 5, "b")
    store.set("bagged", 1, 2, 10, "a", "n", "w")
    table = store.table()
    assert tuple(table.columns) == COLUMNS
    assert table[["run", "ensemble", "feature", "member", "latent", "label"]].to_numpy().tolist() == [
        ["demo", "bagged", 10, 1, 2, "a"],
        ["demo", "single", 5, 0, 5, "b"],
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
    assert read_csv(other, exported, WIDTHS) == len(AWKWARD)
    assert other.all() == store.all()
    assert other.to_csv() == exported


def test_a_run_whose_name_is_a_formula_is_harmless_too(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels.sqlite", "=HYPERLINK(1)")
    store.set("single", 0, 0, 0, "x")
    assert "\n'=HYPERLINK(1),single,0,0,0,x," in store.to_csv()
    assert read_csv(store, store.to_csv(), WIDTHS) == 1


def test_import_takes_what_spreadsheets_write(store: LabelStore) -> None:
    text = "\ufeffFeature;Label;Member;Ensemble\r\n3;a, b;1;bagged\r\n;;;\r\n0;c;0;single\r\n"
    assert read_csv(store, text, WIDTHS) == 2
    label = store.get("bagged", 11)
    assert label is not None
    assert (label.label, label.latent, label.member) == ("a, b", 3, 1)


@pytest.mark.parametrize(
    "text",
    [
        "ensemble,feature,label\nbagged,11,x\n",
        "ensemble,member,latent,label\nbagged,1,3,x\n",
        "ensemble,feature,member,latent,label\nbagged,11,1,3,x\n",
        "ensemble,feature,member,latent,label\nbagged,,1,3,x\n",
        "ensemble,feature,member,number_in_member,label,density\nbagged,11,1,3,x,0.5\n",
    ],
)
def test_a_feature_may_be_numbered_in_its_ensemble_or_its_member_or_both(store: LabelStore, text: str) -> None:
    plan = plan_import(store, text, WIDTHS)
    (edit,) = plan.new
    assert (edit.wanted.feature, edit.wanted.member, edit.wanted.latent) == (11, 1, 3)
    assert plan.remarks == []


def test_a_file_of_old_numbers_features_within_their_member_and_that_is_said(store: LabelStore) -> None:
    columns = "run,ensemble,member,feature,label,note,author,time,source_member,source_feature,score"
    text = f"{columns}\ndemo,bagged,1,3,x,,Ada,2026-01-31T12:00:00Z,1,4,0.9000\n"
    plan = plan_import(store, text, WIDTHS)
    (edit,) = plan.new
    assert (edit.wanted.feature, edit.wanted.source) == (11, Source(12, 1, 4, 0.9))
    assert "column latent" in plan.remarks[0]


def test_rows_without_a_label_are_passed_over_and_counted(store: LabelStore) -> None:
    plan = plan_import(store, "ensemble,feature,label\nsingle,1,\nsingle,2,x\nsingle,3, \n", WIDTHS)
    assert ([edit.wanted.feature for edit in plan.new], plan.unlabelled) == ([2], 2)
    assert plan.remarks == ["2 rows without a label were passed over."]


def test_one_limit_holds_for_programs_too_and_what_an_older_version_took_stays(store: LabelStore) -> None:
    for texts in (("x" * 201, "", "Ada"), ("x", "n" * 2001, "Ada"), ("x", "", "a" * 81)):
        with pytest.raises(UserError, match="shorten it"):
            store.set("single", 0, 3, 3, *texts)
    with pytest.raises(UserError, match="single has no feature 9223372036854775808"):
        store.set("single", 0, 0, 2**63, "x")
    assert store.all() == []
    edits = [Edit(Label("single", 0, 1, 1, text, "", "Ada", "2026-01-31T12:00:00Z")) for text in "ab"]
    with pytest.raises(UserError, match="Feature 1 of single is there twice"):
        store.save(edits, author="Ada")
    store.set("single", 0, 1, 1, "short", "", "Ada")
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE labels SET label = ?", ("x" * 5000,))
    long = store.get("single", 1)
    assert long is not None
    assert store.save([Edit(long)], author="Ada").conflicts == ()
    with pytest.raises(UserError, match="5,000 characters"):
        store.save([Edit(replace(long, note="more"))], author="Ada")
    assert store.get("single", 1) == long


def test_only_an_ordinary_file_of_some_size_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path, tmp_path / "pipe.csv"):
        with pytest.raises(UserError, match="no ordinary file"):
            read_label_file(path)
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate(LARGEST_MB * 1_000_000 + 1)
    with pytest.raises(UserError, match="larger than 20 MB"):
        read_label_file(tmp_path / "large.csv")
    (tmp_path / "latin.csv").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_label_file(tmp_path / "latin.csv")


def test_labels_never_make_the_folder_of_a_deleted_run(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "gone" / "labels.sqlite", "gone")
    with pytest.raises(UserError, match="its folder is gone"):
        store.set("single", 0, 0, 0, "x")
    assert store.all() == []
    assert not store.path.parent.exists()


def test_times_are_kept_in_utc(store: LabelStore) -> None:
    read_csv(store, "ensemble,member,feature,label,time\nsingle,0,1,x,2026-01-31T13:00:00+01:00\n", WIDTHS)
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
        ("ensemble,member,feature,label\nsingle,0,1, \n", "Column label is empty in every line"),
        ("ensemble,member,feature,label\nsingle,0,1,good\nsingle,0,9,x\n", "Line 3, column feature: '9'"),
        ("ensemble,member,feature,label\nsingle,0,1\n", "Line 2 has 3 cells but the header 4"),
        ('ensemble,member,feature,label\nsingle,0,1,"a\nb"\nsingle,0,9,x\n', "Line 4, column feature"),
        ("ensemble,member,feature,label\nsingle,0,1,a\nsingle,0,01,b\n", "Line 3, column feature: the feature was"),
        ("run,ensemble,member,feature,label\nelse,single,0,1,a\n", "Line 2, column run: the label is of run 'else'"),
        ("ensemble,member,feature,label,time\nsingle,0,1,a,noon\n", "Line 2, column time: 'noon' is not a time"),
        ('ensemble,member,feature,label\nsingle,0,1,"a\n', "is not CSV"),
        ("ensemble,label\nsingle,x\n", "Line 1: column feature is missing, or member and latent"),
        ("ensemble,feature,feature,label\nsingle,1,2,x\n", "Line 1: column feature is there twice"),
        ("ensemble,latent,number_in_member,member,label\nsingle,1,1,0,x\n", "Line 1: column latent is there twice"),
        ("ensemble,feature,label\nbagged,16,x\n", "Line 2, column feature: '16' is not a number from 0 to 15"),
        ("ensemble,feature,label\nbagged,18446744073709551617,x\n", "Line 2, column feature"),
        ("ensemble,feature,label\nbagged,NaN,x\n", "Line 2, column feature: 'NaN' is not a number"),
        ("ensemble,feature,label\nbagged,\N{FULLWIDTH DIGIT ONE},x\n", "Line 2, column feature"),
        ("ensemble,member,latent,label\nbagged,2,0,x\n", "Line 2, column member: '2' is not a number from 0 to 1"),
        (
            "ensemble,feature,member,latent,label\nbagged,8,1,0,y\nbagged,9,1,2,x\n",
            "Line 3, column feature: 9 is number 1",
        ),
        ("ensemble,feature,member,latent,label\nbagged,9,0,,x\n", "Line 2, column feature: 9 is number 1 of member 1"),
        ("ensemble,feature,label\nbagged,1,x\nbagged,1,y\n", "Line 3, column feature: the feature was already"),
        (f"ensemble,feature,label\nbagged,1,{'x' * 201}\n", "Line 2, column label: it has 201 characters and 200 fit"),
        (f"ensemble,feature,label,note\nbagged,1,x,{'n' * 2001}\n", "Line 2, column note: it has 2,001 characters"),
        (f"ensemble,feature,label,author\nbagged,1,x,{'n' * 81}\n", "Line 2, column author: it has 81 characters"),
        ("ensemble,feature,label\nbagged,1,a\0b\n", "Line 2, column label: there is a NUL character"),
        ("ensemble,feature,label,time\nbagged,1,x,0001-01-01T00:00:00+05:00\n", "Line 2, column time"),
        ("ensemble,feature,label,time\nbagged,1,x,0001-01-02T00:00:00Z\n", "Line 2, column time: '0001-01-02T00"),
        ("ensemble,feature,label,time\nbagged,1,x,9999-12-31T23:59:59-05:00\n", "Line 2, column time"),
        ("ensemble,feature,label,time\nbagged,1,x,9999-12-31T00:00:00Z\n", "is before 1970 or in the future"),
        ("ensemble,feature,label,source_feature,score\nbagged,1,x,2,nan\n", "Line 2, column score: 'nan' is not"),
    ],
)
def test_a_fault_in_one_line_imports_nothing(store: LabelStore, text: str, message: str) -> None:
    store.set("single", 0, 0, 0, "before")
    with pytest.raises(UserError, match=re.escape(message)):
        read_csv(store, text, WIDTHS)
    assert [label.label for label in store.all()] == ["before"]


def test_import_replaces_and_remembers(store: LabelStore) -> None:
    store.set("single", 0, 0, 0, "before")
    read_csv(store, "ensemble,member,feature,label,author\nsingle,0,0,after,Ada\n", WIDTHS)
    assert [(*before_and_after(c), c.author) for c in store.history("single", 0)][-1] == ("before", "after", "Ada")


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
    changes = [before_and_after(change) for change in store.history("bagged", 7)]
    assert len(changes) == 80
    # Each change begins where the one before it ended: no writer overwrote what it had not seen.
    assert [old for old, _ in changes[1:]] == [new for _, new in changes[:-1]]


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

    monkeypatch.setattr("sae_core.labels.database.sqlite3.connect", on_read_only_medium)
    assert [label.label for label in store.all()] == ["x"]
    with pytest.raises(UserError, match="cannot be saved"):
        store.set("single", 0, 0, 0, "y")
