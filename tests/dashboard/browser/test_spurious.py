"""Ablating features by hand in a real browser: a tick is answered, a choice is kept, and signs stay text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsing import MARKS, Watched
from spurious_run import SAYS_S, TASK, add_spurious_task
from synthetic_run import write_synthetic_run

from sae_core.analysis.spurious.choices import choices
from sae_core.foundation.run import Run

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytestmark = MARKS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = write_synthetic_run(tmp_path_factory.mktemp("browser") / "run", members=2, stop_before="evaluate")
    add_spurious_task(run)
    return run


def chosen(watched: Watched) -> str:
    """The row of the choice in the table of outcomes."""
    return watched.page.locator(".sae .scroll tr", has_text="Your choice").first.inner_text()


def ablated(watched: Watched, count: int) -> Locator:
    """The cell that says how many features the choice has, once it says so."""
    name = watched.page.locator(".sae .scroll th", has_text="Your choice")
    return name.locator(f"xpath=following-sibling::td[1][text()='{count}']")


def test_ticks_are_answered_and_a_choice_is_saved_loaded_and_exported(watched: Watched, address: str, run: Run) -> None:
    page = watched.page
    page.goto(f"{address}/spurious?ensemble=bagged")
    rows = page.locator(".row")
    rows.first.wait_for()
    mine = page.locator(f'.row[data-feature="{SAYS_S}"]')
    untouched = chosen(watched)
    mine.locator("input").click()
    page.locator(".sae .scroll th", has_text="Your choice").locator(
        "xpath=following-sibling::td[1][text()='1']"
    ).wait_for()
    assert chosen(watched) != untouched
    assert mine.locator(".word", has_text="she").count() == 1
    # By keyboard: the next box, and the space bar.
    mine.locator("input").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.locator(".sae .scroll th", has_text="Your choice").locator(
        "xpath=following-sibling::td[1][text()='2']"
    ).wait_for()
    assert page.locator(".row.on").count() == 2
    page.locator(".row.on").last.locator("input").click()
    mine.locator("button").click()
    page.get_by_text(f"Where feature {SAYS_S} is strongest").wait_for()
    assert page.locator("img[src='x']").count() == 0
    page.get_by_text("Save, load, export").click()
    page.get_by_label("Name", exact=True).fill("<b>she</b>")
    page.get_by_label("Name", exact=True).press("Enter")
    page.get_by_role("button", name="Save in the run").click()
    page.get_by_text("Saved in the run folder").wait_for()
    assert [choice.features for choice in choices(run, TASK, "bagged")] == [(SAYS_S,)]
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as JSON").click()
    content = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert content["features"] == [SAYS_S]
    assert content["evidence"][0]["words"].startswith("she")
    watched.fine()


def test_nothing_is_wider_than_a_phone(watched: Watched, address: str) -> None:
    page = watched.page
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{address}/spurious?ensemble=boosted")
    page.locator(".row").first.wait_for()
    watched.fine()
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0
    inside = page.locator(".list").first.evaluate("list => list.scrollWidth - list.clientWidth")
    assert inside <= 1
