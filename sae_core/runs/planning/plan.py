"""A plan: all stages of a run with totals, whether they fit, what to change if not, and what is not counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sae_core.activations.stages import ACTIVATIONS
from sae_core.foundation.machine.device import resolve_device
from sae_core.foundation.methods import EVERY
from sae_core.foundation.progress import Progress, silent
from sae_core.foundation.settings.architectures import fixes_l0
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.foundation.stages import Stage
from sae_core.runs.planning.machines import FOUND, UTILISATION, find_machine, this_machine
from sae_core.runs.planning.reading import find_source
from sae_core.runs.planning.trial import Measured, declared, entries, measure
from sae_core.runs.planning.work import Work
from sae_core.training.declared import TRAIN
from sae_core.training.operations import FLOAT, SAEShape

LIBRARIES = 12 * 10**8
"""Bytes that a process has taken once all libraries are imported and have worked a little, where none was measured."""
DISK = 10**9
"""Bytes a second that a disk is taken to read or write when it shuffles."""
NOT_COUNTED = (
    "downloads, and reading an activation cache that is larger than the free memory from the disk in every pass",
    "writing checkpoints; and if this is the first plan in an environment, that the run will find loops compiled",
)
DEAD = 0.1
"""Share of dead features for which the cost of helping them is given; how many there will be shows only later."""
LENGTH = 160
"""Tokens of English passages, where no text was read."""


@dataclass(frozen=True, slots=True)
class Row:
    """A stage of a plan, for all its ensembles, or several stages together.

    Attributes:
        name: Its name.
        part: The command that does it: train, index or evaluate.
        seconds: How long it takes; what another method has done already is not in it.
        flops: Operations of dense products.
        memory: Bytes of memory that it needs, beside a GPU's.
        mapped: Bytes of files that it reads through memory; the system takes them back when it needs to.
        gpu_memory: Bytes of a GPU's memory.
        disk: Bytes that it leaves on disk.
        temporary: Bytes that it needs on disk besides.
    """

    name: str
    part: str
    seconds: float = 0.0
    flops: int = 0
    memory: int = 0
    mapped: int = 0
    gpu_memory: int = 0
    disk: int = 0
    temporary: int = 0

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Row:
        """Rows together: times, operations and files add up; memory and temporary files are those of the largest."""
        sums = {name: sum(getattr(row, name) for row in rows) for name in ("seconds", "flops", "disk")}
        largest = ("memory", "mapped", "gpu_memory", "temporary")
        return cls(
            rows[0].name, rows[0].part, **sums, **{name: max(getattr(row, name) for row in rows) for name in largest}
        )


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run will take.

    Attributes:
        work: What was planned, and where.
        stages: Its stages, in order.
        measured: Whether the machine was measured.
        remarks: What could only be estimated.
    """

    work: Work
    stages: list[Row]
    measured: bool
    remarks: list[str]

    @property
    def training(self) -> Row:
        """What the command train takes."""
        return Row.of([stage for stage in self.stages if stage.part == "train"])

    @property
    def whole(self) -> Row:
        """What everything takes."""
        return Row.of(self.stages)

    @property
    def help_for_dead(self) -> dict[str, float] | None:
        """What helping dead features (AuxK) would add if `DEAD` of them were dead all the time; None if there is none.

        Its operations take as long as others of training; both come on top of the totals.
        """
        work, flops = self.work, 0.0
        for method in work.settings.training.methods:
            sizes = work.sizes(method)
            tokens = max(0, sizes.trained - work.settings.sae.dead_after_tokens)
            sae = SAEShape.of(work.settings.sae, sizes.d_in)
            flops += tokens * sae.help_flops(round(DEAD * sizes.features)) * work.places
        if not flops or not work.settings.sae.aux_coefficient:
            return None
        trained = Row.of([row for row in self.stages if row.name.startswith("train ")])
        return {"dead": DEAD, "flops": flops, "seconds": flops * trained.seconds / trained.flops}

    @property
    def noise_null(self) -> dict[str, float] | None:
        """What `evaluate --retrain` would add: two SAEs trained on noise for each later stage; None without stages."""
        work, seconds, flops = self.work, 0.0, 0.0
        rows = {row.name: row for row in self.stages}
        for method in work.settings.training.methods:
            sizes, row, ones = work.sizes(method), rows[f"train {method}"], len([*work.layout(method).ones()])
            if sizes.staged:
                later = 2 * (1 - 1 / work.layout(method).stages) * ones / (ones - work.copies_first(method))
                mixing = 2 * sizes.d_in**2 * sizes.trained * len(sizes.widths)
                seconds += later * row.seconds
                flops += later * (row.flops + work.places * mixing)
        return {"seconds": seconds, "flops": flops} if flops else None

    @property
    def not_counted(self) -> list[str]:
        """What the figures leave out."""
        work = self.work
        found = list(NOT_COUNTED)
        if self.help_for_dead:
            found.append("help for dead features (AuxK), of which there may be more or fewer than a tenth")
        if work.processes > 1:
            found.append("what processes send each other and wait for, and merging the parts of the index")
        if work.places > 1 and work.streams:
            found.append("that lower layers are reached sooner when the model is run again in every pass")
        if not fixes_l0(work.settings.sae.architecture):
            found.append("how many features will be active, which a penalty decides; sae.k stands in for it")
        return found

    @property
    def needs(self) -> dict[str, tuple[int, int | None]]:
        """Bytes that are needed, and that are there, if that is known: in memory, in a GPU's memory, on the disk."""
        machine, whole = self.work.machine, self.whole
        return {
            "memory": (whole.memory, machine.host),
            "gpu_memory": (whole.gpu_memory, machine.memory if machine.gpu else None),
            "disk": (whole.disk + whole.temporary, machine.disk),
        }

    @property
    def fits(self) -> dict[str, bool | None]:
        """Whether it fits in memory, in a GPU's memory and on the disk; None where a size is unknown."""
        return {name: None if there is None else need <= there for name, (need, there) in self.needs.items()}

    @property
    def remedies(self) -> list[str]:
        """What to change where it does not fit."""
        settings, fits = self.work.settings, self.fits
        found = []
        if fits["disk"] is False:
            if settings.data.storage == "disk":
                found.append("--set data.storage=stream keeps no activations of the training text on disk")
                found.append("a smaller data.train_tokens keeps fewer of them and goes over them more often")
            if any(self.work.boosting(name) == "cached" for name in settings.training.methods):
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
        parameters = {
            method: sum(SAEShape.of(one.sae, work.model.d_model).parameters for one in work.layout(method).ones())
            for method in training.methods
        }
        return {
            "machine": asdict(work.machine),
            "measured": self.measured,
            "processes": work.processes,
            "runs": work.places,
            "model": {"name": self.origin, **asdict(work.model)},
            "training": {
                "tokens": work.steps * work.batch,
                "steps": work.steps,
                "members": training.members,
                "parameters": parameters,
            },
            "stages": [asdict(stage) for stage in self.stages],
            "totals": {"train": asdict(self.training), "all": asdict(self.whole)},
            "fits": self.fits,
            "remedies": self.remedies,
            "help_for_dead": self.help_for_dead,
            "noise_null": self.noise_null,
            "remarks": self.remarks,
            "not_counted": self.not_counted,
        }

    @property
    def origin(self) -> str:
        """The model, or what else activations come from."""
        settings = self.work.settings
        return settings.model.name if settings.origin.reads_text else settings.origin.title


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
        machine: A name of `MACHINES`, or `FOUND` for the machine at hand, which is measured for about a minute.
        folder: The run folder; it need not be there.
        processes: Those that train and index together, each on such a machine.
        places: Layers and sites for each of which there will be a run; the settings are those of the last layer.
        progress: Told the trials.

    Raises:
        UserError: If there is no such machine, model or text.
    """
    if machine == FOUND:
        here = this_machine(resolve_device(settings.training.device), folder)
        measured = measure(Work(settings, find_source(settings), here, processes, places), folder, progress)
        return RunPlan(measured.work, planned_rows(measured.work, measured), True, measured.remarks)
    named, model = find_machine(machine), find_source(settings)
    length = min(settings.model.context, LENGTH) * settings.origin.reads_text
    work = Work(settings, model, named, processes, places, length)
    remark = (
        f"Nothing was measured: times are from public figures of the {named.name} at {UTILISATION:.0%} of its peak "
        "rates, without imports, and may be off by a factor of two. Run plan there without --machine to measure."
    )
    return RunPlan(work, planned_rows(work), False, [remark])


def planned_rows(work: Work, measured: Measured | None = None) -> list[Row]:
    """Everything that the commands train, index and evaluate do, in order; by public figures if nothing is measured."""
    rows: dict[str, Row] = {}
    for stage, key, names in entries(work.settings):
        alone = stage is TRAIN or stage.command == "evaluate"
        row = _row(key.replace("/", " ") if alone else stage.name, work, stage, key, names, measured)
        rows[row.name] = Row.of([rows[row.name], row]) if row.name in rows else row
        if stage is ACTIVATIONS and work.shuffled_on_disk:
            drawn = work.rows * work.row_bytes
            seconds, files = work.places * 2 * drawn / DISK, {"mapped": drawn, "temporary": drawn}
            rows["shuffle"] = Row("shuffle on disk", "train", seconds=seconds, memory=row.memory, **files)
    return list(rows.values())


def _row(name: str, work: Work, stage: Stage[Any], key: str, names: Sequence[str], measured: Measured | None) -> Row:
    """A stage of the ensembles that are named."""
    sizes = [work.sizes(each) for each in names]
    if measured:
        once, pace = measured.lines[key]
        seconds = once + pace * declared(work, stage, names)
        base = measured.peaks[stage.command] - _held(measured.first, stage, names)
    else:
        low = stage.command == "train" and work.settings.training.precision != "float32"
        seconds = sum(work.machine.seconds(stage, each, low=low and work.machine.gpu) for each in sizes)
        base = LIBRARIES
    gathers = stage.command == "train" and stage is not TRAIN  # once for all places
    seconds *= work.share(names[0]) if stage is TRAIN else 1 / work.processes if stage.shared else 1.0
    runs = 1 if gathers else work.places
    row = Row(
        name,
        stage.command,
        seconds=seconds * runs,
        flops=round(sum(map(stage.flops, sizes))) * runs,
        memory=round(max(0, base) + _held(work, stage, names)),
        gpu_memory=(work.model_bytes + 2**28) * work.machine.gpu * gathers,
        disk=round(sum(map(stage.written, sizes)) * (measured.files[key] if measured else 1.0)) * work.places,
    )
    if stage is TRAIN:
        needs = work.training_bytes(names[0])
        gpu_memory, mapped, temporary = (needs[each] for each in ("gpu_memory", "mapped", "temporary"))
        return replace(row, gpu_memory=gpu_memory, mapped=mapped, temporary=temporary)
    # The index, which processes share, is what most stages read.
    indexed = FLOAT * 2 * max(size.entries for size in sizes)
    reads = max(size.indexed * size.d_in * size.itemsize for size in sizes) * stage.reads_activations
    mapped = reads or indexed * any(need.shared is not None for need in stage.needs)
    return replace(row, mapped=mapped, temporary=indexed * (stage.shared is not None))


def _held(work: Work, stage: Stage[Any], names: Sequence[str]) -> float:
    """Bytes of memory that a stage holds beside what its process has."""
    if stage is TRAIN:
        return work.training_bytes(names[0])["memory"]
    sizes = [work.sizes(each) for each in names]
    weights = sum(2 * FLOAT * each.parameters for each in sizes) * (stage.command != "train")
    return weights + max(map(stage.memory, sizes))
