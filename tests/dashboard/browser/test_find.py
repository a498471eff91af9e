"""Finding and pinning in a real browser: token to features, sorting, keys, pins, the list as a link, on a phone."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from browsing import MARKS, Watched, feature_in
from synthetic_run import write_synthetic_run

from sae_core.activations.corpus import Corpus
from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.analysis.index.by_token import write_by_token
from sae_core.foundation.run import Run

pytestmark = MARKS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that takes no training, of some pages of features."""
    run = write_synthetic_run(tmp_path_factory.mktemp("browser") / "run", members=3, width=80)
    place = run.ensemble("bagged")
    write_by_token(ActivationIndex.open(place.index), Corpus.open(run), place.by_token)
    return run


def query(url: str) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlparse(url).query).items()}


def first_feature(page: Any) -> int:
    return int(page.locator(".list tbody tr").first.locator("td").nth(1).inner_text().replace(",", ""))


def test_from_a_token_by_keys_to_a_feature_and_to_pins(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/features?run=run&ensemble=bagged")
    page.locator(".list tbody tr").first.wait_for()
    watched.settled()
    page.get_by_role("textbox", name="Token that drives it").fill("the")
    page.get_by_role("textbox", name="Token that drives it").press("Enter")
    page.get_by_role("button", name="Tells it").wait_for()
    assert query(page.url)["token"] == "the"
    page.get_by_role("button", name="Density").click()
    page.wait_for_url(lambda url: query(url).get("sort") == "density")
    watched.settled()

    page.evaluate("document.activeElement.blur()")
    first = first_feature(page)
    page.keyboard.press("p")
    page.wait_for_url(lambda url: query(url).get("pins") == f"bagged.{first}")
    page.locator(".list tr.here button.pinned").wait_for()
    watched.settled()
    page.keyboard.press("j")
    second = int(page.locator(".list tr.here td").nth(1).inner_text())
    assert second != first
    page.keyboard.press("Enter")
    page.get_by_text("Examples in context").wait_for()
    page.wait_for_url(lambda url: feature_in(url) == second)
    watched.settled()
    assert query(page.url)["token"] == "the"
    assert query(page.url)["pins"] == f"bagged.{first}"

    page.locator(".st-key-pages a").get_by_text("Pinned features", exact=True).click()
    page.get_by_role("heading", name=f"Feature {first}", exact=True).wait_for()
    watched.fine()


def test_the_way_back_leads_to_the_row_of_the_feature_that_was_shown(browser: Any, address: str) -> None:
    one = Watched(browser, width=1440, height=500)
    page = one.page
    page.goto(f"{address}/feature?run=run&ensemble=bagged&feature=96&sort=feature&dead=1")
    page.locator("body[data-feature-keys=heard]").wait_for(state="attached")
    one.settled()
    page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name="Feature 97", exact=True).wait_for()
    one.settled()
    page.get_by_role("button", name="All", exact=True).click()
    row = page.locator(".list tr.here")
    row.wait_for()
    one.settled()
    assert row.locator("td").nth(1).inner_text() == "97"
    assert first_feature(page) == 50
    page.wait_for_timeout(500)  # nothing scrolls it out of sight again
    box = row.bounding_box()
    assert box is not None
    assert 0 <= box["y"] <= 500 - box["height"]
    one.fine()
    one.context.close()


def test_a_link_shows_pinned_features_on_a_phone(browser: Any, address: str) -> None:
    one = Watched(browser, width=390, height=844)
    one.page.goto(f"{address}/pinned?run=run&ensemble=bagged&pins=bagged.1~bagged.90~boosted.7")
    one.page.get_by_role("heading", name="Feature 90", exact=True).wait_for()
    one.fine()
    assert one.page.locator(".beside > div").count() == 3
    heights = one.page.locator(".beside dl").evaluate_all("all => all.map(one => one.getBoundingClientRect().top)")
    assert max(heights) - min(heights) < 1  # figures stand beside figures
    assert one.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    one.context.close()


def test_pages_of_rows_by_click(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/features?run=run&ensemble=bagged&dead=1&sort=feature")
    page.locator(".list tbody tr").first.wait_for()
    assert first_feature(page) == 0
    page.get_by_role("button", name="▶").click()
    page.wait_for_url(lambda url: query(url).get("page") == "2")
    page.wait_for_function("!document.querySelector('.stApp[data-test-script-state=running]')")
    watched.settled()
    page.get_by_text("50", exact=True).first.wait_for()
    assert first_feature(page) == 50
    watched.fine()


def test_a_text_that_the_model_does_not_fit_gets_a_sentence(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/text?run=run&ensemble=bagged&text=the%20array")  # the run's ensembles are for 32 dimensions
    page.get_by_text("This text cannot be read").wait_for()
    page.get_by_text("put back the model that the run was trained with").wait_for()
    watched.fine()
