"""Training of a run: its methods one after another, each by its layout.

As a rule the single SAE is member 0 of the bagged ensemble and stage 1 of the boosted one: the same seed, the same
batches in the same order, no influence from the other members. It is trained once and copied; costs are recorded in
full. Where member 0 has settings of its own, only the two ensembles share it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sae_core.ensembles.ensemble import Ensemble, save_ensemble
from sae_core.foundation.files.whole_files import read_json, read_table, write_json, write_table
from sae_core.foundation.folders import CONFIG, WEIGHTS, EnsembleFolder
from sae_core.foundation.machine.device import naming_full_memory
from sae_core.foundation.method import Method, One, Several
from sae_core.foundation.methods import EVERY, TRAINING_ORDER
from sae_core.foundation.progress import Progress, silent
from sae_core.foundation.run import Run
from sae_core.sae import SAE
from sae_core.sae.formats.saelens import load_sae, save_sae
from sae_core.training.checkpoint import remove_checkpoint
from sae_core.training.declared import TRAIN
from sae_core.training.distribution import Part, SharedSource
from sae_core.training.members import initial_seed, make_trainer, starts_alike
from sae_core.training.memory import fitting_members, free_memory
from sae_core.training.operations import Boosting
from sae_core.training.pipelined import Pipeline
from sae_core.training.processes import ALONE, Processes
from sae_core.training.records import Trained, longest, peak_memory, training_facts
from sae_core.training.residuals import Residuals
from sae_core.training.source import Source, StoredSource
from sae_core.training.stage import CHECKPOINT_SECONDS, Plan, Target, train_stage
from sae_core.training.step import Trainer, assert_members_differ

FULL = "lower training.batch_size, training.group or sae.width, or take several devices (torchrun)"
"""What to do when the memory of a device is full."""


def train_run(
    run: Run,
    *,
    source: Source | None = None,
    progress: Progress = silent,
    device: str | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    processes: Processes = ALONE,
) -> None:
    """Train the ensembles that the run's settings name; skip finished ones, go on with interrupted ones.

    Args:
        run: The run folder; its activations must have been gathered, unless a source is given.
        source: The activations, instead of the run's cache.
        progress: Told the tokens done and the explained variance.
        device: auto, cpu, cuda or cuda:N, instead of what the settings say.
        checkpoint_seconds: Smallest age at which a checkpoint is replaced.
        processes: Those that train together, each of which calls this; all must see the run folder.

    Raises:
        UserError: If the device does not exist, a file is damaged or the loss is no longer finite.
    """
    missing = [method for method in TRAINING_ORDER if not _is_there(run, method, processes)]
    if missing:
        _train_missing(run, missing, source, progress, device, checkpoint_seconds, processes)
    # Several processes may still have it open; network storage then keeps what they have of it until they end.
    processes.first(lambda: shutil.rmtree(run.dealt, ignore_errors=True))


def _train_missing(
    run: Run,
    missing: Sequence[str],
    source: Source | None,
    progress: Progress,
    device: str | None,
    checkpoint_seconds: float,
    processes: Processes,
) -> None:
    settings = run.settings
    torch_device = processes.place(device or settings.training.device)
    if source is None:
        from sae_core.activations.harvest import train_source

        source = train_source(run, device=str(torch_device), progress=progress)
    if processes.size > 1 and not isinstance(source, StoredSource):
        source = SharedSource(source, processes)
    for method in missing:
        declared = EVERY[method]
        plan = Plan.of(method, source, settings.training, torch_device, 1, checkpoint_seconds, processes)
        plan = replace(plan, steps=plan.steps * declared.times_the_steps(settings))
        job = _Job(run, declared, declared.layout(settings), run.ensemble(method), source, plan, progress)
        if torch_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(torch_device)
        with naming_full_memory(torch_device, FULL):
            finish = _train(job)
        peak = int(processes.largest(peak_memory(torch_device)))
        processes.first(lambda: _record(job, finish(), peak))  # noqa: B023


def _is_there(run: Run, method: str, processes: Processes) -> bool:
    """Whether a method is finished or not wanted at all; the first process looks for all of them."""
    wanted = method in run.settings.training.methods
    return not wanted or bool(processes.of_first(run.is_finished(TRAIN.key_of(method)))[0])


def _record(job: _Job, trained: Trained, peak: int) -> None:
    run, folder = job.run, job.folder
    write_table(folder.curves, trained.curves)
    save_ensemble(trained.ensemble, folder)
    members = (folder.member(number) for number in range(len(trained.ensemble)))
    files = [folder.curves, folder.manifest, *(member / name for member in members for name in (CONFIG, WEIGHTS))]
    run.finish(TRAIN.key_of(folder.name), training_facts(trained, job.plan, peak=peak), files=files)
    shutil.rmtree(folder.checkpoint, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Job:
    """An ensemble that is to be trained.

    Attributes:
        run: The run, whose settings apply.
        method: The method.
        layout: What it trains.
        folder: Where the ensemble and its checkpoint lie.
        source: The activations.
        plan: How it is trained.
        progress: Told the tokens done.
    """

    run: Run
    method: Method
    layout: Several
    folder: EnsembleFolder
    source: Source
    plan: Plan
    progress: Progress

    @property
    def ones(self) -> list[One]:
        """The SAEs."""
        return list(self.layout.ones())

    def trainer(self, one: One, target: Target, part: Part, mean_D: Tensor | None = None) -> Trainer:
        """A fresh SAE for a target, whose mean is given where it is not the target's."""
        settings = self.run.settings.model_copy(update={"sae": one.sae})
        mean_D = target.mean_D * target.scale if mean_D is None else mean_D
        return make_trainer(settings, mean_D, self.plan, member=one.number, width=one.sae.width, part=part)

    def run_stage(self, trainers: Sequence[Trainer], target: Target, part: Part) -> pd.DataFrame:
        """The curves of trainers that have been trained to the end."""
        checkpoint = self.checkpoint(target.stage)
        return train_stage(trainers, target, self.plan, checkpoint=checkpoint, progress=self.progress, part=part)

    def checkpoint(self, stage: int) -> Path:
        """The checkpoint of a stage."""
        return self.folder.checkpoint / f"stage_{stage:02d}.safetensors"

    def finished(self, stage: int) -> Path:
        """Curves of a stage; where they are, its members are finished and written."""
        return self.folder.checkpoint / f"stage_{stage:02d}.parquet"

    def is_finished(self, stage: int) -> bool:
        """Whether a stage is finished; the first process looks for all of them."""
        return bool(self.plan.processes.of_first(self.finished(stage).exists())[0])

    def keep(self, stage: int, curves: pd.DataFrame) -> None:
        """Note that the members of a stage are written, and with which curves they were trained."""
        self.plan.processes.first(lambda: write_table(self.finished(stage), curves))
        self.plan.processes.first(lambda: remove_checkpoint(self.checkpoint(stage)))

    def ensemble(self, members: Sequence[SAE]) -> Ensemble:
        """The trained ensemble."""
        return Ensemble(members, wiring=self.layout.wiring, method=self.method.name)


def _train(job: _Job) -> Callable[[], Trained]:
    """Train an ensemble; what comes back gives it, and is asked by the first process only."""
    if not job.layout.in_turn:
        return _side_by_side(job)
    return _pipelined(job) if job.run.settings.training.boosting == "pipelined" else _in_turn(job)


def _side_by_side(job: _Job) -> Callable[[], Trained]:
    """Groups of members, one pass over the stream each; what a finished pass gave is kept, as after boosted stages."""
    ones = job.ones
    if len(ones) == 1 and (shared := _shared_member(job, ones[0])):
        member, curves, seconds = shared
        return lambda: Trained(job.ensemble([member]), curves, seconds, seconds)
    size = _members_in_a_pass(job) if len(ones) > 1 else 1
    firsts = range(0, len(ones), size)
    job = replace(job, plan=replace(job.plan, stages=len(firsts), stage_name="pass"))
    for number, first in enumerate(firsts):
        if not job.is_finished(number):
            group = range(first, min(first + size, len(ones)))
            whole = len(group) == len(ones)
            _train_group(job, group, Target.activations(job.source, stage=number, first_member=first, whole=whole))

    def collected() -> Trained:
        tables = [read_table(job.finished(number)) for number in range(len(firsts))]
        ensemble = job.ensemble([load_sae(job.folder.member(number)) for number in range(len(ones))])
        seconds = sum(longest(table) for table in tables)
        return Trained(ensemble, pd.concat(tables), seconds, side_by_side=job.plan.part(range(size)).side_by_side)

    return collected


def _train_group(job: _Job, group: range, target: Target) -> None:
    """Train some members side by side and write them, then their curves."""
    ones, part = job.ones, job.plan.part(group)
    trainers = [job.trainer(ones[number], target, part) for number in part.members]
    _assert_seeds_count(job, part.members, trainers)
    curves = job.run_stage(trainers, target, part)

    def write_members() -> None:
        for number, trainer in zip(part.members, trainers, strict=True):
            if number in part.written:
                save_sae(_finished(trainer, target.scale), job.folder.member(number))

    job.plan.processes.together(write_members)
    job.keep(target.stage, curves)


def _members_in_a_pass(job: _Job) -> int:
    """Decided once: an interrupted training goes on in the same groups, however much memory there is then."""
    decision, settings, processes = job.folder.checkpoint / "group.json", job.run.settings, job.plan.processes
    free = free_memory(job.plan.device)
    size = settings.training.group or fitting_members(settings, job.plan, job.source.d_in, free=free)
    size = -int(processes.largest(-min(size, len(job.layout.members))))
    if not processes.of_first(decision.exists())[0]:
        processes.first(lambda: write_json(decision, size))
    return int(processes.of_first(read_json(decision) if processes.rank == 0 else 0)[0])


def _assert_seeds_count(job: _Job, numbers: Sequence[int], trainers: Sequence[Trainer]) -> None:
    """Members with the same seed, which differ otherwise, start from the same weights; all others must not."""
    ones, settings = job.ones, job.run.settings
    by_seed = {
        initial_seed(settings, ones[number].number): trainer.sae
        for number, trainer in zip(numbers, trainers, strict=True)
    }
    assert_members_differ(list(by_seed.values()))


def _in_turn(job: _Job) -> Callable[[], Trained]:
    """One stage after another, each on what the finished ones leave."""
    ones, training, processes = job.ones, job.run.settings.training, job.plan.processes
    job = replace(job, plan=replace(job.plan, stages=len(ones)))
    shared = _shared_member(job, ones[0])
    members, tables, shared_seconds = ([shared[0]], [shared[1]], shared[2]) if shared else ([], [], 0.0)
    options: dict[str, Any] = {"wanted": training.residuals, "kernels": training.kernels}
    residuals = Residuals(job.source, job.plan, folder=job.folder.checkpoint, progress=job.progress, **options)
    for stage in range(len(members), len(ones)):
        if not job.is_finished(stage):
            curves, member = _train_next(job, ones[stage], residuals.after(members), members)
            processes.first(lambda: save_sae(member, job.folder.member(stage)))  # noqa: B023
            job.keep(stage, curves)
        members.append(load_sae(job.folder.member(stage), device=str(job.plan.device)))
        tables.append(read_table(job.finished(stage)))
    seconds, rows = sum(longest(table) for table in tables), job.source.rows
    boosting: Boosting = "cached" if len(members) > 1 and residuals.cached else "recomputed"
    ensemble, curves = job.ensemble(members), pd.concat(tables)
    return lambda: Trained(ensemble, curves, seconds, shared_seconds, boosting=boosting, rows=rows)


def _train_next(job: _Job, one: One, target: Target, before: Sequence[SAE]) -> tuple[pd.DataFrame, SAE]:
    """The curves and the member of the next stage."""
    part = job.plan.part(range(target.stage, target.stage + 1))
    trainer = job.trainer(one, target, part)
    assert_members_differ([*before, trainer.sae])
    return job.run_stage([trainer], target, part), _finished(trainer, target.scale)


def _pipelined(job: _Job) -> Callable[[], Trained]:
    """All stages in one pass, each on what those before it leave at that step."""
    ones, source, plan = job.ones, job.source, job.plan
    moving = round((1 - job.run.settings.training.decay) * plan.steps)
    pipeline = Pipeline(source.scale, len(ones), moving_steps=max(1, moving), device=plan.device)
    part, target = plan.part(range(len(ones)), pipelined=True), Target.activations(source, pipeline=pipeline)
    # What a stage will leave on average is not known before it has learnt anything.
    means = [None, *[torch.zeros(source.d_in)] * (len(ones) - 1)]
    trainers = [job.trainer(one, target, part, mean_D) for one, mean_D in zip(ones, means, strict=True)]
    _assert_seeds_count(job, range(len(ones)), trainers)
    curves = job.run_stage(trainers, target, part)
    saes = [_finished(trainer, scale) for trainer, scale in zip(trainers, pipeline.scales(), strict=True)]
    ensemble = job.ensemble(saes)
    return lambda: Trained(ensemble, curves, longest(curves), side_by_side=len(ones), boosting="pipelined")


def _shared_member(job: _Job, one: One) -> tuple[SAE, pd.DataFrame, float] | None:
    """An SAE that another method has trained just as this one would be: it, its curves and the seconds that it cost."""
    run, settings = job.run, job.run.settings
    for other in (EVERY[name] for name in job.method.first_from if run.is_finished(f"train/{name}")):
        layout, folder = other.layout(settings), run.ensemble(other.name)
        # Of stages the first alone learns the activations.
        for number, theirs in enumerate(layout.members[:1] if layout.in_turn else layout.members):
            if not isinstance(theirs, One) or not starts_alike(settings, one, theirs):
                continue
            member = load_sae(folder.member(number), device=str(job.plan.device))
            curves = read_table(folder.curves)
            curves = curves[curves["member"] == number]
            together = run.facts(f"train/{other.name}").get("side_by_side", len(layout.members))
            seconds = longest(curves) / together
            own_seconds = curves["seconds"] * (seconds / curves["seconds"].max())
            mine, total = np.int32(one.number or 0), curves["explained_variance"]
            curves = curves.assign(member=mine, explained_variance_total=total, seconds=own_seconds)
            return member, curves, seconds
    return None


def _finished(trainer: Trainer, scale: float) -> SAE:
    """The trained SAE, made to work on activations that are not scaled."""
    trainer.sae.fold_input_scale(scale)
    return trainer.sae.eval().requires_grad_(False)
