"""Starts Streamlit, with what pages import already imported: ``python -m dashboard run app.py``.

Otherwise the first visitor would wait for pandas and Plotly, and whoever first compares members for torch.
"""

from __future__ import annotations

import time
from importlib import import_module
from threading import Thread

from streamlit import runtime
from streamlit.web.cli import main

FOR_ALL_PAGES = (
    "plotly.graph_objects",
    "sae_core.browse.corpus",
    "sae_core.browse.labels",
    "sae_core.evaluation.summary",
    "sae_core.report.texts",
)
"""What the first page needs, whichever it is. It comes before the server: beside it, both would take longer."""
FOR_SOME = ("sae_core.browse.family_table", "sae_core.report.build", "sae_core.evaluation.spurious_runs")
"""What takes seconds to import and few pages need, from the quickest to the slowest."""
QUIET = 5.0
"""Seconds after the start in which the first page can be drawn alone."""


def _import_ahead() -> None:
    while not runtime.exists():
        time.sleep(0.05)
    time.sleep(QUIET)
    for name in FOR_SOME:
        import_module(name)


if __name__ == "__main__":
    for needed in FOR_ALL_PAGES:
        import_module(needed)
    # A daemon, so that a server that is stopped at once need not wait for it.
    Thread(target=_import_ahead, name="import-ahead", daemon=True).start()
    main(prog_name="streamlit")
