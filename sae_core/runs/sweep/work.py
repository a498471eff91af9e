"""Doing a sweep: activations are gathered once for all runs that need the same, then runs are trained and measured."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch

from sae_core.activations.harvest import harvest_together
from sae_core.activations.sharing import activations_key, has_activations, share_activations
from sae_core.activations.stages import CORPUS
from sae_core.analysis.evaluate import evaluate_run
from sae_core.analysis.truth.stage import TRUTH
from sae_core.foundation.errors import UserError
from sae_core.foundation.machine.device import resolve_device
from sae_core.foundation.methods import EVERY
from sae_core.foundation.progress import Progress, Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings, SAESettings
from sae_core.runs import pipeline
from sae_core.runs.sweep.combinations import Sweep
from sae_core.runs.sweep.jobs import Job, run_jobs
from sae_core.training.memory import USABLE, free_memory, step_bytes

TRAINED = 0.8
"""Share of a run's progress that is its training; the rest is its evaluation."""
LIBRARIES = 10**9
"""Bytes of a GPU's memory that each process takes for its libraries."""
LABEL = "sweep"
"""What the progress of all runs is called."""


def open_runs(sweep: Sweep) -> list[Run]:
    """The runs of a sweep, made where there are none.

    Raises:
        UserError: If a folder holds something else, or a run with other settings.
    """
    sweep.save()
    return [Run.create(sweep.path / each.folder, each.settings) for each in sweep.combinations]


def is_done(run: Run, stages: Collection[str]) -> bool:
    """Whether a run is trained and measured."""
    scored = not run.settings.origin.has_truth or TRUTH.is_finished(run)
    return pipeline.is_trained(run) and pipeline.is_evaluated(run, stages) and scored


def do_runs(runs: Sequence[Run], *, stages: Collection[str], at_once: int, progress: Progress) -> dict[str, str]:
    """Train and measure runs; what is finished is skipped, what was interrupted goes on.

    Args:
        runs: The runs.
        stages: The evaluations to be made.
        at_once: How many processes work at once; 0 means one, or on a GPU as many as its memory holds.
        progress: Told how much of everything is done, in percent.

    Returns:
        Of each run that failed, by its name, why.

    Raises:
        UserError: If a device does not exist, or activations cannot be gathered.
        KeyboardInterrupt: After Ctrl-C; call it again to go on.
    """
    for device in {run.settings.training.device for run in runs}:
        resolve_device(device)
    pending = [run for run in runs if not is_done(run, stages)]
    if not pending:
        return {}
    gather(runs, pending, progress)
    whole = _Whole(runs, {run.name for run in pending}, progress)
    environments = _environments(runs)
    jobs = [Job(run.name, _train_and_measure, (run.path, tuple(stages))) for run in pending]
    fitting = at_once or _fitting(pending) * len(environments)
    fitting = min(fitting, len(jobs))
    threads = max(1, (os.cpu_count() or 1) // fitting)
    limits = {"OMP_NUM_THREADS": str(threads)} if fitting > 1 and "OMP_NUM_THREADS" not in os.environ else {}
    return run_jobs(jobs, at_once=fitting, tell=whole.tell, environments=[{**each, **limits} for each in environments])


def gather(runs: Sequence[Run], pending: Sequence[Run], progress: Progress) -> None:
    """Gather the activations that pending runs lack: each different ones once, in one pass of the model if it can be.

    Args:
        runs: All runs; those that have activations give them to others.
        pending: Those that will need activations.
        progress: Told how far the model has read.

    Raises:
        UserError: If text or model cannot be used.
    """
    lacking: dict[str, list[Run]] = {}
    for run in pending:
        if not has_activations(run):
            lacking.setdefault(activations_key(run.settings), []).append(run)
    sources = {activations_key(run.settings): run for run in reversed(runs) if has_activations(run)}
    passes: dict[str, list[Run]] = {}
    for key, those in lacking.items():
        if key not in sources:
            sources[key] = those[0]
            passes.setdefault(activations_key(those[0].settings, places=False), []).append(those[0])
    jobs = [Job(those[0].name, _gather, ([run.path for run in those],)) for those in passes.values()]
    failures = run_jobs(jobs, at_once=1, tell=lambda name, tick: progress(tick) if tick else None)
    if failures:
        raise UserError(next(iter(failures.values())))
    for key, those in lacking.items():
        share_activations(sources[key], [run for run in those if run is not sources[key]])


def _gather(paths: Sequence[Path], *, progress: Progress) -> None:
    harvest_together([Run.open(path) for path in paths], progress=progress)


def _train_and_measure(path: Path, stages: Collection[str], *, progress: Progress) -> None:
    run = Run.open(path)
    if "OMP_NUM_THREADS" in os.environ:
        # torch was imported by the process that this one was forked from, before the variable was set.
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    pipeline.train(run, progress=progress)
    if run.settings.origin.has_truth:
        evaluate_run(run, stages=(TRUTH.name,), progress=progress)
    pipeline.evaluate(run, stages=stages, progress=progress)


def _environments(runs: Sequence[Run]) -> list[dict[str, str]]:
    """One for each GPU, if the settings leave open which one is used."""
    free_to_choose = all(run.settings.training.device in ("auto", "cuda") for run in runs)
    if not free_to_choose or torch.cuda.device_count() < 2:
        return [{}]
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = seen.split(",") if seen else [str(number) for number in range(torch.cuda.device_count())]
    return [{"CUDA_VISIBLE_DEVICES": device} for device in devices]


def _fitting(runs: Sequence[Run]) -> int:
    """How many of these runs fit on a GPU at once; on a CPU one, whose cores all runs would share."""
    device = torch.device(resolve_device(runs[0].settings.training.device))
    free = free_memory(device) if device.type == "cuda" else None
    if free is None:
        return 1
    largest = max(training_bytes(run.settings, int(CORPUS.facts(run)["d_in"])) for run in runs)
    return max(1, int(USABLE * free) // (largest + LIBRARIES))


def training_bytes(settings: RunSettings, d_in: int) -> int:
    """Bytes of memory that training takes at most, whichever kernels are used.

    Args:
        settings: Those of the run.
        d_in: Dimension of the activations, D.
    """
    training, most = settings.training, 0
    for method in training.methods:
        ones = [*EVERY[method].layout(settings).ones()]
        member, shared = step_bytes(max((one.sae for one in ones), key=_width), training.batch_size, d_in, "cpu")
        most = max(most, len(ones) * member + shared)
    return most


def _width(sae: SAESettings) -> int:
    return sae.width


class _Whole:
    """Progress over all runs of a sweep, each weighed by what there is to train.

    Args:
        runs: All runs.
        pending: Names of those that are not done.
        progress: Told the percentage.
    """

    def __init__(self, runs: Sequence[Run], pending: Collection[str], progress: Progress) -> None:
        self._weights = {run.name: _weight(run.settings) for run in runs}
        self._methods = {run.name: run.settings.training.methods for run in runs}
        self._shares: dict[str, dict[str, float]] = {name: {} for name in pending}
        self._ended = len(runs) - len(pending)
        self._running: set[str] = set()
        self._progress = progress
        self._report()

    def tell(self, name: str, tick: Tick | None) -> None:
        """Take in what a run reports, or that it has ended."""
        note = ""
        if tick is None:
            self._running.discard(name)
            self._ended += 1
            self._shares.pop(name)
        else:
            self._running.add(name)
            note = f"{name}: {tick.note}" if tick.note else ""
            what, _, rest = tick.stage.partition(" ")
            if what == "train" and tick.total:
                self._shares[name][rest.partition(",")[0]] = tick.done / tick.total
        self._report(note)

    def _report(self, note: str = "") -> None:
        whole = sum(self._weights.values())
        left = sum(self._weights[name] * (1 - self._share(name)) for name in self._shares)
        figures = {"done": float(self._ended), "of": float(len(self._weights)), "at once": float(len(self._running))}
        self._progress(Tick(LABEL, 100 * (1 - left / whole), 100, unit="%", figures=figures, note=note))

    def _share(self, name: str) -> float:
        return TRAINED * sum(self._shares[name].values()) / len(self._methods[name])


def _weight(settings: RunSettings) -> float:
    """How much there is to train, in features times tokens."""
    methods = [EVERY[name] for name in settings.training.methods]
    features = sum(
        method.times_the_steps(settings) * one.sae.width for method in methods for one in method.layout(settings).ones()
    )
    return float(features * settings.training.tokens)


def summed_failures(failures: Mapping[str, str], runs: int) -> str:
    """One sentence for the runs that failed."""
    name, why = next(iter(failures.items()))
    return f"{len(failures)} of {runs} runs failed, the first of them {name}: {why}"
