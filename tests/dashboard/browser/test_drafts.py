"""What a browser keeps, in a real browser: drafts of labels, the name, and whose steps Undo takes back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from browsing import MARKS, Watched, has_value, serving

from dashboard.components import label_drafts
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run
from sae_core.labels import LabelStore

pytestmark = MARKS
MARK = "Unsaved draft"
SIGNS = "<b>“Ž’; x=1"


@pytest.fixture(scope="module")
def run(copied_run: Run) -> Run:
    return copied_run


@pytest.fixture(scope="module")
def copy(run: Run) -> Run:
    """The same run under another name: of the same identity, with labels of its own."""
    return Run.open(shutil.copytree(run.path, run.path.with_name("copy")))


@pytest.fixture(scope="module")
def address(run: Run, copy: Run) -> Iterator[str]:
    with serving(run.path.parent) as found:
        yield found


@pytest.fixture
def two(run: Run) -> tuple[int, int]:
    """Two features beside each other in the order of their numbers, which leaves out dead ones."""
    atoms = read_table(run.ensemble("bagged").atoms)
    first, second = atoms["feature"][~atoms["dead"]].iloc[10:12]
    return int(first), int(second)


def field(page: Any, name: str = "Label") -> Any:
    return page.get_by_role("textbox", name=name, exact=True)


def open_feature(watched: Watched, address: str, feature: int, *, run: str = "run") -> None:
    watched.page.goto(f"{address}/feature?run={run}&ensemble=bagged&feature={feature}&sort=feature")
    at(watched, feature)


def at(watched: Watched, feature: int) -> None:
    watched.page.get_by_role("heading", name=f"Feature {feature}", exact=True).wait_for()
    watched.page.locator(".said").wait_for(state="attached")  # what keeps drafts is there
    watched.settled()


def has_draft(page: Any, label: str, note: str = "") -> None:
    page.get_by_text(MARK).wait_for()
    has_value(field(page), label)
    has_value(field(page, "Note"), note)


def has_none(watched: Watched, label: str = "") -> None:
    """No draft comes, not even a while after the page is drawn."""
    watched.page.get_by_text(MARK).wait_for(state="detached")
    watched.page.wait_for_timeout(400)
    watched.settled()
    assert watched.page.get_by_text(MARK).count() == 0
    has_value(field(watched.page), label)


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_what_is_typed_and_not_saved_is_there_again(
    watched: Watched, address: str, run: Run, two: tuple[int, int]
) -> None:
    page, (first, second), store = watched.page, two, LabelStore(run.labels, run.name)
    open_feature(watched, address, first)
    field(page).fill(SIGNS)
    field(page, "Note").fill("not sure")
    press(page, "Next")
    at(watched, second)
    has_none(watched)
    press(page, "Previous")
    at(watched, first)
    has_draft(page, SIGNS, "not sure")
    page.go_back()
    at(watched, second)
    has_none(watched)
    page.go_back()
    at(watched, first)
    has_draft(page, SIGNS, "not sure")
    # What is typed into the draft is kept, too, when the page is loaded anew at once.
    field(page, "Note").fill("surer")
    page.reload()
    at(watched, first)
    has_draft(page, SIGNS, "surer")
    press(page, "Discard")
    has_none(watched)
    page.reload()
    at(watched, first)
    has_none(watched)
    assert store.all() == []
    # A link to another page and Back; then it is saved.
    field(page).fill("a label")
    page.locator(".st-key-pages a").get_by_text("Labels", exact=True).click()
    page.wait_for_url("**/labels*")
    watched.settled()
    page.go_back()
    at(watched, first)
    has_draft(page, "a label")
    press(page, "Save")
    page.get_by_text("Label saved").wait_for()
    has_none(watched, "a label")
    assert [(one.feature, one.label) for one in store.all()] == [(first, "a label")]
    page.reload()
    at(watched, first)
    has_none(watched, "a label")
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.includes('draft')).length") == 0
    watched.fine()


def test_a_draft_of_a_label_that_somebody_has_changed_is_saved_only_by_choice(
    watched: Watched, address: str, run: Run, two: tuple[int, int]
) -> None:
    page, feature, store = watched.page, two[1], LabelStore(run.labels, run.name)
    open_feature(watched, address, feature)
    field(page).fill("mine")
    page.reload()
    at(watched, feature)
    has_draft(page, "mine")
    store.set("bagged", 0, feature, feature, "of Bob", author="Bob")
    page.reload()
    at(watched, feature)
    page.get_by_text("Bob has saved “of Bob” here since you wrote your draft.").wait_for()
    has_draft(page, "mine")
    press(page, "Save")
    page.get_by_text("Somebody was faster").wait_for()
    assert store.get("bagged", feature).label == "of Bob"
    press(page, "Save mine")
    page.get_by_text("1 label saved").wait_for()
    has_none(watched, "mine")
    assert store.get("bagged", feature).label == "mine"
    watched.fine()


def test_name_and_undo_survive_a_reload_and_are_of_one_run(
    watched: Watched, address: str, run: Run, copy: Run, two: tuple[int, int]
) -> None:
    page, (first, second), store = watched.page, two, LabelStore(run.labels, run.name)
    for feature in two:
        store.set("bagged", 0, feature, feature, "", author="anonymous")  # of nobody's browser
    open_feature(watched, address, first)
    assert page.get_by_role("button", name="Undo", exact=True).is_disabled()
    field(page).fill("own")
    press(page, "Save")
    page.get_by_text("Label saved").wait_for()
    watched.settled()
    # Somebody else without a name is later here; in the copy, steps of one's own have the numbers of that one.
    store.set("bagged", 0, second, second, "of somebody else", author="anonymous")
    theirs = store.last_step("anonymous").number
    other = LabelStore(copy.labels, copy.name)
    open_feature(watched, address, first, run="copy")
    while not (last := other.last_step("anonymous")) or last.number < theirs:
        text = f"in the copy, {last.number if last else 0}"
        field(page).fill(text)
        press(page, "Save")
        page.wait_for_function("text => document.body.innerText.includes(text)", arg="Last saved by anonymous")
        page.locator(".sae .chip", has_text=text).wait_for()
        watched.settled()
    in_copy = other.get("bagged", first).label
    open_feature(watched, address, first)
    press(page, "Undo")
    page.get_by_text("Taken back").wait_for()
    watched.settled()
    assert store.get("bagged", first) is None
    assert store.get("bagged", second).label == "of somebody else"
    assert other.get("bagged", first).label == in_copy
    page.reload()
    at(watched, first)
    press(page, "Redo")
    page.get_by_text("Made again").wait_for()
    assert store.get("bagged", first).label == "own"

    name = page.get_by_role("textbox", name="Your name")
    has_value(name, "anonymous")
    name.fill(SIGNS)
    name.press("Enter")
    page.wait_for_function("document.cookie.includes('sae_ensemble_author=')")
    page.reload()
    at(watched, first)
    has_value(name, SIGNS)
    field(page).fill("with a name")
    press(page, "Save")
    page.get_by_text("Last saved by").wait_for()
    page.get_by_text(f"Last saved by {SIGNS}").wait_for()
    assert store.get("bagged", first).author == SIGNS
    watched.fine()


def test_a_draft_is_believed_only_if_it_makes_sense() -> None:
    texts = {"label": "a", "note": ""}
    good = {"place": "run/bagged/3", "texts": texts, "seen": 2}
    assert label_drafts.read(good, "run/bagged/3") == label_drafts.Draft(texts, 2)
    assert label_drafts.read(good, "run/bagged/4") is None
    wrong = [{"texts": {**texts, **part}} for part in ({"label": None}, {"note": 3}, {"label": "x" * 20_001})]
    for part in (*wrong, *({"seen": one} for one in (None, -1, True, "2")), {"texts": "a"}, {"texts": {"label": "a"}}):
        assert label_drafts.read({**good, **part}, "run/bagged/3") is None
    assert label_drafts.read([good], "run/bagged/3") is None
