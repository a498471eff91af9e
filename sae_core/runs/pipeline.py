"""The whole way from text to a run that can be browsed, stage by stage; every stage that is finished is skipped."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_core.activations.stages import CORPUS
from sae_core.analysis.stages import EVALUATIONS, PREPARING, evaluations, is_done
from sae_core.analysis.truth.stage import TRUTH
from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.run import Run, find_runs

if TYPE_CHECKING:
    from sae_core.training.processes import Processes

# The stages import torch, transformers and umap; they are imported when a stage has work to do, so that a finished run
# is served at once.


def train(run: Run, *, progress: Progress = silent, processes: Processes | None = None) -> None:
    """Gather activations and train every ensemble that the settings name.

    Args:
        run: The run folder.
        progress: Told how far it is.
        processes: Those that train together; the first one gathers the activations for all.
    """
    if is_trained(run):
        shutil.rmtree(run.dealt, ignore_errors=True)  # in case that training was killed before it did so
        return
    from sae_core.activations.harvest import harvest
    from sae_core.training.processes import ALONE
    from sae_core.training.train import train_run

    processes = processes or ALONE
    processes.first(lambda: harvest(run, progress=progress))
    train_run(run, progress=progress, processes=processes)


def train_together(runs: Sequence[Run], *, progress: Progress = silent) -> None:
    """`train` for several runs. Those that work on the same text and model share one pass through the model."""
    pending = [run for run in runs if not is_trained(run)]
    if not pending:
        return
    from sae_core.activations.harvest import harvest_together
    from sae_core.activations.sharing import activations_key

    alike: dict[str, list[Run]] = {}
    for run in pending:
        alike.setdefault(activations_key(run.settings, places=False), []).append(run)
    for group in alike.values():
        harvest_together(group, progress=progress)
        for run in group:
            train(run, progress=partial(_tell_of, run.name, progress) if len(runs) > 1 else progress)


def _tell_of(name: str, progress: Progress, tick: Tick) -> None:
    progress(replace(tick, stage=f"{name}: {tick.stage}"))


def prepare(run: Run, *, progress: Progress = silent, processes: Processes | None = None) -> None:
    """Index, match, map: everything that people look at.

    Args:
        run: The run folder.
        progress: Told how far it is.
        processes: Those that index together; the first one gathers activations that are no longer there for all.
    """
    if processes.of_first(is_prepared(run))[0] if processes else is_prepared(run):
        return
    from sae_core.activations.harvest import harvest
    from sae_core.analysis.prepare import prepare_run
    from sae_core.training.processes import ALONE

    processes = processes or ALONE
    processes.first(lambda: harvest(run, progress=progress) if _activations_wanted(run) else None)
    prepare_run(run, progress=progress, processes=processes)


def _activations_wanted(run: Run) -> bool:
    """Whether the corpus or a stage that reads activations is missing; else, in an older run, they may be deleted."""
    return not CORPUS.is_finished(run) or any(
        stage.reads_activations and not run.is_finished(stage.key_of(name)) and not stage.skipped(run, name)
        for stage in PREPARING
        for name in stage.of(run)
    )


def evaluate(run: Run, *, stages: Collection[str] = EVALUATIONS, progress: Progress = silent) -> None:
    """Measure reconstruction, dictionaries, concept detection and cost, or those ``stages`` of it that are given."""
    if is_evaluated(run, stages):
        return
    from sae_core.activations.harvest import harvest
    from sae_core.analysis.evaluate import evaluate_run

    harvest(run, progress=progress)
    evaluate_run(run, stages=stages, progress=progress)


def score_truth(path: Path, runs: Sequence[Run], *, progress: Progress = silent) -> dict[str, Any]:
    """Train runs on activations of known dictionaries and score them, each by itself and all together.

    Args:
        path: The folder in which they lie.
        runs: Runs that differ in their seeds.
        progress: Told how far it is.

    Returns:
        What `score_together` gives.
    """
    from sae_core.analysis.evaluate import evaluate_run
    from sae_core.analysis.truth.over_seeds import score_together

    for run in runs:
        tell = partial(_tell_of, run.name, progress)
        train(run, progress=tell)
        evaluate_run(run, stages=(TRUTH.name,), progress=tell)
    return score_together(path, runs)


def retrains_of(run: Run, paths: Sequence[Path]) -> list[Run]:
    """The runs that `stability.retrains.evaluate_retrains` compares a run with.

    Args:
        run: The run.
        paths: Runs with other seeds, or folders of such runs, in which ``run`` itself is passed over.

    Raises:
        UserError: If a path is given twice, is the run itself, or holds no retrain of it.
    """
    from sae_core.analysis.stability.retrains import require_retrains

    given = [path.resolve() for path in paths]
    for number, path in enumerate(paths):
        if given[number] in given[:number]:
            raise UserError(f"{path} is given twice; leave one of them out.")
        if given[number] == run.path.resolve():
            raise UserError(f"{path} is the run itself, which is no retrain of it; give runs with other seeds.")
    found = {each.resolve(): each for path in paths for each in find_runs(path)}
    found.pop(run.path.resolve(), None)
    if not found:
        raise UserError(f"{paths[0]} holds no run but {run.path} itself; give runs that were trained with other seeds.")
    retrains = [Run.open(each) for each in found.values()]
    require_retrains(run, retrains)
    return retrains


def run_everything(run: Run, *, progress: Progress = silent) -> None:
    """All of it, in order."""
    train(run, progress=progress)
    prepare(run, progress=progress)
    evaluate(run, progress=progress)


def is_trained(run: Run) -> bool:
    """Whether the corpus is there and every ensemble of the settings is trained."""
    return is_done(run, "train")


def is_prepared(run: Run) -> bool:
    """Whether every trained ensemble is indexed, matched and mapped."""
    return is_trained(run) and is_done(run, "index")


def is_evaluated(run: Run, stages: Collection[str] = EVALUATIONS) -> bool:
    """Whether every evaluation is there, or those ``stages`` of them."""
    return all(stage.is_finished(run) for stage in evaluations(stages))
