"""Training of a run: the single SAE, the bagged and the boosted ensemble and the expanded SAE, one after another.

The single SAE is member 0 of the bagged ensemble and stage 1 of the boosted one: the same seed, the same batches in
the same order, no influence from the other members. It is trained once and copied; costs are recorded in full.
"""

from __future__ import annotations

import resource
import shutil
import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sae_core.config import Method, RunSettings, SAESettings
from sae_core.device import resolve_device
from sae_core.ensemble import Ensemble, load_ensemble, save_ensemble
from sae_core.files import read_table, write_table
from sae_core.progress import Progress, silent
from sae_core.run import Run
from sae_core.sae import SAE, make_sae
from sae_core.sae.saelens_format import CONFIG, WEIGHTS, load_sae, save_sae
from sae_core.training.boosting import Residuals
from sae_core.training.kernels import has_fast_bfloat16, use_fast
from sae_core.training.pipeline import Pipeline
from sae_core.training.source import Source
from sae_core.training.stage import CHECKPOINT_SECONDS, Plan, Target, train_stage
from sae_core.training.step import Trainer, assert_members_differ

_ORDER: tuple[Method, ...] = ("bagged", "single", "boosted", "expanded")
"""Bagged first: its members are trained in one pass over the stream, and the first is the single SAE."""


@dataclass(frozen=True, slots=True)
class _Trained:
    """An ensemble just trained, its curves, and the seconds it cost, of which some were spent on another method.

    ``residual_rows`` are those that were written after each stage, where residuals were cached; none in a pipeline.
    """

    ensemble: Ensemble
    curves: pd.DataFrame
    seconds: float
    shared_seconds: float = 0.0
    residual_rows: int | None = None


def train_run(
    run: Run,
    *,
    source: Source | None = None,
    progress: Progress = silent,
    device: str | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> None:
    """Train the ensembles that the run's settings name; skip finished ones, go on with interrupted ones.

    Args:
        run: The run folder; its activations must have been gathered, unless a source is given.
        source: The activations, instead of the run's cache.
        progress: Told the tokens done and the explained variance.
        device: auto, cpu, cuda or cuda:N, instead of what the settings say.
        checkpoint_seconds: Smallest age at which a checkpoint is replaced.

    Raises:
        UserError: If the device does not exist, a file is damaged or the loss is no longer finite.
    """
    wanted = [method for method in _ORDER if method in run.settings.training.methods]
    missing = [method for method in wanted if not run.is_finished(f"train/{method}")]
    if not missing:
        return
    settings = run.settings
    torch_device = torch.device(resolve_device(device or settings.training.device))
    if source is None:
        from sae_core.activations.harvest import train_source

        source = train_source(run, device=str(torch_device))
    for method in missing:
        sequential = method == "boosted" and settings.training.boosting == "sequential"
        stages = settings.training.members if sequential else 1
        plan = Plan.of(method, source, settings.training, torch_device, stages, checkpoint_seconds)
        if torch_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(torch_device)
        trained = _train(run, method, source, plan, progress)
        folder = run.ensemble(method)
        write_table(folder.curves, trained.curves)
        save_ensemble(trained.ensemble, folder)
        members = (folder.member(number) for number in range(len(trained.ensemble)))
        files = [folder.curves, folder.manifest, *(member / name for member in members for name in (CONFIG, WEIGHTS))]
        run.finish(f"train/{method}", _facts(trained, settings, plan), files=files)
        shutil.rmtree(folder.checkpoint, ignore_errors=True)


def _train(run: Run, method: Method, source: Source, plan: Plan, progress: Progress) -> _Trained:
    settings, members = run.settings, run.settings.training.members
    if method == "boosted":
        pipelined = settings.training.boosting == "pipelined"
        return (_train_pipelined if pipelined else _train_boosted)(run, source, plan, progress)
    if method == "single" and (shared := _shared_member(run, plan)):
        return shared
    width = settings.sae.width * (members if method == "expanded" else 1)
    count = members if method == "bagged" else 1
    trainers = [
        make_trainer(settings, source.mean_D * source.scale, plan, member=number, width=width)
        for number in range(count)
    ]
    assert_members_differ([trainer.sae for trainer in trainers])
    checkpoint = run.ensemble(method).checkpoint / "stage_00.safetensors"
    curves = train_stage(trainers, Target.activations(source), plan, checkpoint=checkpoint, progress=progress)
    saes = [_finished(trainer, source.scale) for trainer in trainers]
    return _Trained(Ensemble(saes, wiring="parallel", method=method), curves, _seconds(curves))


def _train_boosted(run: Run, source: Source, plan: Plan, progress: Progress) -> _Trained:
    folder, settings = run.ensemble("boosted"), run.settings
    shared = _shared_member(run, plan)
    members: list[SAE] = [shared.ensemble[0]] if shared else []
    tables = [shared.curves] if shared else []
    residuals = Residuals(source, plan, wanted=settings.training.residuals, folder=folder.checkpoint, progress=progress)
    for stage in range(len(members), plan.stages):
        finished = folder.checkpoint / f"stage_{stage:02d}.parquet"
        if finished.exists():  # written after the member
            members.append(load_sae(folder.member(stage), device=str(plan.device)))
            tables.append(read_table(finished))
            continue
        target = residuals.after(members)
        trainer = make_trainer(settings, target.mean_D * target.scale, plan, member=stage, width=settings.sae.width)
        assert_members_differ([*members, trainer.sae])
        checkpoint = folder.checkpoint / f"stage_{stage:02d}.safetensors"
        curves = train_stage([trainer], target, plan, checkpoint=checkpoint, progress=progress)
        members.append(_finished(trainer, target.scale))
        tables.append(curves)
        save_sae(members[-1], folder.member(stage))
        write_table(finished, curves)
        checkpoint.unlink(missing_ok=True)
    ensemble = Ensemble(members, wiring="residual", method="boosted")
    seconds = sum(_seconds(table) for table in tables)
    rows = source.rows if len(members) > 1 and residuals.cached else None
    return _Trained(ensemble, pd.concat(tables), seconds, shared.seconds if shared else 0.0, rows)


def _train_pipelined(run: Run, source: Source, plan: Plan, progress: Progress) -> _Trained:
    settings, members = run.settings, run.settings.training.members
    moving = round((1 - settings.training.decay) * plan.steps)
    pipeline = Pipeline(source.scale, members, moving_steps=max(1, moving), device=plan.device)
    # What a stage will leave on average is not known before it has learnt anything.
    means = [source.mean_D * source.scale, *[torch.zeros(source.d_in)] * (members - 1)]
    trainers = [
        make_trainer(settings, mean_D, plan, member=number, width=settings.sae.width)
        for number, mean_D in enumerate(means)
    ]
    assert_members_differ([trainer.sae for trainer in trainers])
    checkpoint = run.ensemble("boosted").checkpoint / "stage_00.safetensors"
    target = Target.activations(source, pipeline=pipeline)
    curves = train_stage(trainers, target, plan, checkpoint=checkpoint, progress=progress)
    saes = [_finished(trainer, scale) for trainer, scale in zip(trainers, pipeline.scales(), strict=True)]
    return _Trained(Ensemble(saes, wiring="residual", method="boosted"), curves, _seconds(curves), residual_rows=0)


def _shared_member(run: Run, plan: Plan) -> _Trained | None:
    """The single SAE, if it has been trained as such or as a member of the bagged ensemble."""
    for method in ("single", "bagged"):
        if not run.is_finished(f"train/{method}"):
            continue
        folder = run.ensemble(method)
        curves = read_table(folder.curves)
        seconds = _seconds(curves) / len(load_ensemble(folder))
        curves = curves[curves["member"] == 0]
        own_seconds = curves["seconds"] * (seconds / curves["seconds"].max())
        curves = curves.assign(explained_variance_total=curves["explained_variance"], seconds=own_seconds)
        member = load_sae(folder.member(0), device=str(plan.device))
        return _Trained(Ensemble([member], wiring="parallel", method="single"), curves, seconds, seconds)
    return None


def member_seed(seed: int, member: int) -> int:
    """Seed of the initial weights of a member; different for every pair of run seed and member."""
    return int(np.random.SeedSequence([seed, member]).generate_state(1, np.uint64)[0] >> 1)


def make_trainer(settings: RunSettings, b_dec_D: Tensor, plan: Plan, *, member: int, width: int) -> Trainer:
    """A fresh member, ready to be trained; its decoder bias starts as the mean [D] of what it will see."""
    sae = make_sae(settings.sae, len(b_dec_D), width=width, seed=member_seed(settings.training.seed, member))
    with torch.no_grad():
        sae.b_dec.copy_(b_dec_D)
    sae = sae.to(plan.device)
    fast = use_fast(settings.training.kernels, sae)
    low = _low_precision(settings.training.precision, plan.device, fast=fast)
    return Trainer(sae, settings.sae, settings.training, steps=plan.steps, low_precision=low, fast=fast)


def _low_precision(precision: str, device: torch.device, *, fast: bool) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # The plain step would take coarser codes; the fast one only chooses by bfloat16 what it then computes in float32.
    return fast and has_fast_bfloat16()


def _finished(trainer: Trainer, scale: float) -> SAE:
    """The trained SAE, made to work on activations that are not scaled."""
    trainer.sae.fold_input_scale(scale)
    return trainer.sae.eval().requires_grad_(False)


def _seconds(curves: pd.DataFrame) -> float:
    return float(curves["seconds"].max())


def _facts(trained: _Trained, settings: RunSettings, plan: Plan) -> dict[str, float | int | str]:
    ensemble = trained.ensemble
    tokens, on_gpu = plan.steps * plan.batch_size, plan.device.type == "cuda"
    # Linux counts in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "seconds": round(trained.seconds, 3),
        "shared_seconds": round(trained.shared_seconds, 3),
        "tokens": tokens,
        "steps": plan.steps,
        "flops": training_flops(ensemble, settings.sae, tokens=tokens, residual_rows=trained.residual_rows),
        "parameters": sum(parameter.numel() for parameter in ensemble.parameters()),
        "peak_memory_bytes": torch.cuda.max_memory_allocated(plan.device) if on_gpu else peak,
        "device": torch.cuda.get_device_name(plan.device) if on_gpu else "cpu",
    }


def training_flops(ensemble: Ensemble, settings: SAESettings, *, tokens: int, residual_rows: int | None = None) -> int:
    """Floating-point operations to train an ensemble; AuxK and the optimiser are not counted.

    A product of B×D by D×N counts 2·B·D·N. Trained densely, an SAE needs five (encoder, decoder, and three for
    gradients); trained through sparse codes one, and four sums over k entries. A boosted stage also runs the members
    before it, or each but the last of them runs once over the rows of which the residual is kept.

    Args:
        ensemble: The trained ensemble.
        settings: Options of its members.
        tokens: Activations that each member was trained on.
        residual_rows: Rows of the residual that was written after each stage; None if none was.
    """
    total = 0
    for number, member in enumerate(ensemble):
        product, entries = 2 * member.d_in * member.width, 2 * member.d_in * settings.k
        train, run = (product + 4 * entries, product + entries) if member.selects else (5 * product, 2 * product)
        later = len(ensemble) - 1 - number if ensemble.wiring == "residual" else 0
        runs = later * tokens if residual_rows is None else min(later, 1) * residual_rows
        total += tokens * train + runs * run
    return total
