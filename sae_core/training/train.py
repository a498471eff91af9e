"""Training of a run: the single SAE, the bagged and the boosted ensemble and the expanded SAEs, one after another.

The single SAE is member 0 of the bagged ensemble and stage 1 of the boosted one: the same seed, the same batches in
the same order, no influence from the other members. It is trained once and copied; costs are recorded in full. Where
member 0 has settings of its own, only the two ensembles share it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sae_core.ensembles.ensemble import Ensemble, load_ensemble, save_ensemble
from sae_core.foundation.files.whole_files import read_json, read_table, write_json, write_table
from sae_core.foundation.folders import CONFIG, WEIGHTS, EnsembleFolder
from sae_core.foundation.machine.device import naming_full_memory
from sae_core.foundation.methods import TRAINING_ORDER, Method, times_the_steps
from sae_core.foundation.progress import Progress, silent
from sae_core.foundation.run import Run
from sae_core.sae import SAE
from sae_core.sae.formats.saelens import load_sae, save_sae
from sae_core.training.checkpoint import remove_checkpoint
from sae_core.training.distribution import SharedSource
from sae_core.training.members import initial_seed, make_trainer, starts_as_single
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
    missing: Sequence[Method],
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
        sequential = method == "boosted" and settings.training.boosting == "sequential"
        stages = settings.training.members if sequential else 1
        plan = Plan.of(method, source, settings.training, torch_device, stages, checkpoint_seconds, processes)
        plan = replace(plan, steps=plan.steps * times_the_steps(method, settings.training.members))
        if torch_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(torch_device)
        with naming_full_memory(torch_device, FULL):
            finish = _train(run, method, source, plan, progress)
        peak = int(processes.largest(peak_memory(torch_device)))
        processes.first(lambda: _record(run, method, finish(), plan, peak))  # noqa: B023


def _is_there(run: Run, method: Method, processes: Processes) -> bool:
    """Whether a method is finished or not wanted at all; the first process looks for all of them."""
    wanted = method in run.settings.training.methods
    return not wanted or bool(processes.of_first(run.is_finished(f"train/{method}"))[0])


def _record(run: Run, method: Method, trained: Trained, plan: Plan, peak: int) -> None:
    folder = run.ensemble(method)
    write_table(folder.curves, trained.curves)
    save_ensemble(trained.ensemble, folder)
    members = (folder.member(number) for number in range(len(trained.ensemble)))
    files = [folder.curves, folder.manifest, *(member / name for member in members for name in (CONFIG, WEIGHTS))]
    run.finish(f"train/{method}", training_facts(trained, plan, peak=peak), files=files)
    shutil.rmtree(folder.checkpoint, ignore_errors=True)


def _train(run: Run, method: Method, source: Source, plan: Plan, progress: Progress) -> Callable[[], Trained]:
    """Train an ensemble; what comes back gives it, and is asked by the first process only."""
    settings = run.settings
    if method == "bagged":
        return _train_bagged(run, source, plan, progress)
    if method == "boosted":
        pipelined = settings.training.boosting == "pipelined"
        return (_train_pipelined if pipelined else _train_boosted)(run, source, plan, progress)
    if method == "single" and (shared := _shared_member(run, method, plan)):
        return lambda: shared
    sae = settings.sae_of(method)
    settings = settings.model_copy(update={"sae": sae})
    part, target, checkpoint = plan.part(range(1)), Target.activations(source), _checkpoint(run.ensemble(method), 0)
    trainer = make_trainer(settings, source.mean_D * source.scale, plan, member=None, width=sae.width, part=part)
    curves = train_stage([trainer], target, plan, checkpoint=checkpoint, progress=progress, part=part)
    ensemble = Ensemble([_finished(trainer, source.scale)], wiring="parallel", method=method)
    return lambda: Trained(ensemble, curves, longest(curves))


def _train_bagged(run: Run, source: Source, plan: Plan, progress: Progress) -> Callable[[], Trained]:
    """Groups of members, one pass over the stream each; what a finished pass gave is kept, as after boosted stages."""
    folder, members = run.ensemble("bagged"), run.settings.training.members
    size = _members_in_a_pass(run, plan, source.d_in)
    firsts = range(0, members, size)
    plan = replace(plan, stages=len(firsts), stage_name="pass")
    for number, first in enumerate(firsts):
        finished = _finished_table(folder, number)  # written after the members
        if not plan.processes.of_first(finished.exists())[0]:
            group = range(first, min(first + size, members))
            target = Target.activations(source, stage=number, first_member=first, whole=len(group) == members)
            _train_group(run, group, target, plan, progress)

    def collected() -> Trained:
        tables = [read_table(_finished_table(folder, number)) for number in range(len(firsts))]
        saes = [load_sae(folder.member(number)) for number in range(members)]
        ensemble = Ensemble(saes, wiring="parallel", method="bagged")
        seconds = sum(longest(table) for table in tables)
        return Trained(ensemble, pd.concat(tables), seconds, side_by_side=plan.part(range(size)).side_by_side)

    return collected


def _train_group(run: Run, group: range, target: Target, plan: Plan, progress: Progress) -> None:
    """Train some members of the bag and write them, then their curves."""
    settings, folder, source, part = run.settings, run.ensemble("bagged"), target.source, plan.part(group)
    mean_D, width = source.mean_D * source.scale, settings.sae.width
    trainers = [make_trainer(settings, mean_D, plan, member=j, width=width, part=part) for j in part.members]
    _assert_seeds_count(run, part.members, trainers)
    checkpoint = _checkpoint(folder, target.stage)
    curves = train_stage(trainers, target, plan, checkpoint=checkpoint, progress=progress, part=part)

    def write_members() -> None:
        for number, trainer in zip(part.members, trainers, strict=True):
            if number in part.written:
                save_sae(_finished(trainer, source.scale), folder.member(number))

    plan.processes.together(write_members)
    plan.processes.first(lambda: write_table(_finished_table(folder, target.stage), curves))
    plan.processes.first(lambda: remove_checkpoint(checkpoint))


def _members_in_a_pass(run: Run, plan: Plan, d_in: int) -> int:
    """Decided once: an interrupted training goes on in the same groups, however much memory there is then."""
    decision, settings, processes = run.ensemble("bagged").checkpoint / "group.json", run.settings, plan.processes
    size = settings.training.group or fitting_members(settings, plan, d_in, free=free_memory(plan.device))
    size = -int(processes.largest(-min(size, settings.training.members)))
    if not processes.of_first(decision.exists())[0]:
        processes.first(lambda: write_json(decision, size))
    return int(processes.of_first(read_json(decision) if processes.rank == 0 else 0)[0])


def _assert_seeds_count(run: Run, numbers: Sequence[int], trainers: Sequence[Trainer]) -> None:
    """Members with the same seed, which differ otherwise, start from the same weights; all others must not."""
    by_seed = {
        initial_seed(run.settings, number): trainer.sae for number, trainer in zip(numbers, trainers, strict=True)
    }
    assert_members_differ(list(by_seed.values()))


def _train_boosted(run: Run, source: Source, plan: Plan, progress: Progress) -> Callable[[], Trained]:
    folder, settings, processes = run.ensemble("boosted"), run.settings, plan.processes
    shared = _shared_member(run, "boosted", plan)
    members: list[SAE] = [shared.ensemble[0]] if shared else []
    tables = [shared.curves] if shared else []
    training = settings.training
    options: dict[str, Any] = {"wanted": training.residuals, "kernels": training.kernels}
    residuals = Residuals(source, plan, folder=folder.checkpoint, progress=progress, **options)
    for stage in range(len(members), plan.stages):
        finished = _finished_table(folder, stage)  # written after the member
        if not processes.of_first(finished.exists())[0]:
            curves, member = _train_boosted_stage(run, residuals.after(members), members, plan, progress)
            processes.first(lambda: save_sae(member, folder.member(stage)))  # noqa: B023
            processes.first(lambda: write_table(finished, curves))  # noqa: B023
            processes.first(lambda: remove_checkpoint(_checkpoint(folder, stage)))  # noqa: B023
        members.append(load_sae(folder.member(stage), device=str(plan.device)))
        tables.append(read_table(finished))
    ensemble = Ensemble(members, wiring="residual", method="boosted")
    seconds, shared_seconds = sum(longest(table) for table in tables), shared.seconds if shared else 0.0
    boosting: Boosting = "cached" if len(members) > 1 and residuals.cached else "recomputed"
    return lambda: Trained(ensemble, pd.concat(tables), seconds, shared_seconds, boosting=boosting, rows=source.rows)


def _train_boosted_stage(
    run: Run, target: Target, before: Sequence[SAE], plan: Plan, progress: Progress
) -> tuple[pd.DataFrame, SAE]:
    """The curves and the member of the next stage."""
    settings, stage = run.settings, target.stage
    part = plan.part(range(stage, stage + 1))
    mean_D, width = target.mean_D * target.scale, settings.sae.width
    trainer = make_trainer(settings, mean_D, plan, member=stage, width=width, part=part)
    assert_members_differ([*before, trainer.sae])
    checkpoint = _checkpoint(run.ensemble("boosted"), stage)
    curves = train_stage([trainer], target, plan, checkpoint=checkpoint, progress=progress, part=part)
    return curves, _finished(trainer, target.scale)


def _train_pipelined(run: Run, source: Source, plan: Plan, progress: Progress) -> Callable[[], Trained]:
    settings, members = run.settings, run.settings.training.members
    moving = round((1 - settings.training.decay) * plan.steps)
    pipeline = Pipeline(source.scale, members, moving_steps=max(1, moving), device=plan.device)
    part, width = plan.part(range(members), pipelined=True), settings.sae.width
    # What a stage will leave on average is not known before it has learnt anything.
    means = [source.mean_D * source.scale, *[torch.zeros(source.d_in)] * (members - 1)]
    trainers = [
        make_trainer(settings, mean_D, plan, member=number, width=width, part=part)
        for number, mean_D in enumerate(means)
    ]
    _assert_seeds_count(run, range(members), trainers)
    checkpoint = _checkpoint(run.ensemble("boosted"), 0)
    target = Target.activations(source, pipeline=pipeline)
    curves = train_stage(trainers, target, plan, checkpoint=checkpoint, progress=progress, part=part)
    saes = [_finished(trainer, scale) for trainer, scale in zip(trainers, pipeline.scales(), strict=True)]
    ensemble = Ensemble(saes, wiring="residual", method="boosted")
    return lambda: Trained(ensemble, curves, longest(curves), side_by_side=members, boosting="pipelined")


def _shared_member(run: Run, method: Method, plan: Plan) -> Trained | None:
    """The first member of a method, if it has been trained as the single SAE or as a member of the bagged ensemble."""
    for other in ("single", "bagged"):
        if not run.is_finished(f"train/{other}"):
            continue
        if "single" in (method, other) and not starts_as_single(run.settings):
            continue
        folder = run.ensemble(other)
        curves = read_table(folder.curves)
        curves = curves[curves["member"] == 0]
        seconds = longest(curves) / run.facts(f"train/{other}").get("side_by_side", len(load_ensemble(folder)))
        own_seconds = curves["seconds"] * (seconds / curves["seconds"].max())
        curves = curves.assign(explained_variance_total=curves["explained_variance"], seconds=own_seconds)
        member = load_sae(folder.member(0), device=str(plan.device))
        return Trained(Ensemble([member], wiring="parallel", method="single"), curves, seconds, seconds)
    return None


def _finished(trainer: Trainer, scale: float) -> SAE:
    """The trained SAE, made to work on activations that are not scaled."""
    trainer.sae.fold_input_scale(scale)
    return trainer.sae.eval().requires_grad_(False)


def _checkpoint(folder: EnsembleFolder, stage: int) -> Path:
    return folder.checkpoint / f"stage_{stage:02d}.safetensors"


def _finished_table(folder: EnsembleFolder, stage: int) -> Path:
    """Curves of a stage; where they are, its members are finished and written."""
    return folder.checkpoint / f"stage_{stage:02d}.parquet"
