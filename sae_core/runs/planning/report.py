"""A plan as text."""

from __future__ import annotations

from sae_core.runs.planning.plan import RunPlan, Total
from sae_core.runs.planning.stages import Stage

_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_COLUMNS = ("time", "FLOPs", "memory", "disk")


def table(plan: RunPlan) -> list[dict[str, str]]:
    """One row a column of the printed table, which stands on its side: time, FLOPs, memory, disk."""
    lines: dict[str, Stage | Total] = {stage.name: stage for stage in plan.stages}
    lines |= {"train, in all": plan.training, "everything": plan.whole}
    columns = [*_COLUMNS[:3], "GPU memory", "disk"] if plan.work.machine.gpu else list(_COLUMNS)
    return [{"": column, **{name: _cell(column, line) for name, line in lines.items()}} for column in columns]


def sentences(plan: RunPlan) -> list[str]:
    """What stands below the table."""
    work, whole, fits = plan.work, plan.whole, plan.fits
    machine = work.machine
    host = machine.host_memory if machine.gpu else machine.memory
    lines = [
        _fit("Memory", whole.memory, fits["memory"], host),
        _fit("Disk", whole.disk + whole.temporary, fits["disk"], machine.disk),
    ]
    if machine.gpu:
        lines.insert(1, _fit("GPU memory", whole.gpu_memory, fits["gpu_memory"], machine.memory))
    if whole.mapped:
        lines.append(f"Files read through memory fill up to {size(whole.mapped)} more of it, where it is free.")
    if plan.remedies:
        lines.append(f"To make it fit: {'; '.join(plan.remedies)}.")
    if work.places > 1:
        lines.append(f"All figures are those of {work.places} runs together, which read the text once.")
    if work.processes > 1:
        lines.append(
            f"Memory is that of the first of {work.processes} processes, each of which needs such a machine or GPU for "
            "itself; operations are those of all."
        )
    if dead := plan.help_for_dead:
        lines.append(
            f"If {dead['dead']:.0%} of the features were dead all the time, helping them (AuxK) would add "
            f"{duration(dead['seconds'])} and {_short(dead['flops']).strip()} operations to training."
        )
    if null := plan.noise_null:
        lines.append(
            f"evaluate --retrain would add {duration(null['seconds'])} and {_short(null['flops']).strip()} operations: "
            "it trains two SAEs on noise for each boosted stage but the first (not with --no-noise-null)."
        )
    lines += work.rates.remarks
    lines.append(f"Not counted: {'; '.join(plan.not_counted)}.")
    return lines


def size(bytes_: float) -> str:
    """Bytes, in units of 1000."""
    return f"{_short(bytes_)}B"


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def _cell(column: str, line: Stage | Total) -> str:
    match column:
        case "time":
            return duration(line.seconds)
        case "FLOPs":
            return _short(line.flops).strip() if line.flops else "–"
        case "memory":
            return size(line.memory)
        case "GPU memory":
            return size(line.gpu_memory) if line.gpu_memory else "–"
        case _:
            return size(line.disk) if line.disk else "–"


def _fit(what: str, need: int, fits: bool | None, there: int | None) -> str:
    if fits is None or there is None:
        return f"{what}: {size(need)} needed; how much there is is not known."
    verdict = "it fits" if fits else "IT DOES NOT FIT"
    return f"{what}: {size(need)} needed of {size(there)}; {verdict}."


def _short(number: float) -> str:
    for limit, unit in _UNITS:
        if number >= limit:
            value = number / limit
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{number:.0f} "
