"""Rows that are no tokens, as people look at them: an image, a text, a stretch of a series, or plain fields.

What a row has decides how it is drawn. All texts are escaped; images are thumbnails that lie in the run.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sae_core.activations.rows_shown import RowShown
from sae_core.foundation.colours import ACTIVATION_LEVELS, HIGHLIGHT, NEUTRAL, activation_level
from sae_core.foundation.numbers import decimal
from sae_core.report.html import Html, element

_WIDTH, _CURVE, _BARS = 640, 64, 22
"""Pixels of a series: its width, and the heights of its curve and of the activation under it."""
_MOST_POINTS = 1280
_LONGEST = 600
"""Characters of a text that are shown; the rest unfolds."""
_FIELDS = 8
_NEAR = 0.3
"""Share of the width of a series within which the numbers at its end and at its mark would touch."""


def row_html(row: RowShown, values: Sequence[float], place: int, texts: Sequence[str], peak: float) -> Html:
    """What people look at of a row.

    Args:
        row: The row.
        values: The feature's activation on the rows that are shown with it.
        place: Which of these is the row itself.
        texts: What each of them reads like.
        peak: The feature's largest activation anywhere, which gets the strongest colour.
    """
    level = f"a{activation_level(values[place], peak)}"
    parts: list[Html] = []
    if row.image:
        parts.append(_image(row.image, row.name, level))
    if row.text is not None:
        parts.append(_text(row.text, level))
    if row.places is not None:
        parts.append(_series(row, values, place, texts, peak))
    if row.fields:
        shown = list(row.fields.items())[:_FIELDS]
        parts.append(
            element("div", *(element("span", element("i", name), text) for name, text in shown), kind="fields")
        )
    return element("div", *parts or [element("b", row.name)], kind="row-view")


def _image(content: bytes, name: str, level: str) -> Html:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    address = f"data:image/{kind};base64,{b64encode(content).decode()}"
    return element("span", element("img", src=address, alt=name, title=name), kind=f"thumb {level}")


def _text(text: str, level: str) -> Html:
    """A text, with a bar beside it in the colour of the activation; the end of a long one unfolds."""
    shown = [element("p", text[:_LONGEST])]
    if len(text) > _LONGEST:
        more = element("details", element("summary", "all of it"), text[_LONGEST:], kind="more")
        shown = [element("p", text[:_LONGEST], "…", more)]
    return element("div", element("i", kind=level), *shown, kind="told")


def _series(row: RowShown, values: Sequence[float], place: int, texts: Sequence[str], peak: float) -> Html:
    """A curve of what is drawn of the rows around one, its activation under it, and where labels change."""
    assert row.places is not None
    count = len(values)
    uri = "data:image/svg+xml;base64," + b64encode(_series_svg(row.signal, values, place, peak).encode()).decode()
    first, last = row.places[0], row.places[-1]
    said = f"{count} rows from {first} to {last}; {decimal(values[place])} at {row.places[place]}"
    changes = [number for number in range(count) if number == 0 or texts[number] != texts[number - 1]]
    stretches = zip(changes, [*changes[1:], count], strict=True)
    names = [
        element("span", texts[start], title=texts[start], style=f"flex:{stop - start} 1 0") for start, stop in stretches
    ]
    # What is marked has its own number; an end that it comes too near to gives way.
    share = (place + 0.5) / count
    marked = f"left:{100 * share:.1f}%;transform:translateX(-{100 * share:.0f}%)"
    axis = element(
        "div",
        element("span", first if share > _NEAR else ""),
        element("span", row.places[place], kind="at", style=marked),
        element("span", last if share < 1 - _NEAR else ""),
        kind="axis",
    )
    image = element("img", src=uri, alt=said, title=said)
    return element("div", image, element("div", *names, kind="names"), axis, kind="series")


def _series_svg(signal: NDArray[np.float32] | None, values: Sequence[float], place: int, peak: float) -> str:
    count, step = len(values), _WIDTH / max(len(values), 1)
    top = _CURVE if signal is not None else 0
    parts = [f'<rect x="{place * step:.2f}" width="{step:.2f}" height="{top + _BARS}" fill="{NEUTRAL}" opacity=".22"/>']
    if signal is not None:
        parts.append(_curve(signal))
    for number, value in enumerate(values):
        if value > 0:
            share = activation_level(value, peak) / ACTIVATION_LEVELS
            height = max(2.0, (_BARS - 2) * min(1.0, value / peak if peak > 0 else 0))
            parts.append(
                f'<rect x="{number * step:.2f}" y="{top + _BARS - height:.2f}" width="{max(step - 0.6, 0.8):.2f}" '
                f'height="{height:.2f}" fill="{HIGHLIGHT}" opacity="{0.35 + 0.65 * share:.2f}"/>'
            )
    line = f'<path d="M0 {top + _BARS - 0.5}H{_WIDTH}" stroke="{NEUTRAL}" stroke-width="1"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + _BARS}" preserveAspectRatio="none" '
        f'width="{_WIDTH}" height="{top + _BARS}">{"".join(parts)}{line}</svg>'
    ).replace("\n", "") * bool(count)


def _curve(signal: NDArray[np.float32]) -> str:
    """A line through all numbers of the rows; of very many the least and the largest of each pixel."""
    points = signal.reshape(-1).astype(np.float64)
    if len(points) > _MOST_POINTS:
        size = -(-len(points) // (_MOST_POINTS // 2))
        blocks = np.pad(points, (0, -len(points) % size), mode="edge").reshape(-1, size)
        points = np.stack([blocks.min(axis=1), blocks.max(axis=1)], axis=1).reshape(-1)
    low, high = float(points.min()), float(points.max())
    heights = 2 + (_CURVE - 8) * (1 - (points - low) / (high - low or 1.0))
    places = (np.arange(len(points)) + 0.5) * _WIDTH / len(points)
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(places, heights, strict=True))
    return f'<path d="M{path}" fill="none" stroke="{NEUTRAL}" stroke-width="1.2" vector-effect="non-scaling-stroke"/>'


def tiles_html(pieces: Sequence[Html]) -> Html:
    """Rows side by side, as many as fit."""
    return element("div", *pieces, kind="row-tiles")


def is_small(row: RowShown | None) -> bool:
    """Whether a row takes so little room that several stand side by side: an image without a text or a series."""
    return row is not None and row.image is not None and row.text is None and row.places is None


def tile_html(row: RowShown, value: float, told: str, peak: float) -> Html:
    """An image with the activation and what it reads like below; the rest is a tooltip."""
    assert row.image is not None
    title = "\n".join([row.source, *(f"{name}: {text}" for name, text in row.fields.items())])
    picture = _image(row.image, row.name, f"a{activation_level(value, peak)}")
    return element("figure", picture, element("figcaption", element("b", told), " ", decimal(value)), title=title)
