"""A plan: all stages of a run with totals, whether they fit, what to change if not, and what is not counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sae_core.activations.origins.language_model.model.finding_shape import find_shape
from sae_core.foundation.machine.device import resolve_device
from sae_core.foundation.methods import EVERY
from sae_core.foundation.progress import Progress, silent
from sae_core.foundation.settings.architectures import fixes_l0
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.runs.planning.evaluation_stages import stages_of_evaluating
from sae_core.runs.planning.index_stages import stages_of_indexing
from sae_core.runs.planning.machines import FOUND, find_machine, this_machine
from sae_core.runs.planning.rates import named_rates
from sae_core.runs.planning.stages import Stage, Work
from sae_core.runs.planning.train_stages import help_flops, noise_null, stages_of_training
from sae_core.training.operations import residual_bytes

NOT_COUNTED = (
    "downloads, and reading an activation cache that is larger than the free memory from the disk in every pass",
    "the time in which libraries but UMAP are imported, and training compiled",
)
DEAD = 0.1
"""Share of dead features for which the cost of helping them is given; how many there will be shows only later."""


@dataclass(frozen=True, slots=True)
class Total:
    """What stages take together: times, operations and files add up, memory is that of the largest.

    Attributes:
        seconds: Of all stages.
        flops: Of all stages.
        memory: At the highest.
        mapped: At the highest.
        gpu_memory: At the highest.
        disk: What they leave.
        temporary: The most that one needs besides.
    """

    seconds: float
    flops: int
    memory: int
    mapped: int
    gpu_memory: int
    disk: int
    temporary: int

    @classmethod
    def of(cls, stages: Sequence[Stage]) -> Total:
        """The total of some stages."""
        return cls(
            seconds=sum(stage.seconds for stage in stages),
            flops=sum(stage.flops for stage in stages),
            memory=max(stage.memory for stage in stages),
            mapped=max(stage.mapped for stage in stages),
            gpu_memory=max(stage.gpu_memory for stage in stages),
            disk=sum(stage.disk for stage in stages),
            temporary=max(stage.temporary for stage in stages),
        )


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run will take.

    Attributes:
        work: What was planned, where, and with which rates.
        stages: Its stages, in order.
    """

    work: Work
    stages: list[Stage]

    @property
    def training(self) -> Total:
        """What the command train takes."""
        return Total.of([stage for stage in self.stages if stage.part == "train"])

    @property
    def whole(self) -> Total:
        """What everything takes."""
        return Total.of(self.stages)

    @property
    def help_for_dead(self) -> dict[str, float] | None:
        """What helping dead features (AuxK) would add if `DEAD` of them were dead all the time; None if there is none.

        Seconds are those of its products; they come on top of the totals.
        """
        flops = help_flops(self.work, share=DEAD)
        seconds = flops * self.work.rates.flop / self.work.processes
        return {"dead": DEAD, "flops": flops, "seconds": seconds} if flops else None

    @property
    def noise_null(self) -> dict[str, float] | None:
        """What `evaluate --retrain` would add by training SAEs on noise; None where no ensemble has later stages."""
        found = noise_null(self.work)
        return None if found is None else {"seconds": found[0], "flops": found[1]}

    @property
    def not_counted(self) -> list[str]:
        """What the figures leave out."""
        work, training = self.work, self.work.settings.training
        found = list(NOT_COUNTED)
        if self.help_for_dead:
            found.append("help for dead features (AuxK), of which there may be more or fewer than a tenth")
        if work.processes > 1:
            found.append("what processes send each other and wait for, and merging the parts of the index")
        if training.member_k:
            found.append("what other k do to indexing and to running finished stages")
        if work.places > 1 and work.streamed:
            found.append("that lower layers are reached sooner when the model is run again in every pass")
        if not fixes_l0(work.settings.sae.architecture):
            found.append("how many features will be active, which a penalty decides; sae.k stands in for it")
        return found

    @property
    def fits(self) -> dict[str, bool | None]:
        """Whether it fits in memory, in a GPU's memory and on the disk; None where a size is unknown."""
        machine, whole = self.work.machine, self.whole
        host = machine.host_memory if machine.gpu else machine.memory
        return {
            "memory": _within(whole.memory, host),
            "gpu_memory": _within(whole.gpu_memory, machine.memory) if machine.gpu else None,
            "disk": _within(whole.disk + whole.temporary, machine.disk),
        }

    @property
    def remedies(self) -> list[str]:
        """What to change where it does not fit."""
        settings, fits = self.work.settings, self.fits
        found = []
        if fits["disk"] is False:
            if settings.data.storage == "disk":
                found.append("--set data.storage=stream keeps no activations of the training text on disk")
                found.append("a smaller data.train_tokens keeps fewer of them and goes over them more often")
            residuals = residual_bytes(self.work.rows, self.work.shape.d_model)
            staged = [f"train {name}" for name in settings.training.methods if self.work.stages_of(name) > 1]
            if any(stage.temporary >= residuals for stage in self.stages if stage.name in staged):
                found.append("--set training.residuals=recomputed keeps no residuals")
            found.append("a smaller data.index_tokens makes a smaller index")
        if fits["memory"] is False or fits["gpu_memory"] is False:
            found.append(
                "torchrun on more GPUs or machines, over which members are spread (--processes plans for them)"
            )
            found.append("a smaller --width, or a smaller training.batch_size")
            if wide := [name for name in settings.training.methods if EVERY[name].size]:
                found.append(f"--methods without {' and '.join(wide)}, which is as wide as all members together")
        return found

    def as_json(self) -> dict[str, Any]:
        """The plan as plain values; seconds, bytes and operations."""
        work, training = self.work, self.work.settings.training
        return {
            "machine": asdict(work.machine),
            "measured": work.rates.measured,
            "processes": work.processes,
            "runs": work.places,
            "model": {"name": work.settings.model.name, **asdict(work.shape)},
            "training": {
                "tokens": work.trained_tokens,
                "steps": work.steps,
                "members": training.members,
                "parameters": {method: sum(m.parameters for m in work.members(method)) for method in training.methods},
            },
            "stages": [asdict(stage) for stage in self.stages],
            "totals": {"train": asdict(self.training), "all": asdict(self.whole)},
            "fits": self.fits,
            "remedies": self.remedies,
            "help_for_dead": self.help_for_dead,
            "noise_null": self.noise_null,
            "remarks": list(work.rates.remarks),
            "not_counted": self.not_counted,
        }


def make_plan(
    settings: RunSettings,
    *,
    machine: str,
    folder: Path,
    processes: int = 1,
    places: int = 1,
    progress: Progress = silent,
) -> RunPlan:
    """Plan a run. Nothing is left on disk, no model is downloaded.

    Args:
        settings: The settings.
        machine: A name of `MACHINES`, or `FOUND` for the machine at hand, which is measured for some seconds.
        folder: The run folder; it need not be there.
        processes: Those that train and index together, each on such a machine.
        places: Layers and sites for each of which there will be a run; the settings are those of the last layer.
        progress: Told the seconds that were spent on measuring.

    Raises:
        UserError: If there is no such machine, model or text.
    """
    named = None if machine == FOUND else find_machine(machine)
    shape = find_shape(settings.model)
    if named is not None:
        named_speed = named_rates(named, settings, shape, processes=processes)
        return _planned(Work(settings, shape, named, named_speed, processes, places))
    device = resolve_device(settings.training.device)
    found = this_machine(device, folder)
    from sae_core.runs.planning.calibration import calibrate  # imports all that will run

    rates = calibrate(settings, shape, device=device, folder=folder, processes=processes, progress=progress)
    return _planned(Work(settings, shape, found, rates, processes, places))


def _planned(work: Work) -> RunPlan:
    return RunPlan(work, stages_of(work))


def stages_of(work: Work) -> list[Stage]:
    """Everything that the commands train, index and evaluate do, in order."""
    later = [*stages_of_indexing(work), *stages_of_evaluating(work)]
    return [*stages_of_training(work), *map(work.for_all_places, later)]


def _within(need: int, there: int | None) -> bool | None:
    return None if there is None else need <= there
