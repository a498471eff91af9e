"""The command plan: estimate what a run takes before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae_core.cli import console
from sae_core.cli.common import settings_for
from sae_core.cli.options import AsJson, Chosen, Layers, Sites, choose_places, takes_settings
from sae_core.foundation.errors import UserError
from sae_core.foundation.methods import EVERY
from sae_core.runs.planning.machines import FOUND, MACHINES


@takes_settings
def plan(
    chosen: Chosen,
    run: Annotated[Path, typer.Argument(help="The future run folder; nothing is written there.")] = Path("runs"),
    machine: Annotated[
        str, typer.Option(help=f"found (measure this machine for some seconds) or a name: {', '.join(MACHINES)}.")
    ] = FOUND,
    layers: Layers = None,
    sites: Sites = None,
    processes: Annotated[
        int,
        typer.Option(
            min=1, max=100_000, help="Number of processes that torchrun will start, each with its own machine or GPU."
        ),
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Estimate the time, memory, disk and arithmetic of train, index and evaluate. Takes the options of train."""
    from sae_core.runs.planning import report
    from sae_core.runs.planning.plan import make_plan

    settings = [settings_for(run, chosen)]
    if layers or sites:
        if processes > 1:
            raise UserError("Several processes train one run; plan for one layer and site, or leave --processes out.")
        settings = [settings_for(folder, own) for folder, own in choose_places(run, chosen, layers, sites).items()]
    if extended := [name for name in settings[0].training.methods if EVERY[name].extends_given]:
        raise UserError(f"What {extended[0]} takes depends on the given SAE, which a plan does not read; leave it out.")
    last = max(settings, key=lambda each: each.model.layer)
    with console.drawn_progress() as progress:
        made = make_plan(
            last, machine=machine, folder=run, processes=processes, places=len(settings), progress=progress
        )
    if as_json:
        console.print_json(made.as_json())
        return
    console.print_rows(report.table(made), title=f"Plan for {made.origin} on {made.work.machine.name}")
    for sentence in report.sentences(made):
        console.say(sentence)
