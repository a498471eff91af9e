"""A figure: a number that people read, declared beside the code that computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from sae_core.foundation.numbers import MISSING, compact, decimal, is_missing, percent

Style = Callable[[Any], str]
"""How a number is written, with its unit."""


def plain(digits: int) -> Style:
    """How a number with so many decimals is written."""
    return lambda value: decimal(value, digits)


def percents(digits: int = 1) -> Style:
    """How a share is written."""
    return lambda value: percent(value, digits)


def spec(style: str, unit: str = "") -> Style:
    """How a number is written in a terminal, where figures stand below each other: by a format and with a unit."""
    return lambda value: MISSING if is_missing(value) else format(value, style) + unit


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of an ensemble that an evaluation measures.

    Attributes:
        key: The evaluation, and behind a dot the place in an ensemble's part of its file, dotted as well.
        title: Heading of its column in tables of all figures, where several may be alike; empty: it is in none.
        definition: What it is, for the tooltip of that heading.
        style: How pages write it.
        share: Whether it lies between 0 and 1, so that no interval goes further.
        better: Which direction is better; empty where neither is.
        spread: Whether pages show its interval.
        row: Its name in the rows of `summarize`, by default its place if a terminal, an overview or a sweep shows it;
            empty: it is not in them.
        ends: Whether these also hold its interval, as ``<row>_low`` and ``<row>_high``.
        line: Heading of its line in the terminal; empty: it has none.
        terminal: How the terminal writes it.
        overview: Heading of its column where ensembles are compared on the first page; empty: it has none.
        short: How that page and sentences write it, if otherwise than `style`.
        swept: Whether it is averaged over the seeds of a sweep.
        column: Heading of its column in the table of a sweep; empty: it has none.
        said: What sentences call it, and charts of the first members; empty: neither names it.
        compared: Whether a report says what an ensemble has above one SAE.
    """

    key: str
    title: str = ""
    definition: str = ""
    style: Style = compact
    _: KW_ONLY
    share: bool = False
    better: Literal["", "higher", "lower"] = ""
    spread: bool = True
    row: str = ""
    ends: bool = False
    line: str = ""
    terminal: Style = compact
    overview: str = ""
    short: Style | None = None
    swept: bool = False
    column: str = ""
    said: str = ""
    compared: bool = False

    def __post_init__(self) -> None:
        if not self.row and (self.line or self.overview or self.swept):
            object.__setattr__(self, "row", self.path)

    @property
    def source(self) -> str:
        """The evaluation that measures it."""
        return self.key.partition(".")[0]

    @property
    def path(self) -> str:
        """The place in an ensemble's part of that evaluation's file."""
        return self.key.partition(".")[2]

    def of(self, own: Mapping[str, Any]) -> float | None:
        """Its value in an ensemble's part of a file; None where it was not measured."""
        value = reach(own, self.path)
        return None if isinstance(value, str) else value

    def interval(self, own: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """Its 95 % interval there, in the entry ``<path>_interval``; (None, None) without one."""
        low, high = reach(own, f"{self.path}_interval") or (None, None)
        return low, high

    def cells(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Its part of a row of `summarize`, with the ends of its interval; nothing where it has no name there."""
        if not self.row:
            return {}
        low, high = self.interval(own)
        ends = {f"{self.row}_low": low, f"{self.row}_high": high} if self.ends else {}
        return {self.row: self.of(own), **ends}


def reach(content: Mapping[str, Any], path: str) -> Any:
    """What stands at a dotted path of nested mappings; None where nothing does."""
    value: Any = content
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def cells(figures: tuple[Figure, ...], own: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Parts of a row of `summarize`, figure by figure, from an ensemble's part of each evaluation."""
    return {name: value for figure in figures for name, value in figure.cells(own[figure.source]).items()}


def titled(*figures: Figure) -> tuple[Figure, ...]:
    """Those that tables of all figures show."""
    return tuple(figure for figure in figures if figure.title)


def of_control(figure: Figure, **changes: Any) -> Figure:
    """The same figure of stage 1 and random stages, from the file of the control; shown only where ``changes`` say."""
    same = {name: getattr(figure, name) for name in ("title", "definition", "style", "share", "better", "ends")}
    own = {"key": f"control.{figure.path}", "row": f"control_{figure.row}", "terminal": figure.terminal}
    return Figure(**{**same, **own, **changes})
