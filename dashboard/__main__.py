"""Starts Streamlit, with what pages import already imported: ``python -m dashboard run server.py``.

Otherwise the first visitor would wait for pandas and Plotly, and whoever first types a text for torch.
"""

from __future__ import annotations

import gc
import pkgutil
import time
from collections.abc import Sequence
from importlib import import_module
from threading import Thread

from streamlit import runtime
from streamlit.web.cli import main

import dashboard

FOR_ALL_PAGES = (
    "plotly.graph_objects",
    "pyarrow.parquet",
    "sqlalchemy.dialects.sqlite",
    "sae_core.report.wording",
)
"""What the first page needs, whichever it is, besides what pages share and their data. It comes before the server:
beside it, both would take longer."""
FOR_SOME = ("sae_core.report.build", "sae_core.analysis.live_text", "sae_core.analysis.spurious.files")
"""What few pages need and takes seconds to import: torch, which the first two bring, and scikit-learn."""
QUIET = 5.0
"""Seconds after the start in which the first page can be drawn alone."""


def of_pages() -> list[str]:
    """The modules that pages share, and those that read their data."""
    found = [one.name for one in pkgutil.walk_packages(dashboard.__path__, "dashboard.")]
    return [name for name in found if name.startswith("dashboard.shared.") or name.endswith(".data")]


def _import_ahead() -> None:
    while not runtime.exists():
        time.sleep(0.05)
    time.sleep(QUIET)
    _import(FOR_SOME)


def _import(names: Sequence[str]) -> None:
    """Import modules, and spare the collector of garbage from looking at what they made ever again.

    It would look at some hundred thousand objects whenever it looks at all, which holds up everybody for 0.2 s.
    """
    for name in names:
        import_module(name)
    gc.freeze()


if __name__ == "__main__":
    _import([*FOR_ALL_PAGES, *of_pages()])
    # A daemon, so that a server that is stopped at once need not wait for it.
    Thread(target=_import_ahead, name="import-ahead", daemon=True).start()
    main(prog_name="streamlit")
