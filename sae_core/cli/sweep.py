"""The command sweep: train and measure a run for each combination of settings, and choose one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sae_core.analysis.reconstruction.stage import RECONSTRUCTION
from sae_core.analysis.stages import EVALUATIONS
from sae_core.cli import console
from sae_core.cli.common import command_line, stoppable
from sae_core.cli.options import AsJson, Chosen, takes_settings
from sae_core.foundation.errors import UserError
from sae_core.runs.sweep.combinations import Sweep, is_sweep, open_sweep, parse_varied, plan_sweep


@takes_settings
def sweep(
    path: Annotated[Path, typer.Argument(metavar="SWEEP", help="Folder of the runs.", show_default=False)],
    chosen: Chosen,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=V,V,…", help="Values of a setting, e.g. sae.k=16,32,64; repeatable."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=0, max=1000, help="Runs at a time; 0 means one, or as many as a GPU's memory holds.")
    ] = 0,
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,…",
            help=f"Evaluations to make, of {', '.join(EVALUATIONS)}; all by default.",
        ),
    ] = None,
    target: Annotated[
        float, typer.Option(min=0, max=1, help="Explained variance that one SAE should reach; the paper's is 0.9.")
    ] = 0.9,
    as_json: AsJson = False,
) -> None:
    """Train and measure a run for each combination of settings, in folders below SWEEP.

    After an interruption, a second call without --vary continues; with more values it adds the missing combinations.
    Activations that several runs need are gathered once.
    """
    planned = _plan(path, chosen, vary)
    if measure is not None:
        planned = replace(planned, stages=_stages(measure))
    from sae_core.runs.sweep.results import as_table, collect
    from sae_core.runs.sweep.work import do_runs, is_done, open_runs, summed_failures

    runs = open_runs(planned)
    with stoppable(command_line("sweep", path)), console.drawn_progress() as progress:
        failures = do_runs(runs, stages=planned.stages, at_once=jobs, progress=progress)
    results: dict[str, Any] = collect(planned, runs, target=target)
    results["failures"] = failures
    if as_json:
        console.print_json(results)
    else:
        if results["settings"]:
            done = sum(is_done(run, planned.stages) for run in runs)
            console.print_table(as_table(results), title=f"{path}: {done} of {len(runs)} runs, mean ± 95 % over seeds")
        console.say(results["choice"]["sentence"])
        console.say(f"Next: {command_line('report', path)}, {command_line('index', path)}")
    if failures:
        raise UserError(summed_failures(failures, len(runs)))


def _plan(path: Path, chosen: Chosen, vary: list[str] | None) -> Sweep:
    if not vary:
        if chosen:
            raise UserError("Settings are given but none that varies; add --vary, e.g. --vary sae.k=16,32,64.")
        return open_sweep(path)
    varied = parse_varied(vary)
    both = [name for name in varied if name in chosen.overrides]
    if both:
        raise UserError(f"{both[0]} is both varied and set to one value; leave one of them out.")
    there = open_sweep(path).base if is_sweep(path) else None
    return plan_sweep(path, chosen.settings(there), varied)


def _stages(measure: str) -> tuple[str, ...]:
    stages = [stage.strip() for stage in measure.split(",") if stage.strip()]
    unknown = [stage for stage in stages if stage not in EVALUATIONS]
    if unknown:
        raise UserError(f"--measure {unknown[0]} is not known; use some of {', '.join(EVALUATIONS)}.")
    # Without the reconstruction there is nothing to choose by.
    return tuple(stage for stage in EVALUATIONS if stage in (*stages, RECONSTRUCTION.name))
