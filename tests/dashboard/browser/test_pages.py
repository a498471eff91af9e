"""The dashboard in a real browser, on a run that was really trained.

Every page opens without an error, a label travels from a click to a file, and markup in text stays text.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsing import MARKS, Watched, assert_no_element_of_it, feature_in
from models import MARKUP

from dashboard.views import pages
from dashboard.views.compare.data import united
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run
from sae_core.labels import LabelStore

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = MARKS

SHOWN = {
    "overview": "How the ensembles compare",
    "feature": "Examples in context",
    "compare": "How alike the",
    "concepts": "Features that detect it",
    "spurious": "Remove a spurious correlation",
}
"""What a page shows that is drawn to its end; the others show their title above."""
LABEL, NOTE, AUTHOR = "=1+1 definite article", "<img src=x onerror=alert(1)>", "Ada"


@pytest.fixture(scope="module")
def run(copied_run: Run) -> Run:
    return copied_run


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_every_page_opens_without_an_error(browser: Browser, address: str, width: int, height: int) -> None:
    one = Watched(browser, width=width, height=height)
    for number, (path, page) in enumerate(pages().items()):
        one.page.goto(f"{address}/{path if number else ''}?run=run&ensemble=bagged")
        # In the page itself: the sidebar, hidden on a phone, names the pages too.
        one.page.get_by_test_id("stMain").get_by_text(SHOWN.get(path, page.title)).first.wait_for()
        one.fine()
        overflow = one.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, f"{path} is wider than the window"
        broken = one.page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
        assert not broken
    one.context.close()


def test_label_travels_from_a_match_to_the_csv_file(watched: Watched, address: str, run: Run) -> None:
    page = watched.page
    page.goto(f"{address}/features?run=run&ensemble=bagged&sort=stability")
    row = page.locator(".list tbody tr").first
    row.wait_for()
    watched.settled()
    row.locator("td").nth(1).click()
    page.get_by_text("Examples in context").wait_for()
    page.wait_for_url(lambda url: feature_in(url) is not None)
    watched.settled()
    first = feature_in(page.url)
    match = page.locator("a[data-go]").first
    match.click()
    page.wait_for_url(lambda url: feature_in(url) != first)
    watched.settled()
    matched = feature_in(page.url)
    page.get_by_role("heading", name=f"Feature {matched}", exact=True).wait_for()
    page.wait_for_function("document.querySelector('[data-testid=stMain]').scrollTop === 0")

    page.get_by_role("textbox", name="Your name").fill(AUTHOR)
    page.get_by_role("textbox", name="Your name").press("Enter")
    watched.settled()
    page.get_by_role("textbox", name="Label").fill(LABEL)
    page.get_by_role("textbox", name="Note").fill(NOTE)
    page.get_by_role("button", name="Save").click()
    page.get_by_text(f"Last saved by {AUTHOR}").wait_for()
    watched.settled()

    page.locator(".st-key-pages a").get_by_text("Labels", exact=True).click()
    page.get_by_text("Import and export").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 1
    row = rows[0]
    assert (row["run"], row["ensemble"]) == ("run", "bagged")
    assert run.settings.sae.width * int(row["member"]) + int(row["latent"]) == int(row["feature"]) == matched
    assert (row["label"], row["note"], row["author"]) == (f"'{LABEL}", NOTE, AUTHOR)
    assert row["time"]
    watched.fine()


def test_the_back_button_returns_to_the_feature_before(watched: Watched, address: str, run: Run) -> None:
    atoms = read_table(run.ensemble("bagged").atoms)
    first, second = atoms["feature"][~atoms["dead"]].iloc[30:32]  # of the order of the table, which hides dead ones
    page = watched.page
    page.goto(f"{address}/feature?run=run&ensemble=bagged&feature={first}&sort=feature")
    page.get_by_role("heading", name=f"Feature {first}", exact=True).wait_for()
    watched.settled()
    page.get_by_role("button", name="Next").click()
    page.get_by_role("heading", name=f"Feature {second}", exact=True).wait_for()
    watched.settled()
    page.go_back()
    page.get_by_role("heading", name=f"Feature {first}", exact=True).wait_for()
    watched.fine()


def test_markup_in_tokens_and_labels_stays_text(watched: Watched, address: str, run: Run) -> None:
    atoms = read_table(run.ensemble("bagged").atoms)
    chosen = atoms[atoms["top_token"] == MARKUP].sort_values("family_size").iloc[-1]
    feature = int(chosen["feature"])
    assert chosen["family_size"] > 1, "no feature of the markup is in a family; the small run has changed"
    member, latent = divmod(feature, run.settings.sae.width)
    store = LabelStore(run.labels, run.name)
    store.set("bagged", member, latent, feature, NOTE, "<script>alert(2)</script>", "<b onclick=alert(3)>Ada</b>")
    page, dialogs = watched.page, []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    try:
        page.goto(f"{address}/feature?run=run&ensemble=bagged&feature={feature}")
        page.get_by_text(NOTE, exact=True).wait_for()  # the label, beside the title
        page.get_by_text("Last saved by <b onclick=alert(3)>Ada</b>").wait_for()
        page.locator(".strips").get_by_text(MARKUP).first.wait_for()
        assert_no_element_of_it(watched)

        families = united(read_table(run.ensemble("bagged").families))
        number = next(n for n, group in zip(families["family"], families["features"], strict=True) if feature in group)
        page.goto(f"{address}/compare?run=run&ensemble=bagged&family={number}")
        page.get_by_role("heading", name=f"Family {number}", exact=True).wait_for()
        page.locator(".card").get_by_text(MARKUP).first.wait_for()
        assert_no_element_of_it(watched)

        page.goto(f"{address}/labels?run=run&ensemble=bagged")
        # The table is drawn on a canvas; readers of the screen get these cells.
        page.locator("td[role=gridcell]", has_text=NOTE).first.wait_for(state="attached")
        assert_no_element_of_it(watched)
    finally:
        store.delete("bagged", feature)
    assert not dialogs


def test_an_unknown_run_gets_a_message_and_a_way_out(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/feature?run=..%2F..%2Fetc&feature=1")
    page.get_by_text("There is no run called").wait_for()
    page.get_by_role("link", name="Back to the overview").click()
    page.get_by_text("How the ensembles compare").wait_for()
    watched.fine()
