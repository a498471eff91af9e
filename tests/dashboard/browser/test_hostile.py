"""Hostile text in tokens, labels, concepts and the run's name, on every page of a real browser: text stays text.

No dialog opens, no element of it is made, nothing becomes wider than the window, and the browser reports no error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pytest
from browsing import MARKS, PATIENCE, serving
from synthetic_run import write_synthetic_run

from sae_core.foundation.files.whole_files import read_table, write_table
from sae_core.foundation.run import Run
from sae_core.labels import LabelStore

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog

pytestmark = MARKS

IMAGE = "<img src=x onerror=alert(1)>"
SCRIPT = "<script>alert(2)</script>"
FORMULA = '=cmd()|"/c calc"!A1'
BACKWARDS = "\N{RIGHT-TO-LEFT OVERRIDE}\N{RIGHT-TO-LEFT ISOLATE}sdrawkcab\N{RIGHT-TO-LEFT MARK}"
MARKDOWN = "[x](javascript:alert(3)) **b** $\\frac{a}{b}$ :material/home: :red[r] `c` ~~d~~ %{text} {{7*7}}"
LONG = "w" * 10_000
HOSTILE = (IMAGE, SCRIPT, FORMULA, BACKWARDS, MARKDOWN, LONG)
RUN_NAME = f"=cmd() {IMAGE} {BACKWARDS} **b**"
ELEMENTS_OF_IT = (
    "img[src=x], [onerror], [onclick], [href^='javascript:'], script:not([src]):not([type=module]):not([nonce])"
)
"""What the hostile text would make if any of it were taken for markup."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with hostile text wherever text comes from."""
    chance = np.random.default_rng(0)
    words = [*HOSTILE, "the", "array", "returns", "shape"]
    texts = [" ".join(str(chance.choice(words)) for _ in range(24)) for _ in range(40)]
    names = [HOSTILE[number % len(HOSTILE)] for number in range(len(texts))]
    metadata = pd.DataFrame({"package": names, "module": names[::-1], "name": names, "kind": "prose"})
    path = tmp_path_factory.mktemp("hostile") / RUN_NAME
    # Two members, so that there are families; few features, so that every page shows those with hostile tokens.
    run = write_synthetic_run(path, members=2, texts=texts, metadata=metadata, added_tokens=HOSTILE)
    for name in ("single", "bagged", "boosted", "expanded"):
        _make_hostile(run, name)
    concepts = read_table(run.evaluation_table("concepts"))
    renamed = dict(zip(concepts["concept"].unique(), HOSTILE, strict=False))
    write_table(run.evaluation_table("concepts"), concepts.assign(concept=concepts["concept"].replace(renamed)))
    return run


def _make_hostile(run: Run, name: str) -> None:
    """Labels and promoted tokens of an ensemble."""
    folder, store = run.ensemble(name), LabelStore(run.labels, run.name)
    promoted = read_table(folder.promoted)
    promoted["promoted"] = [[*HOSTILE, "a", "b"]] * len(promoted)
    write_table(folder.promoted, promoted)
    width = len(promoted) // (2 if name in ("bagged", "boosted") else 1)
    for feature in range(0, len(promoted), 2):
        text = HOSTILE[feature // 2 % len(HOSTILE)]
        store.set(name, feature // width, feature % width, feature, text[:200], text[:2000], text[:80])


@pytest.fixture(scope="module")
def address(run: Run) -> Iterator[str]:
    """The address of a dashboard that serves the run beside another one, so that runs are named in a menu."""
    with serving(run.path.parent) as found:
        yield found


OWN_SCRIPT = re.compile(r"<script>document\.cookie='sae_ensemble_browser=[0-9a-f]{32};[a-z=;/0-9-]*'</script>")


class Window:
    """A browser window that remembers dialogs and errors."""

    def __init__(self, browser: Browser, address: str, width: int, height: int) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.problems: list[str] = []
        self.page.on("dialog", self._dialog)
        self.page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        self._address = address

    def _dialog(self, dialog: Dialog) -> None:
        self.problems.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, path: str, **query: object) -> None:
        """Open a page and check all that may be wrong with it."""
        self.page.goto(f"{self._address}/{path}?{urlencode({'run': RUN_NAME, 'ensemble': 'bagged', **query})}")
        self.page.locator("[data-testid=stMain] h1").first.wait_for()
        self.page.wait_for_selector(".stApp[data-test-script-state=notRunning]")
        self.page.wait_for_timeout(500)
        self.check(path)

    def check(self, path: str) -> None:
        """Nothing of the text has become more than text, and everything fits."""
        assert not self.page.locator("[data-testid=stException]").all_inner_texts(), path
        assert self.page.get_by_text("This cannot be shown").count() == 0, path
        made = self.page.evaluate(
            "what => [...document.body.querySelectorAll(what)].map(e => e.outerHTML.slice(0, 200))", ELEMENTS_OF_IT
        )
        # The one script of our own keeps a number in a cookie.
        assert not [element for element in made if not OWN_SCRIPT.fullmatch(element)], f"{path}: {made}"
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is too wide"
        wide = self.page.evaluate(
            "() => { const main = document.querySelector('[data-testid=stMain]');"
            " return main.scrollWidth - main.clientWidth; }"
        )
        assert wide <= 0, f"{path} scrolls sideways by {wide} pixels"
        assert not self.problems, path

    def text(self) -> str:
        """All that the page says."""
        return str(self.page.locator("[data-testid=stMain]").inner_text())


@pytest.fixture(scope="module")
def paths(browser: Browser, address: str) -> list[str]:
    """The paths of all pages; a narrow window hides their links."""
    window = Window(browser, address, 1440, 900)
    window.open("")
    found = window.page.locator(".st-key-pages a").evaluate_all("all => all.map(one => one.pathname)")
    assert IMAGE in window.text()  # the run's name
    window.context.close()
    assert len(found) >= 6
    return [*(path.strip("/") for path in found), "feature"]


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_hostile_text_changes_nothing_but_what_it_looks_like(
    browser: Browser, address: str, paths: list[str], width: int, height: int
) -> None:
    window = Window(browser, address, width, height)
    for path in paths:
        window.open(path)
    window.context.close()


def test_hostile_tokens_are_shown_as_they_are(browser: Browser, address: str, run: Run) -> None:
    atoms = read_table(run.ensemble("bagged").atoms)
    window = Window(browser, address, 1440, 900)
    seen = set()
    for token in HOSTILE:
        found = atoms["feature"][atoms["top_token"].str.contains(token, regex=False)]
        if len(found):
            seen.add(token)
            window.open("feature", feature=int(found.iloc[0]))
            assert token[:9].replace(" ", "·") in window.text().replace(" ", "·")
    assert IMAGE in seen
    assert LONG in seen, "no feature of the longest token; the synthetic run has changed"
    window.context.close()
