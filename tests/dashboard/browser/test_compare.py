"""Comparing members in a real browser, on a run that was really trained: a family by a click, a text through all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlparse

import pytest
from browsing import MARKS, Watched, assert_no_element_of_it
from models import MARKUP

from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = MARKS


@pytest.fixture(scope="module")
def run(copied_run: Run) -> Run:
    return copied_run


@pytest.fixture(params=[(1440, 900), (390, 844)])
def watched(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Watched]:
    width, height = request.param
    one = Watched(browser, width=width, height=height)
    yield one
    one.context.close()


def test_a_row_leads_to_its_family_and_on_to_a_feature(watched: Watched, address: str, run: Run) -> None:
    page = watched.page
    page.goto(f"{address}/compare?run=run&ensemble=bagged")
    page.get_by_role("heading", name="Family 0", exact=True).wait_for()
    watched.settled()
    # The canvas has no cells to click: row 2 lies below the heading and two rows, each 35 pixels high.
    grid = page.locator("[data-testid=stDataFrame]").first
    grid.scroll_into_view_if_needed()
    grid.click(position={"x": 30, "y": 37 + 35 * 2 + 17})
    page.get_by_role("heading", name="Family 2", exact=True).wait_for()
    assert parse_qs(urlparse(page.url).query)["family"] == ["2"]
    page.get_by_role("link", name=re.compile(r"Feature \d")).first.click()
    page.get_by_text("Examples in context").wait_for()
    watched.fine()


def test_a_text_goes_through_all_stages(watched: Watched, address: str, run: Run) -> None:
    page = watched.page
    page.goto(f"{address}/compare?run=run&ensemble=boosted")
    page.get_by_text("The same text through all stages").wait_for()
    watched.settled()
    page.get_by_placeholder("Returns the indices").fill(f"the page {MARKUP} of\nthe page")
    page.get_by_role("button", name="Read it").click()
    page.get_by_text("What each stage removes of this text").wait_for()
    watched.settled()
    rows = page.locator(".strips", has_text="stage 0").locator(".txt", has_text=MARKUP)
    assert rows.count() == run.settings.training.members
    # The strips of a line begin at one place, and are as wide as each other: the same tokens stand below each other.
    boxes = [one.bounding_box() for one in rows.all()]
    assert len({(round(box["x"]), round(box["width"])) for box in boxes if box}) == 1
    assert read_table(run.ensemble("boosted").stage_energy)["removed"].sum() > 0
    assert_no_element_of_it(watched)
