"""The atom map in a real browser: click, lasso, search, keys and touch, and two members moving together."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import MARKS, Watched, feature_in
from synthetic_run import write_synthetic_run

from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run

pytestmark = MARKS
MAP = "map?run=run&ensemble=bagged"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that takes no training, with some hundred points."""
    return write_synthetic_run(tmp_path_factory.mktemp("browser") / "run", members=3, width=80)


def opened(one: Watched, url: str) -> Any:
    """The page, once its map is drawn."""
    one.page.goto(url)
    one.page.locator(".map[data-drawn]").wait_for()
    one.settled()
    return one.page


def ink(page: Any, panel: int = 0) -> int:
    """How many pixels of a panel are not as the first one."""
    script = """canvas => {
        const {width, height} = canvas, data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
        const pixels = new Uint32Array(data.buffer);
        return pixels.reduce((sum, pixel) => sum + (pixel !== pixels[0]), 0);
    }"""
    return int(page.locator("canvas").nth(panel).evaluate(script))


def middle(page: Any, panel: int = 0) -> tuple[float, float, float]:
    """The middle of a panel, and half its smaller side."""
    box = page.locator("canvas").nth(panel).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, min(box["width"], box["height"]) / 2


def test_a_click_shows_the_feature_and_a_lasso_lists_features(watched: Watched, address: str, run: Run) -> None:
    page = opened(watched, f"{address}/{MAP}")
    assert ink(page) > 200
    page.locator("canvas").focus()
    page.keyboard.press("Enter")  # the feature nearest to the middle
    page.get_by_text("Open feature").wait_for()
    page.wait_for_url(lambda url: feature_in(url) is not None)
    watched.settled()
    chosen = feature_in(page.url)
    assert f"Feature {chosen:,}" in page.locator(".status").inner_text()

    page.get_by_role("button", name="Lasso").click()
    x, y, half = middle(page)
    for step, (dx, dy) in enumerate([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -0.9)]):
        page.mouse.move(x + 0.97 * half * dx, y + 0.97 * half * dy, steps=5)
        if step == 0:
            page.mouse.down()
    page.mouse.up()
    page.get_by_text("features inside the line").wait_for()
    watched.settled()
    alive = (~read_table(run.ensemble("bagged").atoms)["dead"]).sum()
    page.get_by_role("heading", name=f"{alive} features inside the line").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    assert len(rows) == alive
    assert {row["ensemble"] for row in rows} == {"bagged"}

    page.get_by_role("button", name="Clear").click()
    page.get_by_text("features inside the line").wait_for(state="detached")
    page.get_by_text(f"Open feature {chosen:,}").click()
    page.get_by_text("Examples in context").wait_for()
    assert feature_in(page.url) == chosen
    watched.fine()


def test_a_search_lights_its_hits_and_enter_lists_them(watched: Watched, address: str, run: Run) -> None:
    page = opened(watched, f"{address}/{MAP}")
    atoms = read_table(run.ensemble("bagged").atoms)
    texts = (
        atoms["top_token"].str.lower() + " " + read_table(run.ensemble("bagged").suggestions)["suggestion"].str.lower()
    )
    token, hits = "the", int((texts.str.contains("the", regex=False) & ~atoms["dead"]).sum())
    assert hits > 1
    page.get_by_role("searchbox").fill(token)
    page.get_by_text(f"{hits} highlighted").wait_for()
    page.get_by_role("searchbox").press("Enter")
    page.get_by_role("heading", name=f"{hits} features that fit").wait_for()
    page.get_by_role("searchbox").fill("")
    page.get_by_text("features that fit").wait_for(state="detached")
    # By member and number within it, too, as the list of features.
    alive = atoms[(atoms["member"] == 1) & ~atoms["dead"]].iloc[0]
    page.get_by_role("searchbox").fill(f"1:{alive['latent']}")
    page.get_by_text("1 highlighted").wait_for()
    page.get_by_role("searchbox").press("Enter")
    page.get_by_role("heading", name="1 feature").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    (row,) = csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines())
    assert (row["feature"], row["member"], row["latent"]) == (str(alive["feature"]), "1", str(alive["latent"]))
    suggested = read_table(run.ensemble("bagged").suggestions).iloc[int(alive["feature"])]
    assert row["suggestion"] == suggested["suggestion"]
    written = [row[f"suggestion_{name}"] for name in ("precision", "recall")]
    assert written == [
        "" if suggested[name] != suggested[name] else str(suggested[name]) for name in ("precision", "recall")
    ]
    watched.fine()


def test_colours_can_be_taken_off_and_the_legend_follows(watched: Watched, address: str) -> None:
    page = opened(watched, f"{address}/{MAP}&color=member")
    before = ink(page)
    page.locator(".legend").get_by_role("button", name="member 0").click()
    page.wait_for_function("before => before", arg=before)
    page.wait_for_timeout(200)
    assert 0 < ink(page) < before
    page.get_by_test_id("stButtonGroup").get_by_text("Density").click()
    page.locator(".legend .ramp").wait_for()
    watched.settled()
    assert ink(page) > 0.9 * before  # names and rings aside, all are back
    watched.fine()


def test_two_members_move_together_and_mark_the_match(watched: Watched, address: str, run: Run) -> None:
    atoms = read_table(run.ensemble("bagged").atoms)
    feature = int(atoms[~atoms["dead"] & (atoms["member"] == 0)]["feature"].iloc[0])
    page = opened(watched, f"{address}/{MAP}&show=members&left=0&right=1&feature={feature}")
    assert page.locator("canvas").count() == 2
    page.get_by_text("the most similar one of the other side").wait_for()
    before = [ink(page, panel) for panel in (0, 1)]
    x, y, _ = middle(page)
    page.mouse.move(x, y)
    for _ in range(6):
        page.mouse.wheel(0, 400)  # away: all points in a smaller place
    page.wait_for_timeout(300)
    after = [ink(page, panel) for panel in (0, 1)]
    assert all(less < more for less, more in zip(after, before, strict=True))
    watched.fine()


@pytest.fixture
def phone(browser: Any) -> Iterator[Watched]:
    one = Watched(browser, width=390, height=844)
    one.context.close()
    one.context = browser.new_context(
        viewport={"width": 390, "height": 844},
        has_touch=True,
        is_mobile=True,
        device_scale_factor=2,
        color_scheme="dark",
    )
    one.page = one.context.new_page()
    one.page.set_default_timeout(60_000)
    one.page.on("pageerror", lambda error: one.problems.append(f"page error: {error}"))
    one.page.on("console", one._console)
    yield one
    one.context.close()


def test_a_phone_taps_drags_and_pinches(phone: Watched, address: str) -> None:
    page = opened(phone, f"{address}/{MAP}&color=cluster")
    canvas = page.locator("canvas")
    canvas.scroll_into_view_if_needed()
    assert canvas.evaluate("canvas => canvas.width / canvas.getBoundingClientRect().width") == pytest.approx(
        2, abs=0.01
    )
    first = ink(page)
    x, y, half = middle(page)
    session = phone.context.new_cdp_session(page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": px, "y": py, "id": number} for number, (px, py) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (x - 0.3 * half, y), (x + 0.3 * half, y))
    for spread in (0.25, 0.2, 0.15, 0.1):
        touch("touchMove", (x - spread * half, y), (x + spread * half, y))
    touch("touchEnd")
    page.wait_for_timeout(300)
    pinched = ink(page)
    assert pinched < first  # all points in a smaller place
    top = page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop")
    touch("touchStart", (x, y))
    for step in range(1, 12):
        touch("touchMove", (x, y + 0.16 * half * step))
    touch("touchEnd")
    page.wait_for_timeout(300)
    assert ink(page) != pinched
    assert (
        page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop") == top
    )  # the map moved, not the page
    canvas.focus()
    page.keyboard.press("0")
    page.wait_for_timeout(200)
    page.keyboard.press("a")
    page.get_by_text("features inside the line").wait_for()
    phone.settled()
    assert not phone.problems
