"""Show the progress of long jobs where the caller sits: bars in a notebook or a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

from sae_core.cli.console import drawn_progress
from sae_core.foundation.colours import MORE
from sae_core.foundation.errors import UserError, short
from sae_core.foundation.numbers import compact, decimal
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.report.html import Html, element
from sae_core.report.pieces.cards import bar
from sae_core.report.pieces.style import notebook_style

SECONDS = 0.25
"""Least time between two drawings in a notebook."""


def of_rows(progress: Progress) -> Progress:
    """The same callback, told of rows where jobs speak of tokens and texts."""

    def tell(tick: Tick) -> None:
        unit = "rows" if tick.unit in ("tokens", "texts") else tick.unit
        progress(replace(tick, stage=tick.stage.replace("texts", "rows"), unit=unit))

    return tell


@contextmanager
def watched(progress: Progress | bool) -> Iterator[Progress]:
    """A callback for progress: the given one, one that draws, or for False one that does nothing."""
    if not isinstance(progress, bool) and not callable(progress):
        raise UserError(f"progress is {short(repr(progress))}; give True, False or a function that is told.")
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield silent
    elif (display := _notebook()) is not None:
        drawing = _Drawing(display)
        try:
            yield drawing
        finally:
            drawing.draw()
    else:
        with drawn_progress() as drawn:
            yield drawn


def _notebook() -> Any:
    """`IPython.display.display` if a notebook's kernel runs this; else None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return import_module("IPython.display").display


class _Drawing:
    """An output of a notebook that is drawn anew: a bar for each piece of work, and what it has said."""

    def __init__(self, display: Any) -> None:
        self._latest: dict[str, Tick] = {}
        self._notes: list[str] = []
        self._drawn = time.monotonic()
        self._handle = display(self._shown(), display_id=True)

    def __call__(self, tick: Tick) -> None:
        self._latest[tick.stage] = tick
        if tick.note:
            self._notes.append(tick.note)
        if time.monotonic() - self._drawn >= SECONDS:
            self.draw()

    def draw(self) -> None:
        self._drawn = time.monotonic()
        self._handle.update(self._shown())

    def _shown(self) -> _Shown:
        rows = [piece for tick in self._latest.values() for piece in _row(tick)]
        notes = [element("p", note, kind="note") for note in self._notes]
        html = notebook_style() + element("div", *rows, *notes, kind="sae bars")
        return _Shown(html, ", ".join(f"{tick.stage} {_share(tick):.0%}" for tick in self._latest.values()))


class _Shown:
    """HTML that a notebook shows as it is, and a text for whoever shows none."""

    def __init__(self, html: str, text: str) -> None:
        self._html, self._text = html, text

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self._html


def _share(tick: Tick) -> float:
    return min(1.0, tick.done / tick.total) if tick.total else 0.0


def _row(tick: Tick) -> tuple[Html, Html, Html]:
    share = _share(tick)
    figures = " · ".join(f"{name} {decimal(value)}" for name, value in tick.figures.items())
    said = f"{compact(tick.done)} of {compact(tick.total)} {tick.unit}" if tick.total else compact(tick.done)
    title = " · ".join(filter(None, (said, figures)))
    return (
        element("span", f"{tick.stage}: {title}", kind="t"),
        element("span", f"{share:.0%}", kind="n"),
        bar(100 * share, MORE, title=title),
    )
