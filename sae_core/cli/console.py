"""Draw progress and tables for the command line."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from sae_core.foundation.machine import launch
from sae_core.foundation.progress import Progress as ProgressCallback
from sae_core.foundation.progress import Tick, silent

# When several processes do the same work, only the first one prints.
errors = Console(stderr=True, highlight=False, soft_wrap=True, quiet=launch.is_another())
output = Console(highlight=False, quiet=launch.is_another())
WIDEST = 1000
"""Width of the widest table, in characters."""
LONGEST_HEAD = 12
"""Characters of a column's name that stand in one line."""
LINE_EVERY_SECONDS = 5.0
"""Seconds between two lines of progress if there is no terminal to redraw."""


def print_json(value: Any) -> None:
    """Print JSON to standard output, which carries nothing else."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def say(message: str) -> None:
    """Print a line to standard error, without interpreting markup."""
    errors.print(message, markup=False)


def complain(message: str) -> None:
    """Print an error that only this process, one of several, has seen."""
    sys.stderr.write(f"Error in process {launch.rank()}: {message}\n")


def print_rows(rows: Sequence[Mapping[str, str]], *, title: str) -> None:
    """Print rows that share their keys as a transposed table: each row becomes a column.

    There are many figures and few ensembles, so the transposed table fits a terminal of 80 characters.
    """
    names = list(rows[0])[1:] if rows else []
    table = Table(title=title, title_justify="left", header_style="bold", title_style="bold")
    # Names may take several lines, so that figures do not have to.
    table.add_column("", min_width=_widest(word for name in names for word in name.split()))
    for row in rows:
        head, *cells = row.values()
        lines = textwrap.wrap(head, LONGEST_HEAD, break_long_words=False)
        table.add_column(
            Text("\n".join(lines)), justify="right", no_wrap=True, min_width=_widest([*lines, *map(str, cells)])
        )
    for name in names:
        table.add_row(Text(name), *(Text(row[name]) for row in rows))
    _print_whole(table, Measurement.get(output, output.options.update(width=WIDEST), table).minimum)


def _widest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)


def print_table(rows: Sequence[Mapping[str, str]], *, title: str) -> None:
    """Print rows that share their keys as a table."""
    table = Table(title=title, title_justify="left", header_style="bold", title_style="bold")
    for head in rows[0] if rows else ():
        table.add_column(Text(head), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row.values()))
    _print_whole(table, Measurement.get(output, output.options.update(width=WIDEST), table).maximum)


def _print_whole(table: Table, needed: int) -> None:
    """Never cut a figure, even if the terminal is too narrow: without its last digits it looks like another one."""
    Console(highlight=False, quiet=output.quiet, width=max(output.width, needed)).print(table)


class _Rate(ProgressColumn):
    """Show the recent speed and the time left."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        left = "" if task.finished or task.total is None else f"  {_clock((task.total - task.completed) / speed)} left"
        return Text(f"{_short(speed)} {task.fields['unit']}/s{left}", style="cyan")


@contextmanager
def drawn_progress() -> Iterator[ProgressCallback]:
    """Yield a progress callback that draws bars in a terminal, and prints a line now and then elsewhere."""
    if errors.quiet:
        yield silent
        return
    if not errors.is_terminal:
        yield _Lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<26}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        _Rate(),
        TextColumn("{task.fields[figures]}", style="green", markup=False),
    )
    with Progress(*columns, console=errors) as bars:
        yield _Bars(bars)


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, tick: Tick) -> None:
        if tick.note:
            say(tick.note)
        if tick.stage not in self._tasks:
            # Earlier stages are finished, even if their last tick did not reach the total.
            for task in self._bars.tasks:
                self._bars.update(task.id, total=task.completed or 1, completed=task.completed or 1)
            self._tasks[tick.stage] = self._bars.add_task(tick.stage, total=None, unit=tick.unit, figures="")
        self._bars.update(
            self._tasks[tick.stage], completed=tick.done, total=tick.total or None, figures=_figures(tick.figures)
        )


class _Lines:
    def __init__(self) -> None:
        self._stage, self._started, self._printed, self._first = "", 0.0, -LINE_EVERY_SECONDS, 0.0

    def __call__(self, tick: Tick) -> None:
        if tick.note:
            say(tick.note)
        now = time.monotonic()
        if tick.stage != self._stage:
            self._stage, self._started, self._first = tick.stage, now, tick.done
            self._printed = now - LINE_EVERY_SECONDS
        finished = bool(tick.total) and tick.done >= tick.total
        if not finished and now - self._printed < LINE_EVERY_SECONDS:
            return
        self._printed = now
        speed = (tick.done - self._first) / (now - self._started) if now > self._started else 0.0
        parts = [tick.stage]
        if tick.total:
            parts.append(f"{100 * tick.done / tick.total:.0f} %")
        if speed > 0:
            parts.append(f"{_short(speed)} {tick.unit}/s")
            if tick.total and not finished:
                parts.append(f"{_clock((tick.total - tick.done) / speed)} left")
        say("  ".join([*parts, _figures(tick.figures)]).rstrip())


def _figures(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in figures.items())


def _short(number: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{suffix}"
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
