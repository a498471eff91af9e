"""Shared parts of the browser tests: a server on a run, a watched page, and the search for Chromium."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlparse

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Response

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
MARKS = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE = 60_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; the test is skipped where playwright is not installed."""
    reason = "playwright is not installed: pip install -e '.[test]'"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def serving(path: Path) -> Iterator[str]:
    """The address of a dashboard that serves a run or a folder of runs."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "sae_core", "dashboard", str(path), "--port", str(port)])
    try:
        wait_until_up(f"http://localhost:{port}/_stcore/health", server)
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait()


def has_value(field: Locator, text: str) -> None:
    """A field shows a text, at once or as soon as the page, which is drawn piece by piece, has filled it."""
    from playwright.sync_api import expect

    expect(field).to_have_value(text, timeout=10_000)


def wait_until_up(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail("the server does not answer")


class Watched:
    """A page that remembers what went wrong on it: light on a desk, dark on a phone, so that both are looked at."""

    def __init__(self, browser: Browser, *, width: int = 1440, height: int = 900) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if width < 600 else "light",
            accept_downloads=True,
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        self.page.on("requestfailed", lambda request: self.problems.append(f"{request.failure}: {request.url}"))
        self.page.on("response", self._response)
        self.page.on("console", self._console)

    def _response(self, response: Response) -> None:
        # Streamlit looks for its server beside a linked page first, and then at the root.
        if response.status >= 400 and "/_stcore/" not in response.url:
            self.problems.append(f"{response.status}: {response.url}")

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and "_stcore" not in str(message.location):
            self.problems.append(f"console: {message.text}")

    def settled(self) -> None:
        """Wait until the script has run to its end, and look for exceptions."""
        self.page.wait_for_selector(".stApp[data-test-script-state=notRunning]")
        assert not self.page.locator("[data-testid=stException]").all_inner_texts()
        assert self.page.get_by_text("This cannot be shown").count() == 0

    def fine(self) -> None:
        """Nothing has gone wrong so far."""
        self.settled()
        # An abandoned request of a page that was left is no fault.
        assert not [problem for problem in self.problems if "ERR_ABORTED" not in problem]


def feature_in(url: str) -> int | None:
    """The feature that an address names."""
    values = parse_qs(urlparse(url).query).get("feature")
    return int(values[0]) if values else None


def assert_no_element_of_it(watched: Watched) -> None:
    """Nothing has gone wrong, and nothing was made of markup in text."""
    watched.fine()
    count = watched.page.evaluate("document.querySelectorAll('img[src=x], [onerror], [onclick]').length")
    assert count == 0
