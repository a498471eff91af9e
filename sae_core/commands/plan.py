"""The command plan: what a run would take, before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae_core import console
from sae_core.commands.common import settings_for
from sae_core.options import AsJson, Chosen, takes_settings
from sae_core.planning.machines import FOUND, MACHINES


@takes_settings
def plan(
    chosen: Chosen,
    run: Annotated[Path, typer.Argument(help="Where the run is to be kept; nothing is written there.")] = Path("runs"),
    machine: Annotated[
        str, typer.Option(help=f"found (this machine, measured for some seconds) or a name: {', '.join(MACHINES)}.")
    ] = FOUND,
    as_json: AsJson = False,
) -> None:
    """Say what train, index and evaluate would take: time, memory, disk and arithmetic. Takes the options of train."""
    from sae_core.planning import report
    from sae_core.planning.plan import make_plan

    with console.drawn_progress() as progress:
        made = make_plan(settings_for(run, chosen), machine=machine, folder=run, progress=progress)
    if as_json:
        console.print_json(made.as_json())
        return
    console.print_rows(
        report.table(made), title=f"Plan for {made.work.settings.model.name} on {made.work.machine.name}"
    )
    for sentence in report.sentences(made):
        console.say(sentence)
