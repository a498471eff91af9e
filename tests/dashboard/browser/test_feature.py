"""A feature's page in a real browser: a held key loses no press, links and keys answer, what is typed is kept."""

from __future__ import annotations

import pytest
from browsing import MARKS, feature_in, has_value
from synthetic_run import write_synthetic_run

from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run
from sae_core.labels import LabelStore

pytestmark = MARKS
PRESSES = 25


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_synthetic_run(tmp_path_factory.mktemp("feature") / "run", members=2, stop_before="evaluate")


def opened(watched, address: str, feature: int) -> None:
    watched.page.goto(f"{address}/feature?run=run&ensemble=bagged&feature={feature}&sort=feature&dead=1")
    watched.page.locator("body[data-feature-keys=heard]").wait_for(state="attached")
    watched.settled()


def shows(watched, feature: int) -> None:
    watched.page.get_by_role("heading", name=f"Feature {feature}", exact=True).wait_for()
    watched.settled()


def test_a_held_key_loses_no_press(watched, address: str) -> None:
    opened(watched, address, 2)
    for _ in range(PRESSES):
        watched.page.keyboard.press("ArrowRight")
        watched.page.wait_for_timeout(30)  # as fast as a key repeats
    shows(watched, 2 + PRESSES)
    for _ in range(5):
        watched.page.keyboard.press("ArrowLeft")
    shows(watched, 2 + PRESSES - 5)
    assert feature_in(watched.page.url) == 2 + PRESSES - 5
    watched.fine()


def test_keys_and_links_answer_and_leave_alone_who_types(watched, address: str) -> None:
    opened(watched, address, 2)
    page = watched.page
    page.keyboard.press("l")
    page.keyboard.type("solo")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    page.get_by_role("textbox", name="Note").fill("being written")
    page.keyboard.press("Escape")
    page.get_by_text("linear", exact=True).click()  # something else on the page changes
    watched.settled()
    has_value(page.get_by_role("textbox", name="Label"), "solo")
    has_value(page.get_by_role("textbox", name="Note"), "being written")
    shows(watched, 2)
    there = int(page.locator("a[data-go]").first.get_attribute("data-go"))
    page.keyboard.press("o")
    shows(watched, there)
    watched.fine()


def test_a_suggestion_becomes_the_label_at_a_click(watched, address: str, run: Run) -> None:
    table = read_table(run.ensemble("bagged").suggestions)
    row = table[table["suggestion"] != ""].iloc[0]
    feature = int(row["feature"])
    opened(watched, address, feature)
    watched.page.get_by_role("textbox", name="Note").fill("half a thought")
    watched.page.get_by_role("button", name="Take as label").click()
    watched.page.get_by_text("Last saved by").wait_for()
    label = LabelStore(run.labels, run.name).get("bagged", feature)
    assert label is not None
    assert (label.label, label.note) == (row["suggestion"], "half a thought")
    watched.fine()
