"""One stage of training: one or several members side by side over one pass through the stream of batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import pandas as pd
import torch
from torch import Tensor

from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.settings.run_settings import TrainingSettings
from sae_core.training.checkpoint import Progressed, load_checkpoint, save_checkpoint
from sae_core.training.curves import COLUMNS, Curves
from sae_core.training.distribution import Part, part_of
from sae_core.training.gradients import Outcome
from sae_core.training.interrupt import noting_interrupts
from sae_core.training.pipelined import Pipeline
from sae_core.training.prefetch import Prefetched, Waiting
from sae_core.training.processes import ALONE, Processes
from sae_core.training.source import Source
from sae_core.training.step import REFRESH, Trainer

CHECKPOINT_SECONDS = 20.0
"""A checkpoint is written when the last one is at least this old."""


HALVED = (
    "The memory of the device does not hold a whole step: steps are now done in two halves by the plain kernels, which "
    "takes longer; a smaller training.batch_size would avoid that."
)
"""Told once, whichever process it was."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the stages of one ensemble share.

    Attributes:
        name: What is trained, for the progress, e.g. ``bagged``.
        steps: Steps of one stage.
        batch_size: Activations in a step.
        stages: How many stages there are.
        seed: Seed of the order of the activations.
        device: Where it is trained.
        checkpoint_seconds: Smallest age at which a checkpoint is replaced.
        processes: Those that train together.
        stage_name: What a stage is called in the progress: a stage, or a pass of members that have no stages.
        waiting: Adds up for how long steps wait for activations.
    """

    name: str
    steps: int
    batch_size: int
    stages: int
    seed: int
    device: torch.device
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    processes: Processes = ALONE
    stage_name: str = "stage"
    waiting: Waiting = field(default_factory=Waiting)

    @classmethod
    def of(
        cls,
        name: str,
        source: Source,
        training: TrainingSettings,
        device: torch.device,
        stages: int = 1,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        processes: Processes = ALONE,
    ) -> Plan:
        """The plan that settings make for a source; a batch is never larger than the source.

        Raises:
            UserError: If the source is empty.
        """
        if not source.rows:
            raise UserError("There are no activations to train on; gather some first.")
        batch_size = min(training.batch_size, source.rows)
        steps = max(1, training.tokens // batch_size)
        return cls(name, steps, batch_size, stages, training.seed, device, checkpoint_seconds, processes)

    def part(self, group: range, *, pipelined: bool = False) -> Part:
        """What this process does in training a group of members; as `part_of`."""
        return part_of(group, self.processes, batch_size=self.batch_size, pipelined=pipelined)


@dataclass(frozen=True, slots=True)
class Target:
    """What the members of one stage learn to reconstruct: activations, or what finished stages leave of them.

    Attributes:
        source: Its batches are the target, unless ``frozen`` is given.
        mean_D: Mean of the target [D].
        scale: Factor that brings the target to E‖x‖² = D.
        stage: How many stages, or passes, are finished.
        first_member: Number of the first of the members that learn it.
        whole: Whether the ensemble so far is these members and ``frozen``, so that what it explains can be measured.
        frozen: Gives what finished stages reconstruct of a batch, which is still to be taken from it.
        variance: E‖a − E a‖² of the activations, where the source no longer gives them.
        seconds: What making the source cost; counted with the seconds of the stage.
        pipeline: Hands what each member leaves to the next one; without it all members have the same target.
    """

    source: Source
    mean_D: Tensor
    scale: float
    stage: int = 0
    first_member: int = 0
    whole: bool = True
    frozen: Callable[[Tensor], Tensor] | None = None
    variance: float | None = None
    seconds: float = 0.0
    pipeline: Pipeline | None = None

    @classmethod
    def activations(
        cls,
        source: Source,
        *,
        stage: int = 0,
        first_member: int = 0,
        whole: bool = True,
        pipeline: Pipeline | None = None,
    ) -> Self:
        """The activations themselves."""
        return cls(
            source, source.mean_D, source.scale, stage, first_member=first_member, whole=whole, pipeline=pipeline
        )


def train_stage(
    trainers: Sequence[Trainer],
    target: Target,
    plan: Plan,
    *,
    checkpoint: Path,
    progress: Progress = silent,
    part: Part | None = None,
) -> pd.DataFrame:
    """Train members to the end of their schedule, from the checkpoint on if there is one.

    A first Ctrl-C ends it at the next multiple of `REFRESH` steps, after a checkpoint; a second one ends it at once.

    Args:
        trainers: The members, of several processes those of this one; all are given the same batches.
        target: What they learn to reconstruct.
        plan: Steps, batch size and so on.
        checkpoint: Where the checkpoint lies.
        progress: Told the tokens done and the explained variance.
        part: What this process does of the stage; all of it, if not given.

    Returns:
        The training curves of all members.

    Raises:
        UserError: If the loss is no longer finite, or the checkpoint cannot be used.
        KeyboardInterrupt: After Ctrl-C.
    """
    pipeline, first = target.pipeline, target.first_member
    part = part or Part(range(first, first + len(trainers)))
    part.start_alike([parameter for trainer in trainers for parameter in trainer.sae.parameters()])
    start = load_checkpoint(checkpoint, trainers, part)
    if pipeline is not None and start.mean_square_J is not None:
        pipeline.mean_square_J.copy_(start.mean_square_J)
    measured_J = None if pipeline is None else pipeline.mean_square_J
    curves = Curves(
        first_member=part.members.start,
        members=len(trainers),
        rows=start.rows,
        variance=target.variance,
        whole=target.whole,
        part=part,
    )
    halved = False
    began, saved = time.perf_counter() - (start.seconds or target.seconds), time.perf_counter()
    batches = target.source.batches(batch_size=plan.batch_size, seed=plan.seed, first_step=start.step)
    ready = Prefetched(batches, count=plan.steps - start.step, device=plan.device, waiting=plan.waiting)
    with noting_interrupts() as interrupted, ready:
        for done in range(start.step + 1, plan.steps + 1):
            acts_BD = part.rows(next(ready))
            curves.add(acts_BD, *_step(trainers, acts_BD, target, part))
            if done % REFRESH and done != plan.steps:
                continue
            seconds = time.perf_counter() - began
            dead = torch.stack([trainer.dead_N.float().mean() for trainer in trainers]).tolist()
            rates = [trainer.learning_rate for trainer in trainers]
            tokens = done * plan.batch_size
            rows = curves.record(step=done, tokens=tokens, seconds=seconds, dead=dead, learning_rates=rates)
            tick = part.processes.together(lambda: _tick(rows, tokens, plan, target.stage))  # noqa: B023
            halved, was_halved = part.processes.any(any(trainer.halved for trainer in trainers))[0], halved
            failure = _told(progress, replace(tick, note=HALVED) if halved and not was_halved else tick)
            due = done < plan.steps and time.perf_counter() - saved >= plan.checkpoint_seconds
            stop, due = part.processes.any(failure is not None or interrupted.is_set(), due)
            if stop or due:
                save_checkpoint(checkpoint, trainers, Progressed(done, seconds, curves.rows, measured_J), part)
                saved = time.perf_counter()
            if stop:
                raise failure or KeyboardInterrupt
    return curves.table()


def _tick(rows: Sequence[Sequence[float]], tokens: int, plan: Plan, stage: int) -> Tick:
    """What there is to report after a number of tokens of a stage."""
    label = f"train {plan.name}" + (f", {plan.stage_name} {stage + 1} of {plan.stages}" if plan.stages > 1 else "")
    whole_stage = plan.steps * plan.batch_size
    figures, points = _figures(rows, label), [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    return Tick(label, stage * whole_stage + tokens, plan.stages * whole_stage, "tokens", figures, rows=points)


def _told(progress: Progress, tick: Tick) -> BaseException | None:
    """Report, and give back what whoever watches the progress has failed with: first a checkpoint is due."""
    try:
        progress(tick)
    except BaseException as error:
        return error
    return None


def _step(
    trainers: Sequence[Trainer], acts_BD: Tensor, target: Target, part: Part
) -> tuple[list[Tensor], list[Tensor], list[Outcome]]:
    """One step: the targets and the ensemble's errors, of each member or one for all, and what the members gave."""
    if target.pipeline is not None:
        return target.pipeline.step(trainers, acts_BD)
    with torch.no_grad():
        target_BD = (acts_BD if target.frozen is None else acts_BD - target.frozen(acts_BD)) * target.scale
    outcomes = [trainer.step(target_BD) for trainer in trainers]
    error = _total_error(target_BD, outcomes, part) if target.whole else target_BD.new_zeros(())
    return [target_BD], [error / target.scale**2], outcomes


def _total_error(targets_BD: Tensor, outcomes: Sequence[Outcome], part: Part) -> Tensor:
    """Σ‖a − whole‖², scaled: the mean of members side by side; of a boosted stage what its one member leaves."""
    if len(part.group) == 1:
        return outcomes[0].squared_error
    mean_BD = part.mean_members(torch.stack([outcome.recon_BD for outcome in outcomes]))
    return (targets_BD - mean_BD).square().sum()


def _figures(rows: Sequence[Sequence[float]], label: str) -> dict[str, float]:
    """What the progress shows: the mean L0 of the members, and the explained variance of the ensemble.

    Of an ensemble of which these members are only a part it is theirs, on average.
    """
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for loss, step in zip(table["loss"], table["step"], strict=True):
        if not math.isfinite(loss):
            raise UserError(
                f"The loss of {label} is {loss} at step {step:.0f}; lower training.learning_rate, or look for "
                "activations that are not finite."
            )
    total = float(table["explained_variance_total"].iloc[-1])
    explained = float(table["explained_variance"].mean()) if math.isnan(total) else total
    return {"explained variance": explained, "L0": float(table["l0"].mean())}
