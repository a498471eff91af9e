"""Shared parts of commands: arguments, opening runs, several processes, Ctrl-C, printing results."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sae_core.activations.massive import about_activations
from sae_core.activations.stages import ACTIVATIONS, CORPUS
from sae_core.cli import console
from sae_core.cli.options import Chosen
from sae_core.cli.serve import LAST_PORT
from sae_core.foundation.errors import ElsewhereError, UserError
from sae_core.foundation.faults import disk_sentence
from sae_core.foundation.machine import environment as variables
from sae_core.foundation.machine import launch
from sae_core.foundation.run import Run, find_runs, holds_runs, is_run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.foundation.stages import Stage

if TYPE_CHECKING:
    from sae_core.training.processes import Processes

MOST_SEEDS = 10_000
"""The largest number of bootstrap samples; no interval needs more."""
STOPPED = 130
"""Exit code after Ctrl-C."""

RunPath = Annotated[Path, typer.Argument(help="The run folder.", show_default=False)]
Port = Annotated[
    int,
    typer.Option(min=1, max=LAST_PORT, help="Port of the dashboard; if it is taken, the next free one is used."),
]
Host = Annotated[
    str, typer.Option(help="Address to listen on. Anyone who can reach it can read the run and write labels.")
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A further name under which people reach the dashboard, besides --host and localhost, such as a proxy's; "
        "repeatable. Requests for any other name are refused.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="SQLAlchemy address of a database for the labels of all runs, shared by a team: "
        "postgresql://NAME@HOST/DATABASE. Without it, labels are kept in the run folder. Give a password in the "
        "environment variable, since a list of processes shows options.",
        envvar=variables.LABELS,
        show_default=False,
    ),
]


def open_or_create(path: Path, chosen: Chosen, *, start: RunSettings | None = None) -> Run:
    """Open the run at ``path``, or make it. Settings not given come from an existing run, else from ``start``."""
    if not chosen and is_run(path):
        return Run.open(path)
    return Run.create(path, settings_for(path, chosen, start))


def settings_for(path: Path, chosen: Chosen, start: RunSettings | None = None) -> RunSettings:
    """The settings of the run at ``path``, existing or not, with the chosen ones applied."""
    there = Run.open(path) if is_run(path) else None
    if there and not chosen:
        return there.settings
    base = there.settings if there and there.read_manifest()["finished"] else start
    return chosen.settings(base)


def trained_runs(path: Path) -> list[Run]:
    """Open the run at ``path``, or the runs in that folder.

    Raises:
        UserError: If a run has no trained ensemble.
    """
    runs = [Run.open(found) for found in (find_runs(path) if holds_runs(path) else [path])]
    for run in runs:
        if not run.ensembles():
            raise UserError(f"{run.path} has no trained ensemble yet; run: {command_line('train', path)}")
    return runs


@contextmanager
def started_together() -> Iterator[Processes | None]:
    """Join the processes that torchrun has started; None without torchrun. `cli.main` prints the first one's errors."""
    if launch.processes() == 1:
        yield None
        return
    from sae_core.training.processes import joined

    try:
        with joined() as processes:
            yield processes
    except (UserError, OSError) as error:
        if launch.rank() and not isinstance(error, ElsewhereError):
            console.complain(disk_sentence(error) if isinstance(error, OSError) else str(error))
        raise


def command_line(*words: object) -> str:
    """Return a command line that people can copy."""
    return shlex.join(["sae-ensemble", *map(str, words)])


@contextmanager
def stoppable(command: str) -> Iterator[None]:
    """End a block on Ctrl-C with a sentence that says how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        console.say(f"Stopped; what is finished is kept. To go on: {command}")
        raise typer.Exit(STOPPED) from None


def about_text(run: Run) -> list[str]:
    """Say which text a run asked for and got, what to do if the text is too short, and what is conspicuous of it."""
    facts = CORPUS.facts(run)
    about = run.settings.origin.about(run.settings, facts)
    said = (*about, *facts.get("remarks", ()), *about_activations(ACTIVATIONS.facts(run)))
    return [text for text in said if text]


def facts_by_run(runs: list[Run], stage: Stage[Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The recorded facts of a stage, for each ensemble of each run."""
    return {run.name: {folder.name: stage.facts(run, folder.name) for folder in run.ensembles()} for run in runs}


def print_by_run(values: dict[str, Any]) -> None:
    """Print the JSON of one run plainly, and the JSON of several runs by name."""
    console.print_json(values if len(values) > 1 else next(iter(values.values())))


def summary(run: Run) -> list[dict[str, Any]]:
    """The main figures of a run, one row per ensemble."""
    if not run.ensembles():
        return []
    from sae_core.analysis.summary import summarize

    return summarize(run)


def print_summary(run: Run, *, as_json: bool) -> None:
    """Print the main figures of a run."""
    rows = summary(run)
    if as_json:
        console.print_json(rows)
    elif rows:
        from sae_core.analysis.summary import as_text

        console.print_rows([as_text(row) for row in rows], title=f"{run.name}: {run.path}")
