"""Training of a run: its methods one after another, each by its layout.

As a rule the single SAE is member 0 of the bagged ensemble and stage 1 of the boosted one: the same seed, the same
batches in the same order, no influence from the other members. It is trained once and copied; costs are recorded in
full. Where member 0 has settings of its own, only the two ensembles share it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch

from sae_core.ensembles.coder import Coder
from sae_core.ensembles.ensemble import files_of, load_coder, load_ensemble, saes_of, save_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json, read_table, write_json, write_table
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.machine.device import naming_full_memory
from sae_core.foundation.method import Given, Method, One
from sae_core.foundation.methods import EVERY, TRAINING_ORDER
from sae_core.foundation.progress import Progress, silent
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.sae import SAE
from sae_core.sae.formats.saelens import load_sae, save_sae
from sae_core.training.declared import TRAIN
from sae_core.training.distribution import SharedSource
from sae_core.training.job import Job
from sae_core.training.members import initial_seed, starts_alike
from sae_core.training.memory import fitting_members, free_memory
from sae_core.training.operations import EnsembleShape, ensemble_flops
from sae_core.training.pipelined import Pipeline
from sae_core.training.processes import ALONE, Processes
from sae_core.training.source import Source, StoredSource
from sae_core.training.stage import CHECKPOINT_SECONDS, Plan, Target
from sae_core.training.step import Trainer, assert_members_differ
from sae_core.training.training_facts import Cost, Trained, longest, peak_memory, training_facts

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
        plan = Plan.of(method, source, settings.training, torch_device, 1, checkpoint_seconds, processes)
        job = _job(settings, EVERY[method], source, run.ensemble(method), plan, progress, run)
        if torch_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(torch_device)
        with naming_full_memory(torch_device, FULL):
            finish = _train(job)
        peak = int(processes.largest(peak_memory(torch_device)))
        processes.first(lambda: _record(run, job, finish(), peak))  # noqa: B023


def train_ensemble(
    settings: RunSettings,
    method: Method,
    source: Source,
    folder: EnsembleFolder,
    *,
    given: Coder | None = None,
    progress: Progress = silent,
) -> Trained:
    """Train one ensemble without a run, as a run with these settings trains it.

    Checkpoints and finished members are kept in the folder meanwhile. The settings need not name the method. Whatever
    method extends a given ensemble is given it, on the device of the training.

    Raises:
        UserError: If the device does not exist or the loss is no longer finite.
        KeyboardInterrupt: After Ctrl-C.
    """
    device = ALONE.place(settings.training.device)
    plan = Plan.of(method.name, source, settings.training, device)
    with naming_full_memory(device, FULL):
        return _train(replace(_job(settings, method, source, folder, plan, progress), given=given))()


def _job(
    settings: RunSettings,
    method: Method,
    source: Source,
    folder: EnsembleFolder,
    plan: Plan,
    progress: Progress,
    run: Run | None = None,
) -> Job:
    plan = replace(plan, steps=plan.steps * method.times_the_steps(settings))
    return Job(settings, method, method.layout(settings), folder, source, plan, progress, run=run)


def _is_there(run: Run, method: str, processes: Processes) -> bool:
    """Whether a method is finished or not wanted at all; the first process looks for all of them."""
    wanted = method in run.settings.training.methods
    return not wanted or bool(processes.of_first(run.is_finished(TRAIN.key_of(method)))[0])


def _record(run: Run, job: Job, trained: Trained, peak: int) -> None:
    folder = job.folder
    write_table(folder.curves, trained.curves)
    save_ensemble(trained.ensemble, folder)
    facts = training_facts(trained.ensemble, trained.cost, job.plan, rows=job.source.rows, peak=peak)
    if not job.layout.is_flat:
        facts["turns"] = job.layout.turns(pipelined=job.settings.training.boosting == "pipelined")
    if isinstance(job.layout.members[0], Given):
        given = EnsembleShape.of(trained.ensemble).members[0]
        facts["flops"] = int(facts["flops"]) - ensemble_flops(given, tokens=int(facts["tokens"]))
    run.finish(TRAIN.key_of(folder.name), facts, files=[folder.curves, *files_of(trained.ensemble, folder)])
    shutil.rmtree(folder.checkpoint, ignore_errors=True)


def _train(job: Job) -> Callable[[], Trained]:
    """Train an ensemble; what comes back gives it, and is asked by the first process only."""
    layout = job.layout
    if layout.is_flat and not layout.in_turn:
        return _side_by_side(job)
    if layout.is_flat and not job.before and job.settings.training.boosting == "pipelined":
        return _pipelined(job)
    return _one_by_one(job)


def _side_by_side(job: Job) -> Callable[[], Trained]:
    """Groups of members, one pass over the stream each; what a finished pass gave is kept, as after boosted stages."""
    ones = job.ones
    if len(ones) == 1 and (shared := _shared_member(job, ones[0])):
        member, curves, seconds = shared
        return lambda: Trained(job.ensemble([member]), curves, Cost(seconds, seconds))
    size = _members_in_a_pass(job) if len(ones) > 1 else 1
    firsts = range(0, len(ones), size)
    job = replace(job, plan=replace(job.plan, stages=len(firsts), stage_name="pass"))
    for number, first in enumerate(firsts):
        if not job.is_finished(number):
            group = range(first, min(first + size, len(ones)))
            target = job.target(number, first, whole=len(group) == len(ones))
            # What making the residual cost counts once.
            _train_group(job, group, replace(target, seconds=0.0) if number else target)

    def collected() -> Trained:
        tables = [read_table(job.finished(number)) for number in range(len(firsts))]
        ensemble = job.ensemble([load_sae(job.folder.member(number)) for number in range(len(ones))])
        seconds = sum(longest(table) for table in tables)
        cost = Cost(seconds, side_by_side=job.plan.part(range(size)).side_by_side)
        return Trained(ensemble, pd.concat(tables), cost)

    return collected


def _train_group(job: Job, group: range, target: Target) -> None:
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


def _members_in_a_pass(job: Job) -> int:
    """Decided once: an interrupted training goes on in the same groups, however much memory there is then."""
    decision, settings, processes = job.folder.checkpoint / "group.json", job.settings, job.plan.processes
    free = free_memory(job.plan.device)
    size = settings.training.group or fitting_members(settings, job.plan, job.source.d_in, free=free)
    size = -int(processes.largest(-min(size, len(job.layout.members))))
    if not processes.of_first(decision.exists())[0]:
        processes.first(lambda: write_json(decision, size))
    return int(processes.of_first(read_json(decision) if processes.rank == 0 else 0)[0])


def _assert_seeds_count(job: Job, numbers: Sequence[int], trainers: Sequence[Trainer]) -> None:
    """Members with the same seed, which differ otherwise, start from the same weights; all others must not."""
    ones, settings = job.ones, job.settings
    by_seed = {
        initial_seed(settings, ones[number].number): trainer.sae
        for number, trainer in zip(numbers, trainers, strict=True)
    }
    assert_members_differ(list(by_seed.values()))


def _one_by_one(job: Job) -> Callable[[], Trained]:
    """One member after another: stages, each on what the finished ones leave, or members that are ensembles."""
    nodes = job.layout.members
    job = replace(job, plan=replace(job.plan, stages=len(nodes)))
    job = job.with_residuals() if job.layout.in_turn else job
    first = nodes[0]
    shared = _shared_member(job, first) if isinstance(first, One) else None
    members: list[Coder] = [_given(job)] if isinstance(first, Given) else [shared[0]] if shared else []
    costs = [Cost(shared[2], shared[2])] if shared else []
    tables = [shared[1]] if shared else []
    for stage in range(len(members), len(nodes)):
        if not job.is_finished(stage):
            _train_next(job, stage, members)
        members.append(load_coder(job.folder.member(stage), device=str(job.plan.device)))
        tables.append(read_table(job.finished(stage)))
        path = job.finished(stage).with_suffix(".json")
        costs.append(Cost(**read_json(path)) if path.exists() else Cost(longest(tables[-1])))
    residuals, boosting = job.residuals, costs[-1].boosting
    if job.layout.in_turn and residuals is not None:
        boosting = "cached" if len(members) > 1 and residuals.cached else "recomputed"
    cost = Cost(
        sum(each.seconds for each in costs),
        sum(each.shared_seconds for each in costs),
        max(each.side_by_side for each in costs),
        boosting,
    )
    trained = Trained(job.ensemble(members), pd.concat(tables), cost)
    return lambda: trained


def _given(job: Job) -> Coder:
    """The SAE or ensemble that was brought in, which is not trained."""
    name = job.settings.training.boost_from
    if job.given is not None:
        return job.given
    if job.run is None or name is None:
        raise UserError("What is to be extended has to be imported into a run; use sae-ensemble train --boost-from.")
    ensemble = load_ensemble(job.run.ensemble(name), device=str(job.plan.device), d_in=job.source.d_in)
    return ensemble[0] if len(ensemble) == 1 else ensemble


def _train_next(job: Job, stage: int, before: Sequence[Coder]) -> None:
    """Train and write the next member: one SAE, or an ensemble."""
    node, after, first = job.layout.members[stage], before if job.layout.in_turn else (), job.plan.processes.first
    if isinstance(node, One):
        target, part = job.target(stage, stage, after=after), job.plan.part(range(stage, stage + 1))
        trainer = job.trainer(node, target, part)
        assert_members_differ([*(sae for coder in before for sae in saes_of(coder)), trainer.sae])
        curves = job.run_stage([trainer], target, part)
        member = _finished(trainer, target.scale)
        first(lambda: save_sae(member, job.folder.member(stage)))
        job.keep(stage, curves)
        return
    inner = job.member(stage, after)
    finish = _train(inner)

    def write() -> None:
        trained = finish()
        save_ensemble(trained.ensemble, inner.folder)
        write_json(job.finished(stage).with_suffix(".json"), asdict(trained.cost))
        # Curves number the SAEs of the whole ensemble one after another.
        earlier = sum(len(list(each.ones())) for each in job.layout.members[:stage])
        write_table(job.finished(stage), trained.curves.assign(member=trained.curves["member"] + np.int32(earlier)))
        shutil.rmtree(inner.folder.checkpoint, ignore_errors=True)

    first(write)


def _pipelined(job: Job) -> Callable[[], Trained]:
    """All stages in one pass, each on what those before it leave at that step."""
    ones, source, plan = job.ones, job.source, job.plan
    moving = round((1 - job.settings.training.decay) * plan.steps)
    pipeline = Pipeline(source.scale, len(ones), moving_steps=max(1, moving), device=plan.device)
    part, target = plan.part(range(len(ones)), pipelined=True), Target.activations(source, pipeline=pipeline)
    # What a stage will leave on average is not known before it has learnt anything.
    means = [None, *[torch.zeros(source.d_in)] * (len(ones) - 1)]
    trainers = [job.trainer(one, target, part, mean_D) for one, mean_D in zip(ones, means, strict=True)]
    _assert_seeds_count(job, range(len(ones)), trainers)
    curves = job.run_stage(trainers, target, part)
    saes = [_finished(trainer, scale) for trainer, scale in zip(trainers, pipeline.scales(), strict=True)]
    cost = Cost(longest(curves), side_by_side=len(ones), boosting="pipelined")
    trained = Trained(job.ensemble(saes), curves, cost)
    return lambda: trained


def _shared_member(job: Job, one: One) -> tuple[SAE, pd.DataFrame, float] | None:
    """An SAE that another method has trained just as this one would be: it, its curves and the seconds that it cost."""
    run, settings = job.run, job.settings
    if run is None or job.before:
        return None
    for other in (EVERY[name] for name in job.method.first_from if run.is_finished(TRAIN.key_of(name))):
        layout, folder = other.layout(settings), run.ensemble(other.name)
        # Of stages the first alone learns the activations.
        for number, theirs in enumerate(layout.members[:1] if layout.in_turn else layout.members):
            if not isinstance(theirs, One) or not starts_alike(settings, one, theirs):
                continue
            member = load_sae(folder.member(number), device=str(job.plan.device))
            curves = read_table(folder.curves)
            curves = curves[curves["member"] == number]
            together = TRAIN.facts(run, other.name).get("side_by_side", len(layout.members))
            seconds = longest(curves) / together
            own_seconds = curves["seconds"] * (seconds / curves["seconds"].max())
            mine, total = np.int32(0), curves["explained_variance"]
            curves = curves.assign(member=mine, explained_variance_total=total, seconds=own_seconds)
            return member, curves, seconds
    return None


def _finished(trainer: Trainer, scale: float) -> SAE:
    """The trained SAE, made to work on activations that are not scaled."""
    trainer.sae.fold_input_scale(scale)
    return trainer.sae.eval().requires_grad_(False)
