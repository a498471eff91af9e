"""Back and Forward over five pages in a real browser; a saved label and one pin too many leave the style alone."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from browsing import MARKS, Watched, has_value

from dashboard.shared.pins import MOST
from sae_core.foundation.run import Run

pytestmark = MARKS
BASE = "run=run&ensemble=bagged"


@pytest.fixture(scope="module")
def run(copied_run: Run) -> Run:
    return copied_run


def at(url: str) -> tuple[str, dict[str, str]]:
    """(path, query) of an address."""
    parsed = urlparse(url)
    return parsed.path.strip("/"), {key: values[0] for key, values in parse_qs(parsed.query).items()}


def arrived(watched: Watched, path: str, **query: str) -> tuple[str, dict[str, str]]:
    """Wait for a page at an address, and give the address once it has settled."""
    page = watched.page
    page.wait_for_url(lambda url: at(url)[0] == path and query.items() <= at(url)[1].items())
    page.locator("[data-testid=stMain] h1").first.wait_for()
    page.wait_for_timeout(400)
    watched.settled()
    return at(page.url)


def follow(watched: Watched, name: str) -> None:
    watched.page.locator(".st-key-pages a").get_by_text(name, exact=True).click()


def has_style(page: Any) -> bool:
    return bool(page.evaluate("getComputedStyle(document.querySelector('.sae .chip')).borderRadius.startsWith('999')"))


def test_back_and_forward_walk_through_five_pages(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/concepts?{BASE}")
    steps = [arrived(watched, "concepts")]
    page.get_by_role("radiogroup", name="Features a detector uses").get_by_text("m = 1", exact=True).click()
    steps.append(arrived(watched, "concepts", m="1"))
    follow(watched, "Features")
    steps.append(arrived(watched, "features"))
    page.get_by_role("textbox", name="Search").fill("a")
    page.get_by_role("textbox", name="Search").press("Enter")
    steps.append(arrived(watched, "features", q="a"))
    page.locator(".list tbody tr").nth(1).locator("td").nth(2).click()
    steps.append(arrived(watched, "feature", q="a"))
    page.get_by_role("button", name="Next").click()
    page.wait_for_url(lambda url: at(url)[1].get("feature") != steps[-1][1]["feature"])
    steps.append(arrived(watched, "feature", q="a"))
    follow(watched, "Labels")
    steps.append(arrived(watched, "labels"))
    follow(watched, "Atom map")
    steps.append(arrived(watched, "map"))
    for _ in range(2):
        for there in reversed(steps[:-1]):
            page.go_back()
            assert arrived(watched, there[0], **there[1]) == there
            if there[0] == "feature":
                page.get_by_role("heading", name=f"Feature {there[1]['feature']}", exact=True).wait_for()
            elif there[0] == "features" and "q" in there[1]:
                has_value(page.get_by_role("textbox", name="Search"), "a")
        for there in steps[1:]:
            page.go_forward()
            assert arrived(watched, there[0], **there[1]) == there
    watched.fine()


def test_a_saved_label_and_one_pin_too_many_leave_the_style(watched: Watched, address: str) -> None:
    page = watched.page
    pins = "~".join(f"bagged.{feature}" for feature in range(MOST))
    page.goto(f"{address}/feature?{BASE}&feature=30&pins={pins}")
    arrived(watched, "feature", feature="30")
    assert has_style(page)
    page.get_by_role("textbox", name="Label").fill("saved")
    page.get_by_role("textbox", name="Label").press("Enter")
    page.get_by_text("Label saved").wait_for()
    assert has_style(page)
    page.keyboard.press("Escape")
    page.locator("[class*=st-key-pin-bagged-30] button").first.click()
    page.get_by_text("unpin one first").wait_for()
    assert has_style(page)
    watched.fine()
