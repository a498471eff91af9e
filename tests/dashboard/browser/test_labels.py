"""Labels in a real browser: edited in the table, and two people at one label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from browsing import MARKS, Watched

from sae_core.foundation.run import Run
from sae_core.labels import LabelStore

pytestmark = MARKS
ROW, HEAD = 35, 37
"""Heights in the table, which is drawn on a canvas."""
LABEL_X = 280
SIGNS = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def run(copied_run: Run) -> Run:
    return copied_run


def edit(page: Any, row: int, text: str) -> None:
    """Type a label into a row of the table, as a quick person does: Enter within a millisecond takes the old text."""
    box = page.get_by_test_id("stDataFrame").first.bounding_box()
    page.mouse.dblclick(box["x"] + LABEL_X, box["y"] + HEAD + ROW * (row + 0.5))
    page.locator("textarea.gdg-input").wait_for()
    page.keyboard.press("Control+A")
    page.keyboard.type(text, delay=30)
    page.wait_for_timeout(150)
    page.keyboard.press("Enter")


def until(page: Any, holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        page.wait_for_timeout(100)
    pytest.fail("it does not come to hold")


def texts(run: Run) -> dict[int, str]:
    return {one.feature: one.label for one in LabelStore(run.labels, run.name).all("bagged")}


def test_labels_are_edited_in_the_table_one_after_the_other(watched: Watched, address: str, run: Run) -> None:
    store = LabelStore(run.labels, run.name)
    for feature in (1, 2, 3):
        store.set("bagged", 0, feature, feature, f"label {feature}", author="Ada")
    page = watched.page
    page.goto(f"{address}/labels?run=run&ensemble=bagged")
    page.get_by_test_id("stDataFrame").first.wait_for()
    watched.settled()
    edit(page, 0, SIGNS)
    until(page, lambda: texts(run)[1] == SIGNS)
    # Somebody else writes; the table shows it at the next run, and an edit of another row keeps it.
    store.set("bagged", 0, 3, 3, "of Bob", author="Bob")
    edit(page, 1, "two")
    until(page, lambda: texts(run)[2] == "two")
    watched.settled()
    page.locator("td[role=gridcell]", has_text="of Bob").first.wait_for(state="attached")
    assert texts(run) == {1: SIGNS, 2: "two", 3: "of Bob"}
    # Of a label that somebody has changed since it was shown, both texts are there. The table runs the page once more
    # when it has got what was saved; Bob is to write after that, or his text would have been shown.
    page.wait_for_timeout(1500)
    watched.settled()
    store.set("bagged", 0, 2, 2, "of Bob, too", author="Bob")
    edit(page, 1, "mine")
    page.get_by_text("Somebody was faster").wait_for()
    assert texts(run)[2] == "of Bob, too"
    page.get_by_role("button", name="Save mine").click()
    until(page, lambda: texts(run)[2] == "mine")
    watched.settled()
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("Taken back").wait_for()
    assert texts(run) == {1: SIGNS, 2: "of Bob, too", 3: "of Bob"}
    watched.fine()
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0


@pytest.mark.parametrize("view", ["all", "several", "changes", "files"])
def test_every_view_fits_a_phone(browser: Any, address: str, run: Run, view: str) -> None:
    LabelStore(run.labels, run.name).set("bagged", 0, 1, 1, "word " * 30, "x" * 300, "Ada")
    one = Watched(browser, width=390, height=844)
    one.page.goto(f"{address}/labels?run=run&ensemble=bagged&view={view}")
    one.page.get_by_role("button", name="Undo").wait_for()
    one.fine()
    overflow = one.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0
    one.context.close()
