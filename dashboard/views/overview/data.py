"""What a run's report says, gathered once for all sessions, and the report itself as a file to take away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard.shared.reads.cached import ENTRIES, modified
from sae_core.foundation.run import Run


def report(run: Run) -> dict[str, Any] | None:
    """The content of the run's report; None where nothing is measured yet. Shared, and never to be changed."""
    from sae_core.report.runs import NEEDED

    if not run.ensembles() or not any(run.evaluation(name).exists() for name in NEEDED):
        return None
    return _report(str(run.path), _stamps(run))


def _stamps(run: Run) -> tuple[tuple[str, int], ...]:
    """When everything was written that a report is made from."""
    return tuple((file.name, modified(file)) for file in (run.manifest_path, *run.evaluations()))


@st.cache_resource(max_entries=ENTRIES, show_spinner=False)
def _report(path: str, stamps: tuple[tuple[str, int], ...]) -> dict[str, Any]:
    from sae_core.report.gather import gather
    from sae_core.report.runs import Subject

    run = Run.open(Path(path))
    return gather(Subject(run.path, [run]))


def report_html(run: Run) -> str:
    """The report as one page that needs nothing else; empty where nothing is measured."""
    from sae_core.report.build import render

    content = report(run)
    return render(content) if content else ""


def report_json(run: Run) -> str:
    """The report's figures; empty where nothing is measured."""
    content = report(run)
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n" if content else ""
