"""Report the progress of long jobs to a callback; the jobs themselves never print."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tick:
    """One report of progress.

    Attributes:
        stage: The work in a few words, e.g. ``train bagged``.
        done: The work done so far, in ``unit``.
        total: All the work, in ``unit``; 0 if unknown.
        unit: The unit of work, e.g. ``tokens``.
        figures: Figures worth watching, e.g. ``{"explained variance": 0.91}``.
        note: A sentence for people to read, sent once.
        rows: In training, the newest point of each member's curves, with the names of `training.curves.COLUMNS`.
    """

    stage: str
    done: float
    total: float
    unit: str = "tokens"
    figures: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    rows: Sequence[Mapping[str, float]] = ()


Progress = Callable[[Tick], None]


def silent(tick: Tick) -> None:
    """Ignore all progress: the callback for callers who want none."""
