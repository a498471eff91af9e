"""The commands that only read runs: dashboard and info."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae_core.analysis.stages import is_done
from sae_core.cli import console
from sae_core.cli.common import (
    AllowHost,
    Host,
    Labels,
    Port,
    RunPath,
    about_text,
    command_line,
    print_summary,
    summary,
)
from sae_core.cli.options import AsJson
from sae_core.cli.serve import serve_dashboard
from sae_core.foundation.methods import GIVEN, trained_by
from sae_core.foundation.run import Run, find_runs
from sae_core.training.declared import TRAIN


def dashboard(
    path: Annotated[Path, typer.Argument(help="A run folder, or a folder of runs.", show_default=False)],
    port: Port = 8501,
    host: Host = "localhost",
    labels: Labels = None,
    allow_host: AllowHost = None,
) -> None:
    """Serve the dashboard."""
    find_runs(path)
    if labels:
        from sae_core.labels import check_address

        console.say(f"Labels: {check_address(labels)}")
    serve_dashboard(path, port=port, host=host, labels=labels, names=allow_host or (), announce=console.say)


def info(run: RunPath, as_json: AsJson = False) -> None:
    """Describe a run: its settings, its finished stages and its main figures."""
    opened = Run.open(run)
    if as_json:
        console.print_json({**opened.read_manifest(), "summary": summary(opened)})
        return
    settings = opened.settings
    console.say(f"Run {opened.name}: {settings.origin.described(settings)}")
    trains = bool(trained_by(settings))
    if trains:
        console.say(f"SAE: {settings.sae.architecture}, width {settings.sae.width}")
    for folder in opened.ensembles():
        given = TRAIN.facts(opened, folder.name).get(GIVEN, ())
        if given:
            named = "; ".join(f"{each['format']} from {each['from']}" for each in given)
            console.say(f"Imported as {folder.name}: {named}")
    for sentence in about_text(opened):
        console.say(sentence)
    console.say(f"Finished: {', '.join(opened.read_manifest()['finished']) or 'nothing yet'}")
    commands = ("train", "index", "evaluate") if trains else ("index", "evaluate")
    missing = next((command for command in commands if not is_done(opened, command)), None)
    if missing:
        console.say(f"Not finished; to go on: {command_line(missing, run)}")
    print_summary(opened, as_json=False)
