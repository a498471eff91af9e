"""Charts as inline SVG, drawn with the page's own colours and type, so that they follow its theme and print sharply.

Two kinds serve everything: lines over numbers, and dots with intervals in named rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from sae_core.report.html import Html, element, figure

WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 12, 46
ROW, NAMES = 24, 158
TICKS = 5


@dataclass(frozen=True, slots=True)
class Point:
    """One point.

    Attributes:
        x: Its place along the lower axis.
        y: Its value.
        low: From where the interval goes; None without one.
        high: To where.
        title: What is said when someone points at it.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    title: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one kind.

    Attributes:
        name: What the legend calls them.
        color: CSS colour.
        points: The points.
        joined: Whether a line joins them.
        dashed: Whether that line is dashed.
        marked: Whether a dot stands at each point.
    """

    name: str
    color: str
    points: Sequence[Point]
    joined: bool = True
    dashed: bool = False
    marked: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A named row of dots.

    Attributes:
        name: What stands before it.
        color: CSS colour.
        value: The figure.
        low: From where its interval goes; None without one.
        high: To where.
        mark: Another value to compare with, drawn as a hollow dot; None without one.
    """

    name: str
    color: str
    value: float
    low: float | None = None
    high: float | None = None
    mark: float | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis.

    Attributes:
        title: Name and unit.
        text: How a tick is written.
        log: Whether the scale is logarithmic.
        whole: Whether only whole numbers get ticks.
        include: Values that have to be on it.
    """

    title: str
    text: Callable[[float], str] = field(default=lambda value: f"{value:g}")
    log: bool = False
    whole: bool = False
    include: Sequence[float] = ()


def point(x: float | None, found: Mapping[str, Any] | None, title: str = "") -> list[Point]:
    """A figure with its interval as a point; none where its place or its mean is missing."""
    if x is None or found is None or found["mean"] is None:
        return []
    return [Point(x, found["mean"], found.get("low"), found.get("high"), title)]


def drawn(title: str, series: Sequence[Series], x: Axis, y: Axis, caption: str, *, label: str = "") -> Html:
    """A chart of lines over numbers with its title and caption; nothing without points.

    Args:
        title: Its title.
        series: What is drawn; series without points are left out.
        x: The lower axis.
        y: The left axis.
        caption: What it shows.
        label: The same for those who cannot see it; the title by default.
    """
    return figure(title, lines(series, x, y, label=label or title), caption)


def lines(series: Sequence[Series], x: Axis, y: Axis, *, label: str) -> Html:
    """The lines of `drawn`."""
    series = [each for each in series if each.points]
    if not series:
        return Html()
    points = [point for each in series for point in each.points]
    across = _Scale(x, [point.x for point in points], LEFT, WIDTH - RIGHT)
    up = _Scale(y, _room([(point.y, point.low, point.high) for point in points]), HEIGHT - BOTTOM, TOP)
    parts = [*_grid(across, up)]
    for each in series:
        if each.joined and len(each.points) > 1:
            path = " ".join(f"{across(point.x):.1f},{up(point.y):.1f}" for point in each.points)
            dash = ' stroke-dasharray="5 4"' if each.dashed else ""
            parts.append(f'<polyline points="{path}" fill="none" stroke="{each.color}" stroke-width="2"{dash}/>')
        for point in each.points if each.marked else ():
            place = across(point.x)
            if point.low is not None and point.high is not None:
                parts.append(_bar(place, up(point.low), place, up(point.high), each.color))
            title = f"<title>{escape(point.title)}</title>" if point.title else ""
            parts.append(
                f'<circle cx="{place:.1f}" cy="{up(point.y):.1f}" r="4.5" fill="{each.color}">{title}</circle>'
            )
    return _figure("".join(parts), WIDTH, HEIGHT, label, list(map(_key, series)))


def dots(rows: Sequence[Row], x: Axis, *, label: str, mark: str = "", line: float | None = None) -> Html:
    """A chart of named rows, each a dot with its interval.

    Args:
        rows: The rows, from above.
        x: The axis of their values.
        label: What the chart shows, for those who cannot see it.
        mark: What the hollow dots are.
        line: A value at which a dashed line stands, e.g. chance.
    """
    if not rows:
        return Html()
    height = TOP + ROW * len(rows) + BOTTOM
    values = _room([(row.value, row.low, row.high) for row in rows])
    values += [value for value in (line, *(row.mark for row in rows)) if value is not None]
    across = _Scale(x, values, NAMES, WIDTH - RIGHT)
    parts = []
    bottom = height - BOTTOM
    for tick in across.ticks:
        parts.append(f'<line x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="{TOP}" y2="{bottom}" class="grid"/>')
        parts.append(_text(across(tick), bottom + 17, x.text(tick), "middle"))
    parts.append(_text((NAMES + WIDTH - RIGHT) / 2, bottom + 38, x.title, "middle"))
    if line is not None:
        place = across(line)
        parts.append(f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{bottom}" class="limit"/>')
    for number, row in enumerate(rows):
        y = TOP + ROW * (number + 0.5)
        parts.append(_text(NAMES - 12, y + 4, row.name, "end", strong=True))
        if row.low is not None and row.high is not None:
            parts.append(_bar(across(row.low), y, across(row.high), y, row.color))
        if row.mark is not None:
            ring = f'cx="{across(row.mark):.1f}" cy="{y}" r="4"'
            parts.append(f'<circle {ring} fill="none" stroke="{row.color}" stroke-width="1.6"/>')
        title = f"<title>{escape(row.name)}: {escape(x.text(row.value))}</title>"
        parts.append(f'<circle cx="{across(row.value):.1f}" cy="{y}" r="5" fill="{row.color}">{title}</circle>')
    note = element("p", element("span", element("i", kind="hollow"), mark), kind="key") if mark else Html()
    return _figure("".join(parts), WIDTH, height, label, []) + note


def _room(points: Sequence[tuple[float, float | None, float | None]]) -> list[float]:
    """Between which values there has to be room for points and their intervals.

    Intervals that are much wider than the points are apart would make these lie on top of each other, and are cut off.
    """
    values = [value for value, _, _ in points]
    low, high = min(values), max(values)
    spare = max(high - low, 0.05 * max(abs(low), abs(high)))
    ends = [end for _, *both in points for end in both if end is not None]
    return [low, high, *(min(max(end, low - spare), high + spare) for end in ends)]


class _Scale:
    """Numbers to places between two pixels, with round ticks. What is beyond the axis lies at its end."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, stop: float) -> None:
        self.axis = axis
        known = [*values, *axis.include]
        low, high = min(known), max(known)
        if axis.log:
            self.ticks = _log_ticks(low, high)
            low, high = low / 1.4, high * 1.4
            self.ticks = [tick for tick in self.ticks if low <= tick <= high]
        else:
            step = _step(low, high, whole=axis.whole)
            inward = axis.whole
            first, last = (math.ceil, math.floor) if inward else (math.floor, math.ceil)
            start_tick, stop_tick = (
                first(low / step + 1e-9 * (1 - 2 * inward)),
                last(high / step - 1e-9 * (1 - 2 * inward)),
            )
            self.ticks = [step * number for number in range(start_tick, stop_tick + 1)]
            low, high = (low - 0.3, high + 0.3) if inward else (step * start_tick, step * stop_tick)
            if high <= low:
                high = low + step
        self._ends = low, high
        self._low, self._span = self._at(low), self._at(high) - self._at(low)
        self._start, self._length = start, stop - start

    def _at(self, value: float) -> float:
        return math.log10(value) if self.axis.log else value

    def __call__(self, value: float) -> float:
        value = min(max(value, self._ends[0]), self._ends[1])
        return self._start + self._length * (self._at(value) - self._low) / self._span


def _step(low: float, high: float, *, whole: bool) -> float:
    """A round distance between about `TICKS` ticks."""
    raw = max(high - low, 1e-12 + abs(high) * 1e-6) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return max(1.0, math.ceil(step)) if whole else step


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    factors = (1, 2, 5) if last - first <= 5 else (1,)
    return [factor * 10.0**power for power in range(first, last + 1) for factor in factors]


def _grid(across: _Scale, up: _Scale) -> list[str]:
    parts = []
    for tick in up.ticks:
        y = up(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(_text(LEFT - 8, y + 4, up.axis.text(tick), "end"))
    below = HEIGHT - BOTTOM + 18
    parts += [_text(across(tick), below, across.axis.text(tick), "middle") for tick in across.ticks]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(_text(middle, HEIGHT - 8, across.axis.title, "middle"))
    side = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text transform="translate(13 {side:.1f}) rotate(-90)" text-anchor="middle">{escape(up.axis.title)}</text>'
    )
    return parts


def _bar(x1: float, y1: float, x2: float, y2: float, color: str) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{color}" stroke-width="2" stroke-opacity="0.55" stroke-linecap="round"/>'


def _text(x: float, y: float, text: str, anchor: str, *, strong: bool = False) -> str:
    kind = ' class="name"' if strong else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'


def _key(series: Series) -> Html:
    """What the legend says of a series."""
    if series.joined:
        mark = element("i", style=f"border-top:3px {'dashed' if series.dashed else 'solid'} {series.color}")
    else:
        mark = element("i", kind="dot", style=f"background:{series.color}")
    return element("span", mark, series.name)


def _figure(content: str, width: int, height: int, label: str, legend: Sequence[Html]) -> Html:
    key = element("p", *legend, kind="key") if len(legend) > 1 else Html()
    svg = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{content}</svg>'
    return Html(svg) + key
