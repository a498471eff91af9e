"""Run the dashboard's pages by AppTest: open an address, and read the page's HTML."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import dashboard
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.views import file_of
from sae_core.ensembles.manifest import Manifest

APP = Path(dashboard.__file__).parent / "app.py"


def open_page(monkeypatch: pytest.MonkeyPatch, root: Path, page: str = "overview", /, **query: str) -> AppTest:
    """The dashboard of a run or a folder of runs, at a page and a query (which may be named `page` too)."""
    monkeypatch.setattr(sys, "argv", ["app.py", str(root)])
    app = AppTest.from_file(str(APP), default_timeout=60)
    if page != "overview":
        app.run()  # registers the pages
        app.switch_page(file_of(page))
    for key, value in query.items():
        app.query_params[key] = value
    return app.run()


def html(app: AppTest) -> str:
    """All HTML on the page."""
    return " ".join(element.proto.body for element in app.get("html"))


def links(app: AppTest) -> list[str]:
    """The queries of all links to pages."""
    return [link.proto.query_string for link in app.get("page_link")]


def save(app: AppTest) -> None:
    """Press the button that saves a label."""
    next(button for button in app.button if button.label == "Save").click().run()
    assert not app.exception


def info(name: str, *widths: int) -> EnsembleInfo:
    """What the dashboard knows of a bag with members of these widths."""
    weights = (1 / len(widths),) * len(widths)
    members = tuple(f"member_{number:02d}" for number in range(len(widths)))
    return EnsembleInfo(name, Manifest(Path(), name, "parallel", weights, members, widths))
