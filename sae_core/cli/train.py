"""The command train: train one run or the runs of several layers, in one process or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sae_core.cli import console
from sae_core.cli.common import (
    RunPath,
    about_text,
    command_line,
    facts_by_run,
    open_or_create,
    print_by_run,
    settings_for,
    started_together,
    stoppable,
)
from sae_core.cli.importing import boosted_from
from sae_core.cli.options import AsJson, Chosen, Layers, Sites, choose_places, takes_settings
from sae_core.foundation.errors import UserError
from sae_core.foundation.machine import launch
from sae_core.foundation.run import Run, find_runs, holds_runs
from sae_core.runs import pipeline, trackers
from sae_core.training.declared import TRAIN

if TYPE_CHECKING:
    from sae_core.training.processes import Processes

Log = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,…",
        help=f"Send the training curves, as they grow, to trackers: {', '.join(trackers.TRACKERS)}. Each needs its "
        "package. TensorBoard's files are in RUN/tensorboard.",
    ),
]

Base = Annotated[
    str | None,
    typer.Option(
        metavar="SAE",
        help="Train SAEs (training.members of them, by default 1) on what this given SAE leaves, which stays as it is: "
        "a folder, a file or an id on the hub, as for import.",
    ),
]


@takes_settings
def train(
    run: RunPath,
    chosen: Chosen,
    layers: Layers = None,
    sites: Sites = None,
    boost_from: Base = None,
    log: Log = None,
    as_json: AsJson = False,
) -> None:
    """Gather activations and train the ensembles. After an interruption, a second call continues.

    With torchrun (torchrun --nproc-per-node 2 -m sae_core train RUN), several processes train together.
    """
    names = trackers.chosen_trackers(log)
    with started_together() as processes:
        if boost_from and (processes or layers or sites):
            raise UserError("--boost-from trains one run in one process; leave --layers, --sites and torchrun out.")
        opened = [boosted_from(run, boost_from, chosen)] if boost_from else _open(run, chosen, layers, sites, processes)
        dumped = {each.name: each.settings.model_dump(mode="json") for each in opened}
        settings = dumped if len(dumped) > 1 else dumped[opened[0].name]
        with (
            stoppable(command_line("train", run)),
            console.drawn_progress() as drawn,
            trackers.tracked(drawn, names, run, settings) as progress,
        ):
            if processes:
                pipeline.train(opened[0], progress=progress, processes=processes)
            else:
                pipeline.train_together(opened, progress=progress)
    if launch.rank():
        return
    facts = facts_by_run(opened, TRAIN)
    if as_json:
        print_by_run(facts)
        return
    for each in opened:
        timed = {name: fact["seconds"] for name, fact in facts[each.name].items() if "seconds" in fact}
        seconds = ", ".join(f"{name} {second:.0f} s" for name, second in timed.items()) or "nothing to train"
        peak = max((fact.get("peak_memory_bytes", 0) for fact in facts[each.name].values()), default=0)
        memory = f"; peak memory {peak / 1e9:.1f} GB" if peak else ""
        for sentence in about_text(each):
            console.say(sentence)
        console.say(f"Trained in {each.path}: {seconds}{memory}.")
    console.say(f"Next: {command_line('index', run)}")


def _open(path: Path, chosen: Chosen, layers: str | None, sites: str | None, processes: Processes | None) -> list[Run]:
    """Open the run, or the runs of several layers and sites."""
    if processes:
        if layers or sites or holds_runs(path):
            raise UserError("Several processes train one run; train the runs of several layers one after another.")
        return [_open_together(path, chosen, processes)]
    if layers or sites:
        return _open_places(choose_places(path, chosen, layers, sites))
    if not chosen and holds_runs(path):
        return [Run.open(found) for found in find_runs(path)]
    return [open_or_create(path, chosen)]


def _open_places(places: dict[Path, Chosen]) -> list[Run]:
    """Open or make the runs of several places, all or none: check all before making any."""
    wanted = {folder: settings_for(folder, own) for folder, own in places.items()}
    new = [settings.model for folder, settings in wanted.items() if not Run.begun(folder, settings)]
    if new:
        from sae_core.activations.origins.language_model.model.finding_shape import find_shape

        find_shape(max(new, key=lambda model: model.layer))  # refuses a layer that the model does not have
    return [Run.create(folder, settings) for folder, settings in wanted.items()]


def _open_together(path: Path, chosen: Chosen, processes: Processes) -> Run:
    """Let the first process make or open the run, then let all processes open it."""
    processes.first(lambda: open_or_create(path, chosen))
    processes.require_same_folder(path)
    return processes.together(lambda: Run.open(path))
