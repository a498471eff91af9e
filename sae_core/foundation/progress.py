"""How long jobs tell what they are doing; they never print."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tick:
    """One report of progress.

    Attributes:
        stage: What is being done, in a few words, e.g. ``train bagged``.
        done: Work done, in ``unit``.
        total: All the work, in ``unit``; 0 if unknown.
        unit: What is counted, e.g. ``tokens``.
        figures: Figures worth watching, e.g. ``{"explained variance": 0.91}``.
        note: A sentence that people should read, told once.
    """

    stage: str
    done: float
    total: float
    unit: str = "tokens"
    figures: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


Progress = Callable[[Tick], None]


def silent(tick: Tick) -> None:
    """A progress callback that does nothing."""
