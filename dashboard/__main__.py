"""Starts Streamlit, and imports what pages need while nobody waits for a page yet: ``python -m dashboard run app.py``.

Otherwise the first visitor would wait for torch, scikit-learn and Plotly, some seconds.
"""

from __future__ import annotations

import time
from importlib import import_module
from threading import Thread

from streamlit import runtime
from streamlit.web.cli import main

NEEDED = (
    "plotly.graph_objects",
    "sae_core.browse.corpus",
    "sae_core.browse.labels",
    "sae_core.browse.family_table",
    "sae_core.report.build",
    "sae_core.evaluation.spurious_runs",
)
"""What the modules of the pages import, from the quickest to the slowest."""


def _import_ahead() -> None:
    while not runtime.exists():  # the server comes first
        time.sleep(0.05)
    for name in NEEDED:
        import_module(name)


if __name__ == "__main__":
    # A daemon, so that a server that is stopped at once need not wait for it.
    Thread(target=_import_ahead, name="import-ahead", daemon=True).start()
    main(prog_name="streamlit")
