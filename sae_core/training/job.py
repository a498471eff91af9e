"""The training of one ensemble: what it learns, from what and where it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
from torch import Tensor

from sae_core.ensembles.coder import Coder
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.files.whole_files import write_table
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.method import Method, One, Several
from sae_core.foundation.progress import Progress, Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.training.checkpoint import remove_checkpoint
from sae_core.training.distribution import Part
from sae_core.training.members import make_trainer
from sae_core.training.residuals import Residuals
from sae_core.training.source import Source
from sae_core.training.stage import Plan, Target, train_stage
from sae_core.training.step import Trainer


@dataclass(frozen=True, slots=True)
class Job:
    """An ensemble that is to be trained.

    Attributes:
        settings: The settings.
        method: The method.
        layout: What is trained: all that the method trains, or a member of it that is an ensemble.
        folder: Where the ensemble and its checkpoint lie.
        source: The activations.
        plan: How it is trained.
        progress: Told the tokens done.
        before: Finished stages whose reconstruction is taken from the activations first.
        residuals: Gives what these leave.
        is_member: Whether it is a member of another ensemble.
        run: The run, whose finished ensembles may hold an SAE of this one already; None without a run.
        given: Without a run, the member that is not trained.
    """

    settings: RunSettings
    method: Method
    layout: Several
    folder: EnsembleFolder
    source: Source
    plan: Plan
    progress: Progress
    before: tuple[Coder, ...] = ()
    residuals: Residuals | None = None
    is_member: bool = False
    run: Run | None = None
    given: Coder | None = None

    @property
    def ones(self) -> list[One]:
        """The SAEs."""
        return list(self.layout.ones())

    def target(self, stage: int, first_member: int, *, whole: bool = True, after: Sequence[Coder] = ()) -> Target:
        """What members learn: the activations, or what is left of them after finished members."""
        before = [*self.before, *after]
        target = Target.activations(self.source) if self.residuals is None else self.residuals.after(before)
        return replace(target, stage=stage, first_member=first_member, whole=whole)

    def with_residuals(self) -> Job:
        """With residuals of its own."""
        training = self.settings.training
        options: dict[str, Any] = {"wanted": training.residuals, "kernels": training.kernels}
        made = Residuals(self.source, self.plan, folder=self.folder.checkpoint, progress=self.progress, **options)
        return replace(self, residuals=made)

    def member(self, number: int, after: Sequence[Coder]) -> Job:
        """The training of a member that is an ensemble, on what finished members leave."""
        members, progress = len(self.layout.members), self.progress

        def tell(tick: Tick) -> None:
            if tick.stage.startswith("train"):
                tick = replace(tick, done=number * tick.total + tick.done, total=members * tick.total)
            progress(tick)

        return replace(
            self,
            layout=cast(Several, self.layout.members[number]),
            folder=self.folder.inner(number),
            plan=replace(self.plan, name=f"{self.plan.name}, member {number + 1} of {members}", stages=1),
            progress=tell,
            before=(*self.before, *after),
            is_member=True,
        )

    def trainer(self, one: One, target: Target, part: Part, mean_D: Tensor | None = None) -> Trainer:
        """A fresh SAE for a target, whose mean is given where it is not the target's."""
        settings = self.settings.model_copy(update={"sae": one.sae})
        mean_D = target.mean_D * target.scale if mean_D is None else mean_D
        options: dict[str, Any] = {"member": one.number, "width": one.sae.width, "biased": one.biased}
        return make_trainer(settings, mean_D, self.plan, **options, part=part)

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

    def ensemble(self, members: Sequence[Coder]) -> Ensemble:
        """The trained ensemble; one that is a member is called by its wiring alone."""
        return Ensemble(members, wiring=self.layout.wiring, method="" if self.is_member else self.method.name)
