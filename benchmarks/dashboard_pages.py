"""The dashboard in headless Chromium: from a click to the page drawn, held keys, first page, filtered table, memory.

    python benchmarks/dashboard_run.py /tmp/big && python benchmarks/dashboard_pages.py /tmp/big

A time ends with the first frame after the last change of what people see (elements, texts, images); the server's share
is from the request on the WebSocket to its last message, as the browser sees it. `dashboard_watch.js` takes both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlparse

from dashboard_server import FLAGS, HEADING, PATIENCE, Person, Server, described, machine, served, summary
from playwright.sync_api import Browser, Page, sync_playwright

from sae_core.foundation.run import Run

WATCH = (Path(__file__).parent / "dashboard_watch.js").read_text(encoding="utf-8")
QUIET = 400
"""Milliseconds without a change after which a page counts as drawn."""
PAGES = ("", "features", "feature", "compare", "map", "concepts", "labels")
ROWS = "[data-testid=stMain] [aria-label^='Features'] tbody tr"
"""The rows of the feature table."""
HELD = 30
"""Presses a second of a held key."""
SEARCHES = ("numpy", "return", "array", "the", "self", "type", "index", "1234", "py", "error")

Times = dict[str, list[float]]


class Look:
    """A browser window on a run.

    Args:
        browser: Chromium.
        server: The dashboard.
        where: The query string's run and ensemble.
    """

    def __init__(self, browser: Browser, server: Server, where: dict[str, str]) -> None:
        self.context = browser.new_context(viewport={"width": 1440, "height": 900})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.add_init_script(WATCH)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self._server, self._where = server, where

    def open(self, page: str, **query: object) -> float:
        """Open an address anew; milliseconds until it is drawn."""
        self.page.goto(f"{self._server.address}/{page}?{urlencode({**self._where, **query})}", wait_until="commit")
        self.page.wait_for_selector("[data-testid=stMain] h1")
        return self.drawn()["painted"]

    def drawn(self, quiet: int = QUIET) -> dict[str, float]:
        """Wait until nothing has changed for so many milliseconds; what was seen."""
        self.page.wait_for_function(
            """quiet => {
                const app = document.querySelector('.stApp'), now = performance.now();
                return app?.dataset.testScriptState === 'notRunning'
                    && now - Math.max(__seen.changed, __seen.received, __seen.input) > quiet;
            }""",
            arg=quiet,
            polling=50,
        )
        seen: dict[str, float] = self.page.evaluate("__seen")
        return seen

    def after(self, action: Callable[[], None]) -> dict[str, float]:
        """Do something that one click or key does; milliseconds from it to the page drawn, and the server's share."""
        self.page.evaluate("__restart()")
        action()
        self.page.wait_for_function("__seen.sent > 0 && __seen.changed > __seen.input")
        seen = self.drawn()
        return {
            "drawn": seen["painted"] - seen["input"],
            "server": seen["received"] - seen["sent"],
            "kilobytes": seen["bytes"] / 1000,
        }

    def feature(self) -> int | None:
        """The feature in the address bar."""
        values = parse_qs(urlparse(self.page.url).query).get("feature")
        return int(values[0]) if values else None

    def close(self) -> None:
        """Close the window."""
        self.context.close()


def first_pages(browser: Browser, run: Path, where: dict[str, str], rounds: int) -> Times:
    """The first page that a fresh server shows, in a fresh browser profile."""
    times: Times = {"first page after start: overview": [], "first page after start: feature": []}
    for _ in range(rounds):
        for name, page in zip(times, ("", "feature"), strict=True):
            with served(run) as server:
                look = Look(browser, server, where)
                times[name].append(look.open(page))
                look.close()
    return times


def feature_clicks(look: Look, rounds: int) -> Times:
    """From a click to another feature: by its matches' links, by the step button, and in the table."""
    times: Times = {}
    look.open("feature")
    for number in range(rounds):
        links = look.page.locator("[data-testid=stMain] a[href*='feature=']")
        _note(times, "a linked feature", look.after(links.nth(number % max(1, min(4, links.count()))).click))
    for _ in range(rounds):
        _note(times, "the next feature, by its button", look.after(look.page.get_by_role("button", name="Next").click))
    look.open("features")
    for number in range(rounds):
        look.page.locator(ROWS).first.wait_for()
        row = look.page.locator(ROWS).nth(number % 12).locator("td").nth(1)
        _note(times, "a row of the table", look.after(row.click))
        look.page.go_back()
        look.page.locator(ROWS).first.wait_for()
        look.drawn()
    return times


def _note(times: Times, name: str, seen: dict[str, float]) -> None:
    times.setdefault(name, []).append(seen["drawn"])
    times.setdefault(f"{name}: server", []).append(seen["server"])


def held_key(look: Look, presses: int, times: Times) -> dict[str, Any]:
    """Hold the right arrow; how many of the presses arrived at another feature, and how long the last one took."""
    look.open("feature")
    order = [look.feature()]
    for _ in range(6):
        times.setdefault("the next feature, by key", []).append(
            look.after(lambda: look.page.keyboard.press("ArrowRight"))["drawn"]
        )
        order.append(look.feature())
    start = look.feature()
    look.page.evaluate("__restart()")
    began = time.perf_counter()
    for press in range(presses):
        look.page.keyboard.down("ArrowRight")  # repeats, as a held key does
        time.sleep(max(0.0, began + (press + 1) / HELD - time.perf_counter()))
    look.page.keyboard.up("ArrowRight")
    seconds = time.perf_counter() - began
    seen = look.drawn(2000)  # long enough for whatever the server has still to do
    arrived, steps = look.feature(), 0
    while look.feature() != start and steps < presses + 5:
        look.after(look.page.get_by_role("button", name="Previous").click)
        steps += 1
    after_release = seen["painted"] - seen["input"] - 1000 * seconds
    return {
        "presses": presses,
        "a second": presses / seconds,
        "steps": steps,
        "arrived": arrived,
        "settled after release, ms": after_release,
    }


def filtered_table(look: Look, rounds: int) -> Times:
    """From Enter in the search field to the table drawn."""
    times: Times = {}
    look.open("features")
    for number in range(rounds):
        field = look.page.get_by_role("textbox", name="Search").first
        field.fill(SEARCHES[number % len(SEARCHES)])
        _note(times, "table filtered by text", look.after(lambda: field.press("Enter")))  # noqa: B023
    return times


def opened_pages(look: Look, rounds: int) -> Times:
    """Every page by its link in the sidebar."""
    times: Times = {}
    look.open("")
    names = [name.strip() for name in look.page.locator(".st-key-pages a").all_inner_texts()]
    for _ in range(rounds):
        for name in names[1:] + names[:1]:
            link = look.page.locator(".st-key-pages a").get_by_text(name.split("\n")[-1], exact=True)
            _note(times, f"page {name.split(chr(10))[-1]}", look.after(link.click))
    return times


def server_alone(server: Server, where: dict[str, str], rounds: int) -> Times:
    """What a client without a browser waits for each page: the server, and nothing else."""

    async def visits() -> Times:
        times: Times = {}
        async with Person(server.address) as person:
            await person.visit("", **where)
            for number in range(rounds + 1):
                for page in PAGES:
                    query = {"feature": 1009 * number} if page == "feature" else {}
                    answer = await person.visit(page, **where, **query)
                    name = f"server alone: {page or 'overview'}"
                    times.setdefault(f"{name}, first" if not number else name, []).append(answer.milliseconds)
        return times

    # Playwright keeps an event loop in this thread.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(visits())).result()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--ensemble", default="bagged")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--starts", type=int, default=5, help="Fresh servers for the first page.")
    parser.add_argument("--parts", default="server,first,clicks,held,table,pages", help="What to measure.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    run, parts = Run.open(options.run), options.parts.split(",")
    where = {"run": run.path.name, "ensemble": options.ensemble}
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    times: Times = {}
    notes: dict[str, Any] = {"machine": machine()}
    print(f"{notes['machine']}\n\n{HEADING}", flush=True)

    def tell(more: Times) -> None:
        times.update(more)
        print(*(described(name, values) for name, values in more.items()), sep="\n", flush=True)

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        notes["chromium"] = browser.version
        if "first" in parts:
            tell(first_pages(browser, options.run, where, options.starts))
        with served(options.run) as server:
            notes["memory at start"] = server.memory()
            if "server" in parts:
                tell(server_alone(server, where, options.rounds))
            look = Look(browser, server, where)
            if "clicks" in parts:
                tell(feature_clicks(look, options.rounds))
            if "held" in parts:
                pressed: Times = {}
                notes["held key"] = held_key(look, 60, pressed)
                tell(pressed)
            if "table" in parts:
                tell(filtered_table(look, options.rounds))
            if "pages" in parts:
                tell(opened_pages(look, max(3, options.rounds // 5)))
            notes |= {"memory at the end": server.memory(), "errors in the browser": look.errors}
            look.close()
        browser.close()
    print("", *(f"{name}: {value}" for name, value in notes.items()), sep="\n")
    if options.json:
        figures = {name: summary(values) for name, values in times.items()}
        options.json.write_text(json.dumps(notes | {"milliseconds": figures}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
