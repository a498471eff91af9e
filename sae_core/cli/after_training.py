"""The commands index and evaluate, for runs that are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae_core.analysis.index.stage import INDEX
from sae_core.cli import console
from sae_core.cli.common import (
    RunPath,
    command_line,
    facts_by_run,
    print_by_run,
    print_summary,
    started_together,
    stoppable,
    summary,
    trained_runs,
)
from sae_core.cli.options import AsJson
from sae_core.foundation.errors import UserError
from sae_core.foundation.machine import launch
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import PUBLIC_SETS, PUBLIC_TEXTS
from sae_core.runs import pipeline


def index(run: RunPath, as_json: AsJson = False) -> None:
    """Prepare a run for the dashboard: index every activation by feature, match features across members, map the atoms.

    With torchrun (torchrun --nproc-per-node 2 -m sae_core index RUN), several processes share the indexing.
    """
    with started_together() as processes:
        opened = processes.together(lambda: trained_runs(run)) if processes else trained_runs(run)
        if processes:
            processes.require_same_folder(run)
        with stoppable(command_line("index", run)), console.drawn_progress() as progress:
            for each in opened:
                pipeline.prepare(each, progress=progress, processes=processes)
    if launch.rank():
        return
    facts = facts_by_run(opened, INDEX)
    if as_json:
        print_by_run(facts)
        return
    for name, ensembles in facts.items():
        console.say(f"Indexed {', '.join(ensembles)}{f' of {name}' if len(facts) > 1 else ''}.")
    console.say(f"Next: {command_line('evaluate', run)}, {command_line('dashboard', run)}")


def _identity(task: str) -> str:
    """The identity of a task: the name of a public data set, or the full path of a file."""
    return task if task in PUBLIC_SETS else str(Path(task).resolve())


def _require(run: Run, tasks: list[str], folder: Path | None, columns: dict[str, str]) -> None:
    """Refuse tasks that cannot be measured, as far as that is known without the hub."""
    from sae_core.analysis.concepts.public_tasks import require_copies
    from sae_core.analysis.concepts.runs import task_of_file

    for name in tasks:
        if name not in PUBLIC_SETS:
            task_of_file(run, Path(name), **columns)
            continue
        run.settings.origin.require_text(run)
        if folder is not None:
            require_copies(name, folder)


def evaluate(
    run: RunPath,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Also detect the labels of this CSV, JSONL or Parquet file, or of a public data set "
            f"({', '.join(PUBLIC_SETS)}); repeatable."
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of --task that holds the text.")] = "text",
    label_column: Annotated[str, typer.Option(help="Column of --task that holds the label.")] = "label",
    task_texts: Annotated[
        int,
        typer.Option(
            min=40, max=10**8, help="Training texts per concept of a public data set; a quarter as many test."
        ),
    ] = PUBLIC_TEXTS,
    task_folder: Annotated[
        Path | None,
        typer.Option(help="Folder of copies of public data sets, in folders of their ids (LabHC/bias_in_bios)."),
    ] = None,
    retrain: Annotated[
        list[Path] | None,
        typer.Option(
            help="Also measure how stable the features are over trainings: compare RUN with this run, which differs "
            "in its seed alone (or with a folder of such runs); repeatable."
        ),
    ] = None,
    noise_null: Annotated[
        bool,
        typer.Option(
            help="With --retrain and a boosted ensemble: also train two SAEs per later stage on Gaussian noise with "
            "the mean and covariance of its residual, as the null of its stability. Takes up to twice as long as "
            "training."
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Measure reconstruction, dictionaries, concept detection and cost."""
    for name in task or []:
        if name not in PUBLIC_SETS and not Path(name).suffix and not Path(name).exists():
            raise UserError(f"--task {name} is neither a file nor one of {', '.join(PUBLIC_SETS)}.")
        if [_identity(other) for other in task or []].count(_identity(name)) > 1:
            raise UserError(f"--task {name} is given twice; leave one of them out.")
    opened = trained_runs(run)
    if retrain and len(opened) > 1:
        raise UserError(f"{run} holds {len(opened)} runs, and --retrain goes with one; give the folder of one of them.")
    columns = {"text_column": text_column, "label_column": label_column}
    from sae_core.analysis.concepts.runs import evaluate_public, evaluate_task
    from sae_core.analysis.stability.retrains import evaluate_retrains

    with stoppable(command_line("evaluate", run)), console.drawn_progress() as progress:
        # Report a bad file before hours of measuring, not after them.
        for each in opened:
            _require(each, task or [], task_folder, columns)
        retrains = pipeline.retrains_of(opened[0], retrain) if retrain else []
        for each in opened:
            pipeline.evaluate(each, progress=progress)
            for name in task or []:
                if name in PUBLIC_SETS:
                    evaluate_public(each, name, train_texts=task_texts, folder=task_folder, progress=progress)
                else:
                    evaluate_task(each, Path(name), **columns, progress=progress)
            if retrains:
                evaluate_retrains(each, retrains, noise=noise_null, progress=progress)
    if as_json:
        print_by_run({each.name: summary(each) for each in opened})
        return
    for each in opened:
        print_summary(each, as_json=False)
