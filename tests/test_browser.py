"""The dashboard in a real browser, on a run that was really trained.

Every page opens without an error, a label travels from a click to a file, and markup in text stays text.
"""

from __future__ import annotations

import csv
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest
from conftest import MARKUP

import dashboard
from dashboard.queries.comparing import united
from sae_core.browse.labels import LabelStore
from sae_core.files import read_table
from sae_core.run import Run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PAGES = {
    "": "How the ensembles compare",
    "features": "Features",
    "feature": "Examples in context",
    "compare": "How alike the",
    "map": "Atom map",
    "concepts": "Features that detect it",
    "labels": "Labels",
}
LABEL, NOTE, AUTHOR = "=1+1 definite article", "<img src=x onerror=alert(1)>", "Ada"
PATIENCE = 60_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, trained_run: Run) -> Run:
    """A copy of the trained run, in which labels may be written."""
    return Run.open(shutil.copytree(trained_run.path, tmp_path_factory.mktemp("browser") / "run"))


@pytest.fixture(scope="module")
def address(run: Run) -> Iterator[str]:
    """The address of a dashboard that serves the run."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    options = {
        "server.port": port,
        "server.address": "localhost",
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
    }
    script = str(Path(dashboard.__file__).parent / "app.py")
    flags = [f"--{name}={value}" for name, value in options.items()]
    server = subprocess.Popen([sys.executable, "-m", "streamlit", "run", script, *flags, "--", str(run.path)])
    try:
        wait_until_up(f"http://localhost:{port}/_stcore/health", server)
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait()


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


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


class Watched:
    """A page that remembers what went wrong on it."""

    def __init__(self, browser: playwright.Browser, *, width: int = 1440, height: int = 900) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        self.page.on("requestfailed", lambda request: self.problems.append(f"{request.failure}: {request.url}"))
        self.page.on("response", self._response)
        self.page.on("console", self._console)

    def _response(self, response: playwright.Response) -> None:
        # Streamlit looks for its server beside a linked page first, and then at the root.
        if response.status >= 400 and "/_stcore/" not in response.url:
            self.problems.append(f"{response.status}: {response.url}")

    def _console(self, message: playwright.ConsoleMessage) -> None:
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


@pytest.fixture
def watched(browser: playwright.Browser) -> Iterator[Watched]:
    one = Watched(browser)
    yield one
    one.context.close()


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_every_page_opens_without_an_error(browser: playwright.Browser, address: str, width: int, height: int) -> None:
    one = Watched(browser, width=width, height=height)
    for path, text in PAGES.items():
        one.page.goto(f"{address}/{path}?run=run&ensemble=bagged")
        one.page.get_by_text(text).first.wait_for()
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

    page.get_by_test_id("stSidebarNav").get_by_text("Labels").click()
    page.get_by_text("Import and export").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 1
    row = rows[0]
    assert (row["run"], row["ensemble"]) == ("run", "bagged")
    assert run.settings.sae.width * int(row["member"]) + int(row["feature"]) == matched
    assert (row["label"], row["note"], row["author"]) == (f"'{LABEL}", NOTE, AUTHOR)
    assert row["time"]
    watched.fine()


def feature_in(url: str) -> int | None:
    """The feature that an address names."""
    values = parse_qs(urlparse(url).query).get("feature")
    return int(values[0]) if values else None


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


def assert_no_element_of_it(watched: Watched) -> None:
    watched.fine()
    count = watched.page.evaluate("document.querySelectorAll('img[src=x], [onerror], [onclick]').length")
    assert count == 0


def test_an_unknown_run_gets_a_message_and_a_way_out(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/feature?run=..%2F..%2Fetc&feature=1")
    page.get_by_text("There is no run called").wait_for()
    page.get_by_role("button", name="Back to the overview").click()
    page.get_by_text("How the ensembles compare").wait_for()
    watched.fine()
