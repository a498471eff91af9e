"""The atom map in headless Chromium: until it is drawn, its frames while moved and zoomed, clicks and lassos.

    python benchmarks/dashboard_map.py RUN --ensemble bagged --json map.json

RUN is an indexed run; `dashboard_run.py` writes a large one without training. For each way of drawing (one device pixel
a CSS pixel, and two) the page is opened anew several times, and then:

drawn        from the navigation to the first frame with all points in it, server included
move, zoom   milliseconds between frames while the map is dragged and zoomed once a frame
click        from the pointer's release to the text of the feature drawn beside the map, by the server
ring         from the pointer's release to the frame in which the point is marked, in the browser alone
lasso        from the pointer's release, with a line around a third of the map, to the list drawn below it
search       from the last key to the frame with the hits highlighted

Medians and 95th percentiles in milliseconds. Nothing is asserted: the numbers depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from dashboard_server import FLAGS, served
from playwright.sync_api import Browser, Page, sync_playwright

WINDOW = {"width": 1440, "height": 1000}
PATIENCE = 120_000
ROOT = """window.mapRoot = () =>
    [...document.querySelectorAll("*")].map(each => each.shadowRoot?.querySelector(".map")).find(Boolean)"""
# Frames are timed where they are drawn, and the pointer's events made there, so that Playwright's way is not timed.
FRAMES = """async ({kind, frames}) => {
    const root = mapRoot();
    const canvas = root.querySelector("canvas"), box = canvas.getBoundingClientRect();
    const at = (x, y) => ({clientX: box.left + x * box.width, clientY: box.top + y * box.height,
        pointerId: 1, pointerType: "mouse", button: 0, bubbles: true});
    const send = (type, x, y) => canvas.dispatchEvent(new PointerEvent(type, at(x, y)));
    const next = () => new Promise(requestAnimationFrame);
    canvas.setPointerCapture = () => {};  // there is no pointer to be captured
    if (kind === "move") send("pointerdown", 0.5, 0.5);
    const times = [];
    let before = await next();
    for (let k = 0; k < frames; k++) {
        const angle = k / 12;
        if (kind === "move") send("pointermove", 0.5 + 0.2 * Math.sin(angle), 0.5 + 0.2 * Math.cos(angle) - 0.2);
        else canvas.dispatchEvent(new WheelEvent("wheel", {...at(0.5, 0.5), deltaY: Math.sin(angle) > 0 ? -40 : 40,
            cancelable: true}));
        const now = await next();
        times.push(now - before);
        before = now;
    }
    if (kind === "move") { send("pointermove", 0.9, 0.9); send("pointerup", 0.9, 0.9); }
    return times.slice(2);
}"""
# Notes when the page changes after the pointer is released: the text of the chosen feature, or of the list.
WATCH = """({text}) => {
    window.released = window.answered = null;
    addEventListener("pointerup", () => { window.released = performance.now() }, {capture: true, once: true});
    const seen = document.body.innerText;
    const look = () => {
        if (window.released && new RegExp(text).exec(document.body.innerText)?.[0] !== new RegExp(text).exec(seen)?.[0])
            window.answered = performance.now();
        else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
}"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--ensemble", default="bagged")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    found: dict[str, Any] = {}
    with served(options.run) as server, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for sharp in (1, 2):
            found[f"{sharp} pixel"] = measure(
                browser, f"{server.address}/map?ensemble={options.ensemble}", sharp, options.rounds
            )
        browser.close()
    for name, figures in found.items():
        for measured, times in figures.items():
            print(f"{name}  {measured:8}", *(f"{key} {value:8.1f}" for key, value in times.items()), sep="  ")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


def measure(browser: Browser, address: str, sharp: int, rounds: int) -> dict[str, dict[str, float]]:
    """All figures at one sharpness."""
    context = browser.new_context(viewport=WINDOW, device_scale_factor=sharp)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.add_init_script(ROOT)
    drawn = [opened(page, address) for _ in range(rounds + 1)]
    figures = {"drawn": drawn[1:], "first": drawn[:1]}
    for kind in ("move", "zoom"):
        figures[kind] = page.evaluate(FRAMES, {"kind": kind, "frames": 120})
    page.get_by_role("button", name="All", exact=True).click()
    figures |= clicks(page, rounds)
    figures["search"] = searches(page, rounds)
    figures["lasso"] = lassos(page, rounds)
    context.close()
    return {name: summary(times) for name, times in figures.items()}


def opened(page: Page, address: str) -> float:
    """Milliseconds until the map is drawn."""
    page.goto("about:blank")
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.locator(".map[data-drawn]").wait_for()
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    elapsed = 1000 * (time.perf_counter() - began)
    settle(page)
    return elapsed


def clicks(page: Page, rounds: int) -> dict[str, list[float]]:
    """Milliseconds until a clicked point is marked, and until its feature is shown."""
    box = page.locator(".map canvas").bounding_box()
    assert box is not None
    rings, answers = [], []
    for number in range(3 * rounds):
        angle, radius = 2.4 * number, 0.02 + 0.3 * math.sqrt(number / (3 * rounds))
        x = box["x"] + box["width"] / 2 + radius * box["height"] * math.cos(angle)
        y = box["y"] + box["height"] / 2 + radius * box["height"] * math.sin(angle)
        page.evaluate(WATCH, {"text": "Open feature [0-9,]+"})
        before = page.locator(".status").inner_text()
        page.mouse.move(x, y)
        page.mouse.click(x, y)
        page.wait_for_timeout(60)
        if page.locator(".status").inner_text() == before:
            continue  # there is no point here, or it is the one chosen before
        page.wait_for_function("window.answered")
        answers.append(page.evaluate("window.answered - window.released"))
        rings.append(ring(page))
        settle(page)
    return {"click": answers, "ring": rings}


def ring(page: Page) -> float:
    """Milliseconds from Enter on the map to the frame in which another point is marked."""
    return float(
        page.evaluate(
            """async () => {
                const root = mapRoot();
                const status = root.querySelector(".status"), before = status.textContent;
                const canvas = root.querySelector("canvas");
                canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true}));
                const began = performance.now();
                canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
                for (let k = 0; k < 100 && status.textContent === before; k++) await new Promise(requestAnimationFrame);
                return performance.now() - began;
            }"""
        )
    )


def searches(page: Page, rounds: int) -> list[float]:
    """Milliseconds from a word to its hits."""
    script = """async word => {
        const root = mapRoot();
        const field = root.querySelector("input"), status = root.querySelector(".status");
        status.textContent = "";
        const began = performance.now();
        field.value = word;
        field.dispatchEvent(new Event("input"));
        while (!/highlighted/.test(status.textContent)) await new Promise(requestAnimationFrame);
        return performance.now() - began;
    }"""
    words = ["the", "a", "12", "return", "e", "in", "on", "x", "array", "o"]
    times = [page.evaluate(script, words[number % len(words)]) for number in range(rounds)]
    page.get_by_role("button", name="Clear").click()
    settle(page)
    return times


def lassos(page: Page, rounds: int) -> list[float]:
    """Milliseconds from the end of a lasso around about a third of the map to its list."""
    page.get_by_role("button", name="All", exact=True).click()
    page.get_by_role("button", name="Lasso", exact=True).click()
    times = []
    for number in range(rounds):
        box = resting(page)
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        radius = box["height"] * (0.24 + 0.01 * number)
        page.evaluate(WATCH, {"text": "[0-9,]+ features inside the line"})
        for step in range(60):
            angle = 2 * math.pi * step / 60
            page.mouse.move(middle[0] + radius * math.cos(angle), middle[1] + radius * math.sin(angle))
            if not step:
                page.mouse.down()
        page.mouse.up()
        page.wait_for_function("window.answered")
        times.append(page.evaluate("window.answered - window.released"))
        settle(page)
    return times


def resting(page: Page) -> dict[str, float]:
    """Where the map's canvas is, once what is drawn around it moves it no more."""
    canvas, before = page.locator(".map canvas"), None
    while True:
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        if box is not None and box == before:
            return dict(box)
        before = box
        page.wait_for_timeout(300)


def settle(page: Page) -> None:
    """Wait until the script has run to its end."""
    page.wait_for_selector(".stApp[data-test-script-state=notRunning]")
    page.wait_for_timeout(300)


def summary(times: list[float]) -> dict[str, float]:
    """Median, 95th percentile and number."""
    return {
        "median": round(float(np.median(times)), 1),
        "95 %": round(float(np.percentile(times, 95)), 1),
        "of": len(times),
    }


if __name__ == "__main__":
    main()
