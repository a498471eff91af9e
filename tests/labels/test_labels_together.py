"""Labels of a team in SQLite and PostgreSQL: optimistic locking, undo, families, several runs and writers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from label_stores import before_and_after, read_csv
from postgres import PASSWORD, QUOTED_PASSWORD
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import Pool

from sae_core.foundation.errors import UserError
from sae_core.labels import Copy, Edit, Label, LabelStore, Source, check_address, plan_import, shown_address
from sae_core.labels.database import database_at

WIDTHS = {"single": [8], "bagged": [8, 8, 8]}
NAMES = count()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LabelStore:
    if request.param == "sqlite":
        return LabelStore(tmp_path / "labels.sqlite", "demo")
    return of_server(request.getfixturevalue("server"))


def of_server(address: str) -> LabelStore:
    """A store for a run that no other test uses."""
    return LabelStore.shared(database_at(address), f"run {next(NAMES)}", created="2026-01-31T12:00:00Z")


def again(store: LabelStore) -> LabelStore:
    """Another store for the same labels, as another person's program has it."""
    other = LabelStore(store.path, store.run_name)
    other.__dict__.update(store.__dict__)
    return other


def wanted(feature: int, text: str, note: str = "", author: str = "Ada", source: Source | None = None) -> Label:
    return Label("bagged", feature // 8, feature % 8, feature, text, note, author, "2026-01-31T12:00:00Z", source)


def texts(store: LabelStore) -> dict[int, str]:
    return {label.feature: label.label for label in store.all("bagged")}


def save(store: LabelStore, author: str, **by_feature: str) -> int | None:
    """Write labels as one step, given as f3="text"."""
    edits = [Edit(wanted(int(name[1:]), text, author=author)) for name, text in by_feature.items()]
    return store.save(edits, author=author, kind="bulk" if len(edits) > 1 else "edit").step


def undo(store: LabelStore, author: str, *, again: bool = False) -> tuple[int, int]:
    step = store.last_undo(author) if again else store.last_step(author)
    assert step is not None
    undone = (store.redo if again else store.undo)(author, step.number)
    return undone.restored, undone.left


def redo(store: LabelStore, author: str) -> tuple[int, int]:
    return undo(store, author, again=True)


@contextmanager
def counting(taken: Callable[[], object], given_back: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Call functions when a connection is taken and given back."""
    seen = {"checkout": lambda *_: taken(), "checkin": lambda *_: given_back()}
    for name, call in seen.items():
        event.listen(Pool, name, call)
    try:
        yield
    finally:
        for name, call in seen.items():
            event.remove(Pool, name, call)


def test_awkward_text_is_kept_as_it_is(store: LabelStore) -> None:
    text = "=1+1 <img src=x onerror=alert(1)> \u202eright to left\u202c 'é✓🦆' %s :name \\x ; DROP TABLE labels; --"
    store.save([Edit(wanted(3, text, "two\nlines\r\n\tthree"))], author="Ada")
    store.save([Edit(wanted(4, "a\0b\ud800c"))], author="Ada")
    label = store.get("bagged", 3)
    assert label is not None
    assert (label.label, label.note) == (text, "two\nlines\r\n\tthree")
    assert texts(store)[4] == "ab?c"


def test_the_second_one_to_save_sees_both_texts_and_chooses(store: LabelStore) -> None:
    save(store, "Ada", f3="first")
    seen = store.versions("bagged", [3, 4])
    assert seen[4] == 0
    assert store.save([Edit(wanted(3, "of Bob", author="Bob"), seen[3])], author="Bob").changed == 1
    late = Edit(wanted(3, "of Cy", author="Cy"), seen[3])
    saved = store.save([late, Edit(wanted(4, "new", author="Cy"), 0)], author="Cy", kind="bulk")
    assert (saved.step, saved.changed) == (None, 0)
    (conflict,) = saved.conflicts
    assert conflict.theirs is not None
    assert (conflict.wanted.label, conflict.theirs.label, conflict.author) == ("of Cy", "of Bob", "Bob")
    assert texts(store) == {3: "of Bob"}  # none of the edits is taken
    assert store.save([conflict.replacing()], author="Cy").changed == 1
    assert texts(store) == {3: "of Cy"}
    # The same text is no conflict, and a removed label is one.
    assert store.save([Edit(wanted(3, "of Cy"), seen[3])], author="Ada").conflicts == ()
    now = store.versions("bagged", [3])[3]
    store.delete("bagged", 3, author="Ada")
    (conflict,) = store.save([Edit(wanted(3, "back"), now)], author="Bob").conflicts
    assert conflict.theirs is None
    assert conflict.author == "Ada"
    assert store.save([Edit(wanted(3, "new"), 0)], author="Bob").conflicts  # who never saw it, sees it now


def test_one_of_many_who_save_the_same_version_wins(store: LabelStore) -> None:
    save(store, "Ada", f3="first")
    seen, results = store.versions("bagged", [3])[3], {}

    def write(number: int) -> None:
        results[number] = again(store).save([Edit(wanted(3, f"writer {number}"), seen)], author=str(number))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [number for number, saved in results.items() if saved.changed]
    assert len(results) == 8
    assert texts(store) == {3: f"writer {winners[0]}"}
    assert len(winners) == 1
    for number, saved in results.items():
        assert number in winners or [c.theirs.label for c in saved.conflicts if c.theirs] == [texts(store)[3]]


def test_steps_are_taken_back_one_after_the_other(store: LabelStore) -> None:
    store.save([Edit(wanted(3, "one", "note", "Eve"))], author="Ada", kind="import", text="file.csv")
    save(store, "Ada", f3="two", f4="four")
    save(store, "Ada", f3="", f5="five")
    assert texts(store) == {4: "four", 5: "five"}
    assert undo(store, "Ada") == (2, 0)
    assert texts(store) == {3: "two", 4: "four"}
    assert undo(store, "Ada") == (2, 0)
    label = store.get("bagged", 3)
    assert label is not None
    assert (label.label, label.note, label.author, label.time) == ("one", "note", "Eve", "2026-01-31T12:00:00Z")
    assert undo(store, "Ada") == (1, 0)
    assert store.all() == []
    assert store.last_step("Ada") is None
    kinds = [(change.kind, *before_and_after(change)) for change in store.history("bagged", 3)]
    assert kinds == [
        *(("import", None, "one"), ("bulk", "one", "two"), ("bulk", "two", None)),
        *(("undo", None, "two"), ("undo", "two", "one"), ("undo", "one", None)),
    ]
    assert [step.undone for step in store.steps() if step.kind != "undo"] == [True] * 3


def test_an_undo_leaves_what_others_have_changed_since(store: LabelStore) -> None:
    step = save(store, "Ada", f1="a", f2="b", f3="c")
    assert step is not None
    save(store, "Bob", f2="of Bob")
    with pytest.raises(UserError, match="Bob has no step"):
        store.undo("Bob", step)
    assert undo(store, "Ada") == (2, 1)
    assert texts(store) == {2: "of Bob"}
    with pytest.raises(UserError, match="no step"):
        store.undo("Ada", step)
    save(store, "Ada", f4="own")
    assert store.last_step("Ada", among=[]) is None
    assert undo(store, "Bob") == (1, 0)
    assert texts(store) == {2: "b", 4: "own"}


def test_what_was_taken_back_is_made_again_step_by_step(store: LabelStore) -> None:
    store.save([Edit(wanted(3, "one", "note", "Eve"))], author="Ada", kind="import", text="file.csv")
    save(store, "Ada", f3="two", f4="four")
    save(store, "Ada", f3="", f5="five")
    states = [{}, {3: "one"}, {3: "two", 4: "four"}, {4: "four", 5: "five"}]
    assert store.last_undo("Ada") is None
    for _ in range(2):  # as often as one likes
        for state in states[2::-1]:
            undo(store, "Ada")
            assert texts(store) == state
        assert store.last_step("Ada") is None
        for state in states[1:]:
            redo(store, "Ada")
            assert texts(store) == state
        assert store.last_undo("Ada") is None
    undo(store, "Ada")
    undo(store, "Ada")
    label = store.get("bagged", 3)
    assert label is not None
    assert (label.label, label.note, label.author, label.time) == ("one", "note", "Eve", "2026-01-31T12:00:00Z")
    assert redo(store, "Ada") == (2, 0)
    assert [change.kind for change in store.history("bagged", 4)] == ["bulk", *["undo", "redo"] * 3]
    # Who goes on from here cannot make again what was taken back before.
    save(store, "Ada", f6="six")
    assert store.last_undo("Ada") is None
    assert undo(store, "Ada") == (1, 0)
    assert redo(store, "Ada") == (1, 0)
    assert texts(store) == {3: "two", 4: "four", 6: "six"}


def test_a_redo_leaves_what_others_have_changed_since(store: LabelStore) -> None:
    save(store, "Ada", f1="a", f2="b", f3="c")
    undo(store, "Ada")
    step = store.last_undo("Ada")
    assert step is not None
    save(store, "Bob", f2="of Bob", f3="passing")
    assert undo(store, "Bob") == (2, 0)
    save(store, "Bob", f2="of Bob")
    for author, number in (("Bob", step.number), ("Ada", step.number - 1), ("Ada", 99)):
        with pytest.raises(UserError, match=f"{author} has taken back nothing as step {number}"):
            store.redo(author, number)
    assert store.last_undo("Ada", among=[]) is None
    assert redo(store, "Ada") == (2, 1)  # what Bob has taken back himself is as Ada left it
    assert texts(store) == {1: "a", 2: "of Bob", 3: "c"}
    with pytest.raises(UserError, match="taken back nothing"):
        store.redo("Ada", step.number)
    assert undo(store, "Ada") == (2, 1)
    assert texts(store) == {2: "of Bob"}


def test_one_of_many_who_make_the_same_again_does(store: LabelStore) -> None:
    save(store, "Ada", f1="a")
    undo(store, "Ada")
    step, results = store.last_undo("Ada"), list[object]()
    assert step is not None

    def write() -> None:
        try:
            results.append(again(store).redo("Ada", step.number).restored)
        except UserError:
            results.append("refused")

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, results)) == ["1", *["refused"] * 5]
    assert texts(store) == {1: "a"}
    assert len(store.history("bagged", 1)) == 3


def test_a_family_comes_back_with_its_source(store: LabelStore) -> None:
    save(store, "Ada", f3="source")
    store.propagate("bagged", 3, FAMILY, author="Bob")
    save(store, "Ada", f3="renamed")
    family = {11: "renamed", 19: "renamed", 20: "renamed"}
    assert undo(store, "Ada") == (4, 0)
    assert redo(store, "Ada") == (4, 0)
    assert texts(store) == {3: "renamed", **family}
    undo(store, "Ada")
    assert undo(store, "Bob") == (3, 0)
    assert redo(store, "Bob") == (3, 0)
    assert redo(store, "Ada") == (4, 0)  # Bob has left the copies as he found them
    assert texts(store) == {3: "renamed", **family}
    copy = store.get("bagged", 11)
    assert copy is not None
    assert (copy.label, copy.source) == ("renamed", Source(3, 0, 3, 0.8765))


FAMILY = [Copy(11, 1, 3, 0.87654), Copy(19, 2, 3, 0.7), Copy(20, 2, 4, 0.75)]


def test_a_family_follows_its_source_while_it_is_untouched(store: LabelStore) -> None:
    save(store, "Ada", f3="source", f20="own")
    assert store.propagate("bagged", 3, FAMILY, author="Ada").given == 2
    copy = store.get("bagged", 11)
    assert copy is not None
    assert (copy.label, copy.source) == ("source", Source(3, 0, 3, 0.8765))
    save(store, "Bob", f19="touched")
    saved = store.save([Edit(wanted(3, "renamed", author="Cy"))], author="Cy")
    assert (saved.changed, saved.followed) == (1, 1)
    assert texts(store) == {3: "renamed", 11: "renamed", 19: "touched", 20: "own"}
    assert [label.source is not None for label in store.all("bagged")] == [False, True, False, False]
    # A note of the source does not change its copies, nor does the same text make one a person's own.
    assert store.save([Edit(wanted(3, "renamed", "a note"))], author="Ada").followed == 0
    assert undo(store, "Ada") == (1, 0)
    assert undo(store, "Cy") == (2, 0)
    assert texts(store) == {3: "source", 11: "source", 19: "touched", 20: "own"}
    store.delete("bagged", 3, author="Ada")
    assert texts(store) == {19: "touched", 20: "own"}
    assert undo(store, "Ada") == (2, 0)
    copy = store.get("bagged", 11)
    assert copy is not None
    assert copy.source == Source(3, 0, 3, 0.8765)
    with pytest.raises(UserError, match="no label to give"):
        store.propagate("bagged", 7, FAMILY, author="Ada")


def test_copies_of_copies_follow_and_an_undone_source_takes_them_along(store: LabelStore) -> None:
    save(store, "Ada", f3="source")
    store.propagate("bagged", 3, FAMILY[:1], author="Bob")
    store.propagate("bagged", 11, FAMILY[1:2], author="Bob")
    assert store.save([Edit(wanted(3, "renamed"))], author="Ada").followed == 2
    assert texts(store) == {3: "renamed", 11: "renamed", 19: "renamed"}
    assert undo(store, "Ada") == (3, 0)
    assert undo(store, "Ada") == (1, 0)
    assert store.all() == []


def test_csv_keeps_sources_and_times_and_comes_back_to_the_byte(store: LabelStore, tmp_path: Path) -> None:
    save(store, "Ada", f3="=source", f5="'quoted", f6='a,b\r\n"c"')
    store.propagate("bagged", 3, FAMILY, author="Ada")
    exported = store.to_csv()
    assert f"{store.run_name},bagged,11,1,3,'=source,,Ada," in exported
    assert exported.splitlines()[2].endswith(",3,0,3,0.8765") or ",3,0,3,0.8765\n" in exported
    revision = store.revision()
    plan = plan_import(store, exported, WIDTHS)
    assert (plan.new, plan.same, plan.differing) == ((), plan.total, ())
    assert store.save(plan.edits(), author="Bob", kind="import").step is None
    assert store.revision() == revision
    other = LabelStore(tmp_path / "other.sqlite", store.run_name)
    assert read_csv(other, exported, WIDTHS, author="Bob") == plan.total
    assert other.to_csv() == exported
    assert other.all() == store.all()
    assert other.steps()[0].author == "Bob"


def test_an_import_is_looked_at_before_it_is_written(store: LabelStore) -> None:
    save(store, "Ada", f1="same", f2="theirs", f3="theirs too", f4="gone")
    store.delete("bagged", 4, author="Ada")
    text = "ensemble,member,feature,label\n" + "".join(
        f"bagged,0,{feature},{label}\n" for feature, label in enumerate(["new", "same", "mine", "mine too", "back"])
    )
    before = store.revision()
    plan = plan_import(store, text, WIDTHS)
    assert (len(plan.new), plan.same, len(plan.differing), plan.removed) == (2, 1, 2, 1)
    assert [(one.wanted.label, one.there.label) for one in plan.differing] == [
        ("mine", "theirs"),
        ("mine too", "theirs too"),
    ]
    assert store.revision() == before
    save(store, "Bob", f2="meanwhile")
    saved = store.save(plan.edits(replace=[("bagged", 2)]), author="Cy", kind="import")
    assert [conflict.author for conflict in saved.conflicts] == ["Bob"]
    plan = plan_import(store, text, WIDTHS)
    saved = store.save(plan.edits(replace=[("bagged", 3)]), author="Cy", kind="import", text="mine.csv")
    assert saved.changed == 3
    assert texts(store) == {0: "new", 1: "same", 2: "meanwhile", 3: "mine too", 4: "back"}
    assert undo(store, "Cy") == (3, 0)
    assert texts(store) == {1: "same", 2: "meanwhile", 3: "theirs too"}
    assert len(plan_import(store, text, WIDTHS).edits()) == 4


def test_many_labels_are_one_step(store: LabelStore) -> None:
    edits = [Edit(Label("wide", 0, n, n, f"label {n}", "", "Ada", "2026-01-31T12:00:00Z"), 0) for n in range(1201)]
    assert store.save(edits, author="Ada", kind="bulk").changed == 1201
    assert undo(store, "Ada") == (1201, 0)
    assert store.all() == []


def test_several_runs_share_a_database_and_a_namesake_is_refused(server: str, tmp_path: Path) -> None:
    for address in (server, f"sqlite:///{tmp_path}/team.sqlite"):
        database = database_at(address)
        one, other = (LabelStore.shared(database, name, created="1") for name in ("one", "other"))
        one.set("single", 0, 0, 0, "of one")
        other.set("single", 0, 0, 0, "of the other")
        assert [store.all()[0].label for store in (one, other)] == ["of one", "of the other"]
        assert [store.revision() for store in (one, other)] == [1, 1]
        namesake = LabelStore.shared(database, "one", created="2")
        with pytest.raises(UserError, match="another run called 'one'"):
            namesake.set("single", 0, 0, 0, "x")


def test_runs_of_one_folder_name_are_told_apart_and_a_moved_one_keeps_its_labels(server: str, tmp_path: Path) -> None:
    for place, address in enumerate((server, f"sqlite:///{tmp_path}/team.sqlite")):
        database, (a, b) = database_at(address), (f"id-a-{place}", f"id-b-{place}")
        one = LabelStore.shared(database, "layer_08", identity=a, created="1")
        namesake = LabelStore.shared(database, "layer_08", identity=b, created="1")
        one.set("single", 0, 0, 0, "of one")
        assert namesake.all() == []
        namesake.set("single", 0, 0, 0, "of the namesake")
        moved = LabelStore.shared(database, "elsewhere", identity=a, created="1")
        assert [store.all()[0].label for store in (one, namesake, moved)] == ["of one", "of the namesake", "of one"]
        assert [store.revision() for store in (one, namesake, moved)] == [1, 1, 1]


def make_format_2(address: str) -> str:
    """Make the tables what version 2 would have made them; return an address at which nobody has looked yet."""
    engine = create_engine(address.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE label_runs DROP COLUMN name"))
        connection.execute(text("UPDATE label_format SET format = 2"))
    engine.dispose()
    return f"{address}&application_name=later" if "?" in address else address


def test_labels_under_a_folders_name_become_those_of_the_run_that_wrote_them(server: str, tmp_path: Path) -> None:
    for address in (server, f"sqlite:///{tmp_path}/team.sqlite"):
        name = f"old {next(NAMES)}"
        old = LabelStore.shared(database_at(address), name, created="2026-01-31T12:00:00Z")
        save(old, "Ada", f1="first", f2="second")
        save(old, "Ada", f1="changed")
        address = make_format_2(address)
        other = LabelStore.shared(database_at(address), name, identity=f"{name} b", created="2026-02-01T00:00:00Z")
        mine = LabelStore.shared(database_at(address), name, identity=f"{name} a", created="2026-01-31T12:00:00Z")
        assert (texts(other), texts(mine)) == ({}, {1: "changed", 2: "second"})
        save(other, "Bob", f1="of the other")
        assert (texts(other), texts(mine)) == ({1: "of the other"}, {1: "changed", 2: "second"})
        assert undo(mine, "Ada") == (1, 0)  # the first thing that is written is an undo of what an older version wrote
        assert texts(mine) == {1: "first", 2: "second"}
        assert len(mine.history("bagged", 1)) == 3
        moved = LabelStore.shared(database_at(address), "moved", identity=f"{name} a", created="2026-01-31T12:00:00Z")
        assert texts(moved) == texts(mine)


def test_a_password_is_never_shown(server: str, tmp_path: Path) -> None:
    assert check_address(server) == shown_address(server)
    wrong = server.replace(QUOTED_PASSWORD, "wrong-guess")
    hidden = server.replace(f"team:{QUOTED_PASSWORD}@", "team@") + f"&password={QUOTED_PASSWORD}x&connect_timeout=5"
    nowhere = f"postgresql://team:{QUOTED_PASSWORD}@localhost:1/x?connect_timeout=2"
    for address in (wrong, hidden, nowhere, f"nonsense://team:{QUOTED_PASSWORD}@host/x", f"://{QUOTED_PASSWORD}"):
        with pytest.raises(UserError) as error:
            check_address(address)
        said = str(error.value)
        assert not any(secret in said for secret in (PASSWORD, QUOTED_PASSWORD, "wrong-guess")), said
    assert "***" in shown_address(nowhere)
    for address in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(UserError, match="would be lost"):
            check_address(address)


def test_what_is_read_at_once_opens_one_connection(store: LabelStore) -> None:
    save(store, "Ada", f3="first")
    opened = []
    with counting(lambda: opened.append(1)), store.at_once():
        with again(store).at_once():
            assert texts(store) == {3: "first"}
        assert again(store).get("bagged", 3) == store.all()[0]
        assert store.revision() == 1
        assert len(opened) == 1
        # What the thread writes itself it sees, and opens others for.
        save(store, "Ada", f3="second")
        assert texts(store) == {3: "second"}
        assert store.revision() == 2
        assert len(opened) == 4
    with counting(lambda: opened.append(1)):
        assert texts(store) == {3: "second"}
    assert len(opened) == 5


def test_nothing_more_stays_open_while_nobody_has_written(store: LabelStore) -> None:
    now_open: list[int] = []
    with counting(lambda: now_open.append(1), lambda: now_open.pop()), store.at_once():
        for _ in range(3):
            assert store.all() == []
            assert len(now_open) <= store.is_shared  # a server may have tables of other runs
    assert now_open == []


def test_at_once_is_one_threads_own_and_keeps_nobody_from_writing(store: LabelStore) -> None:
    save(store, "Ada", f3="first")
    seen: list[dict[int, str]] = []

    def other() -> None:
        save(again(store), "Bob", f3="of Bob")
        seen.append(texts(again(store)))

    with store.at_once():
        assert texts(store) == {3: "first"}
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(20)
        assert seen == [{3: "of Bob"}]
    assert texts(store) == {3: "of Bob"}


def test_what_goes_wrong_within_at_once_is_not_said_of_labels(store: LabelStore) -> None:
    def read_and_fail() -> None:
        with store.at_once():
            assert store.all() == []
            raise OSError("of something else")

    with pytest.raises(OSError, match="of something else"):
        read_and_fail()
    with store.at_once():
        assert store.all() == []
        save(again(store), "Ada", f3="first")  # nobody had written before
        assert texts(store) == {3: "first"}
