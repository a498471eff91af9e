"""A plan as text."""

from __future__ import annotations

from sae_core.foundation.numbers import MISSING, compact, size
from sae_core.foundation.numbers import seconds as duration
from sae_core.runs.planning.plan import Row, RunPlan


def table(plan: RunPlan) -> list[dict[str, str]]:
    """One row a column of the printed table, which stands on its side: time, FLOPs, memory, disk."""
    lines: dict[str, Row] = {stage.name: stage for stage in plan.stages}
    lines |= {"train, in all": plan.training, "everything": plan.whole}
    columns = ["time", "FLOPs", "memory", *["GPU memory"] * plan.work.machine.gpu, "disk"]
    return [{"": column, **{name: _cell(column, line) for name, line in lines.items()}} for column in columns]


def sentences(plan: RunPlan) -> list[str]:
    """What stands below the table."""
    work, whole = plan.work, plan.whole
    titles = {"memory": "Memory", **({"gpu_memory": "GPU memory"} if work.machine.gpu else {}), "disk": "Disk"}
    lines = [_fit(title, *plan.needs[name]) for name, title in titles.items()]
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
            f"{duration(dead['seconds'])} and {compact(dead['flops'])} operations to training."
        )
    if null := plan.noise_null:
        lines.append(
            f"evaluate --retrain would add {duration(null['seconds'])} and {compact(null['flops'])} operations: "
            "it trains two SAEs on noise for each boosted stage but the first (not with --no-noise-null)."
        )
    lines += plan.remarks
    lines.append(f"Not counted: {'; '.join(plan.not_counted)}.")
    return lines


def _cell(column: str, row: Row) -> str:
    memory = {"memory": row.memory, "GPU memory": row.gpu_memory, "disk": row.disk}
    if column in memory:
        return size(memory[column]) if memory[column] else MISSING
    if column == "time":
        return duration(row.seconds)
    return compact(row.flops) if row.flops else MISSING


def _fit(what: str, need: int, there: int | None) -> str:
    if there is None:
        return f"{what}: {size(need)} needed; how much there is is not known."
    return f"{what}: {size(need)} needed of {size(there)}; {'it fits' if need <= there else 'IT DOES NOT FIT'}."
