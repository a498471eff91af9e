"""The command demo: run all stages on the embedded text and model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae_core.cli import console
from sae_core.cli.common import Host, Port, command_line, open_or_create, print_summary, stoppable
from sae_core.cli.options import AsJson, Assignments, Chosen, parse_assignments
from sae_core.cli.serve import serve_dashboard
from sae_core.foundation.settings.presets import preset_settings
from sae_core.runs import pipeline


def demo(
    run: Annotated[Path, typer.Option("--run", help="The run folder; a second call continues there.")] = Path(
        "runs/demo"
    ),
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve the dashboard at the end.")] = True,
    port: Port = 8501,
    host: Host = "localhost",
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Train, evaluate and browse ensembles on the embedded text and model; needs no network, takes some minutes."""
    opened = open_or_create(run, Chosen(None, parse_assignments(assignments)), start=preset_settings("demo"))
    with stoppable(command_line("demo", "--run", run)), console.drawn_progress() as progress:
        pipeline.run_everything(opened, progress=progress)
    print_summary(opened, as_json=as_json)
    if serve:
        serve_dashboard(run, port=port, host=host, announce=console.say)
