"""Run the real stages on small shares of the data in a throwaway folder, and fit how long each takes here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls

from sae_core.activations.harvest import train_source
from sae_core.activations.stages import CORPUS
from sae_core.analysis.stages import STAGES
from sae_core.foundation.machine.device import resolve_device
from sae_core.foundation.machine.host_memory import free_host_memory
from sae_core.foundation.progress import Progress, Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.architectures import fixes_l0
from sae_core.foundation.settings.run_settings import RunSettings, SAESettings
from sae_core.foundation.stages import Stage
from sae_core.runs import pipeline
from sae_core.runs.planning.machines import MACHINES, existing_parent
from sae_core.runs.planning.reading import with_stand_ins
from sae_core.runs.planning.work import Work
from sae_core.training.declared import TRAIN
from sae_core.training.train import train_run
from sae_core.training.training_facts import peak_memory

COMMANDS: dict[str, Callable[[Run], None]] = {
    "train": pipeline.train,
    "index": pipeline.prepare,
    "evaluate": pipeline.evaluate,
}
ROWS, FEATURES, BATCHES = 20_000, 8_000, 8
"""Of the largest trial: activations to train on, features of all SAEs together, and batches at least."""
TRIALS = ((1 / 6, 1 / 2), (1 / 3, 1 / 2), (1.0, 1.0))
"""Shares of these activations and features. The first trial imports and compiles; what it takes longer than the line
through the others counts as what a stage takes once."""
LONGEST = 20.0
"""Seconds for which training is tried at its full width; narrower SAEs are, where it would take longer."""
NOISE, PRIOR = 0.1, 1.0
"""Relative standard errors of one measured time, and of a stage's pace, as it differs between stages."""


class Line(NamedTuple):
    """Seconds of a stage: what it takes once, and how many times longer than declared the rest takes."""

    once: float
    pace: float


class Measured(NamedTuple):
    """What trials told.

    Attributes:
        work: What is planned, with the length of texts as it is.
        lines: The seconds of every stage, by its entry in run.json.
        files: Bytes of its files over the declared ones, by the same.
        first: The work of the first trial.
        peaks: Peak memory of the process after each command of the first trial.
        remarks: What could only be estimated.
    """

    work: Work
    lines: Mapping[str, Line]
    files: Mapping[str, float]
    first: Work
    peaks: Mapping[str, int]
    remarks: list[str]


class _Trial(NamedTuple):
    work: Work
    run: Run

    def seconds(self, key: str) -> float:
        """Of a stage, without what another method has done."""
        facts = self.run.facts(key)
        return float(facts.get("seconds", 0.0) - facts.get("shared_seconds", 0.0))

    def bytes(self, key: str) -> int:
        """Of the files of a stage."""
        names = self.run.read_manifest().get("files", {}).get(key, ())
        return sum((self.run.path / name).stat().st_size for name in names)


def entries(settings: RunSettings) -> Iterator[tuple[Stage[Any], str, list[str]]]:
    """The stages of the commands, each with its entry in run.json and the methods of the ensembles that it works on."""
    methods = list(settings.training.methods)
    commands = [command for command in COMMANDS if command != "index" or settings.origin.shows_rows]
    for stage in STAGES:
        if stage.command in commands:
            for names in [[method] for method in methods] if "{}" in stage.key else [methods]:
                yield stage, stage.key_of(names[0]), names


def declared(work: Work, stage: Stage[Any], methods: Sequence[str]) -> float:
    """The declared seconds of a stage on a laptop, or on a GPU where that is the device."""
    machine = MACHINES["A100-80GB" if work.machine.gpu else "laptop"]
    return sum(machine.seconds(stage, work.sizes(method)) for method in methods)


def fit(points: Sequence[tuple[float, float]], pace: float) -> Line:
    """The likeliest line through declared and measured seconds, given the pace of all stages together.

    A stage whose trials differ by no more than the noise of their times so gets about the pace of all.
    """
    table = [np.array([1.0, cost, seconds]) / (NOISE * seconds + 0.01) for cost, seconds in points]
    table.append(np.array([0.0, 1 / pace, 1.0]) / PRIOR)
    (once, found), _ = nnls(np.array(table)[:, :2], np.array(table)[:, 2])
    return Line(float(once), float(found))


def measure(work: Work, folder: Path, progress: Progress) -> Measured:
    """Try the work in a temporary folder beside the run, which is removed; the run folder need not be there.

    Raises:
        UserError: If text or activations cannot be read, or something that is asked for does not work here.
        OSError: If nothing can be written beside the run.
    """
    remarks, load, cores = list[str](), os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        remarks.append(
            f"Other programs keep this machine busy (load {load:.1f} on {cores} cores); times are as of now."
        )
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=existing_parent(folder.parent)) as temporary:
        small = replace(work, settings=work.decided(), processes=1, places=1)
        small, more = with_stand_ins(small, Path(temporary) / "model")
        trials = _Trials(small, Path(temporary), progress, [*remarks, *more])
        return trials.measured(work)


class _Trials:
    """Trials of work whose text and model are here."""

    def __init__(self, work: Work, folder: Path, progress: Progress, remarks: list[str]) -> None:
        self._work, self._folder, self._progress, self._remarks = work, folder, progress, remarks
        self._peaks: dict[str, int] = {}

    def measured(self, whole: Work) -> Measured:
        """What the trials tell of the whole work."""
        first, *tried = (self._try(number, *shares) for number, shares in enumerate(TRIALS))
        wide, pace, lines, files = self._train_wide(tried), _pace(tried, STAGES), {}, {}
        for stage, key, methods in entries(whole.settings):
            trials = wide if stage is TRAIN else tried
            line = fit([(declared(each.work, stage, methods), each.seconds(key)) for each in trials], pace)
            cold = first.seconds(key) - line.once - line.pace * declared(first.work, stage, methods)
            lines[key] = line._replace(once=line.once + max(0.0, cold))
            written = sum(stage.written(tried[-1].work.sizes(method)) for method in methods)
            files[key] = tried[-1].bytes(key) / written if written else 0.0
        whole = replace(whole, length=tried[-1].work.length)
        return Measured(whole, lines, files, first.work, self._peaks, self._remarks)

    def _try(self, number: int, rows: float, features: float) -> _Trial:
        """Run everything with shares of the largest trial's rows and features."""
        self._progress(Tick(f"try small run {number + 1}", number, len(TRIALS) + 1, "runs"))
        run = Run.create(self._folder / str(number), self._settings(rows, features))
        for command in dict.fromkeys(stage.command for stage, _, _ in entries(run.settings)):
            COMMANDS[command](run)
            self._peaks.setdefault(command, peak_memory(torch.device("cpu")))
        corpus = CORPUS.facts(run)
        length = corpus["train_tokens"] / corpus["train_passages"] if "train_passages" in corpus else 0.0
        return _Trial(replace(self._work, settings=run.settings, length=length), run)

    def _settings(self, rows_share: float, features_share: float, *, wide: bool = False) -> RunSettings:
        """Those of a trial; with ``wide``, features are a share of all, and the SAEs' architecture is kept."""
        settings = self._work.settings
        data, training, sae = settings.data, settings.training, settings.sae
        share = min(0.25, ROWS / data.train_tokens) * rows_share
        rows = max(64, round(share * data.train_tokens))
        if not wide:
            features_share *= min(1.0, FEATURES / sum(self._work.sizes(name).features for name in training.methods))
        width = max(round(sae.width * features_share), 2 * max(sae.k, *(training.member_k or (0,))))
        # How many features a penalty leaves active is not known before all is trained; sae.k stands in for it.
        stands = wide or fixes_l0(sae.architecture)
        sizes: dict[str, dict[str, Any]] = {
            "data": {
                "train_tokens": rows,
                "index_tokens": max(64, round(share * data.index_tokens)),
                "evaluation_tokens": min(data.evaluation_tokens, max(512, round(share * data.evaluation_tokens))),
            },
            "training": {
                "batch_size": min(training.batch_size, rows // BATCHES),
                "tokens": min(4 * rows, max(1, round(rows * training.tokens / data.train_tokens))),
            },
            "sae": {
                "width": min(sae.width, width),
                "architecture": sae.architecture if stands else SAESettings().architecture,
            },
        }
        new = {section: getattr(settings, section).model_copy(update=changed) for section, changed in sizes.items()}
        return settings.model_copy(update=new)

    def _train_wide(self, tried: Sequence[_Trial]) -> list[_Trial]:
        """The same trainings at the width of the settings, or as wide as time and memory allow."""
        self._progress(Tick("try training", len(TRIALS), len(TRIALS) + 1, "runs"))
        pace, share, free = _pace(tried, [TRAIN]), 1.0, free_host_memory()
        while share > 1 / 64:
            work = replace(self._work, settings=self._settings(1.0, share, wide=True))
            seconds = pace * sum(declared(work, TRAIN, [name]) for name in work.settings.training.methods)
            need = max(work.training_bytes(name)["memory"] for name in work.settings.training.methods)
            if seconds <= LONGEST and (free is None or 2 * need < free):
                break
            share /= 2
        if share < 1:
            width = work.settings.sae.width
            self._remarks.append(f"Training was tried with {width:,} features; times are extended to more.")
        wide = []
        for trial, (rows, _) in zip(tried, TRIALS[1:], strict=True):
            run = Run.create(trial.run.path / "wide", self._settings(rows, share, wide=True))
            train_run(run, source=train_source(trial.run, device=resolve_device(run.settings.training.device)))
            wide.append(_Trial(replace(trial.work, settings=run.settings), run))
        return wide


def _pace(trials: Sequence[_Trial], stages: Sequence[Stage[Any]]) -> float:
    """How many times longer than declared some stages take together, by what the second trial took longer."""
    wanted = [each for each in entries(trials[0].work.settings) if each[0] in stages]
    less, more = (sum(declared(each.work, stage, methods) for stage, _, methods in wanted) for each in trials)
    first, second = (sum(each.seconds(key) for _, key, _ in wanted) for each in trials)
    return max(0.02, (second - first) / (more - less) if more > less else second / more)
