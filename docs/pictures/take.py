"""Take the screenshots of README and docs of a run: every page in a real browser, light, dark and at a phone's width.

python docs/pictures/take.py runs/demo --out docs/pictures
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

PAGES = {"overview": "", "features": "features", "feature": "feature", "compare": "compare"}
PAGES |= {"map": "map", "concepts": "concepts", "spurious": "spurious", "labels": "labels"}
SIZES = {"wide": (1440, 900), "phone": (390, 844)}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


def main() -> None:
    """Serve the run, open every page and write one PNG each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--ensemble", default="boosted")
    parser.add_argument("--feature", default="0", help="number of the feature whose page is shown")
    parser.add_argument("--themes", default="light", help="light, dark or light,dark")
    parser.add_argument("--sizes", default="wide", help="wide, phone or wide,phone")
    parser.add_argument("--full", action="store_true", help="the whole length of each page, not one window")
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    options.out.mkdir(parents=True, exist_ok=True)
    with served(options.run) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        for theme in options.themes.split(","):
            for size in options.sizes.split(","):
                take(browser, address, theme, size, options)
        browser.close()


@contextmanager
def served(run: Path) -> Iterator[str]:
    """The address of a dashboard that serves the run."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "sae_core", "dashboard", str(run), "--port", str(port)])
    address = f"http://localhost:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/_stcore/health").close()
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


def take(browser: Browser, address: str, theme: str, size: str, options: argparse.Namespace) -> None:
    """All pages in one theme and size."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if theme == "dark" else "light"
    )
    page = context.new_page()
    for name, address_path in PAGES.items():
        feature = f"&feature={options.feature}" if name == "feature" else ""
        page.goto(f"{address}/{address_path}?ensemble={options.ensemble}{feature}")
        settle(page)
        if options.full:
            whole = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
            page.set_viewport_size({"width": width, "height": max(height, whole)})
            settle(page)
        suffix = "" if (theme, size) == ("light", "wide") else f"-{theme}-{size}"
        path = options.out / f"{name}{suffix}.png"
        page.screenshot(path=path)
        # All colours stay: with 256 of them, the small dots that name members and methods turned grey.
        Image.open(path).convert("RGB").save(path, optimize=True)
        page.set_viewport_size({"width": width, "height": height})
    context.close()


def settle(page: Page) -> None:
    """Wait until the page is drawn."""
    page.wait_for_selector(".stApp[data-test-script-state=notRunning]", timeout=60_000)
    page.wait_for_timeout(2500)


if __name__ == "__main__":
    main()
