"""A small histogram as an SVG image: light enough to be drawn anew at every click.

Streamlit's sanitiser drops inline ``<svg>``, so it travels as a data URI in an ``<img>``.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

import numpy as np

from sae_core.foundation.colours import HIGHLIGHT, NEUTRAL
from sae_core.foundation.numbers import decimal, whole
from sae_core.foundation.origin import OF_TOKENS, Words
from sae_core.report.html import Html, element

WIDTH, HEIGHT = 360, 110
LOG, LINEAR = "log", "linear"
SCALES = (LOG, LINEAR)
"""How high a bar is for its count."""


def bars_svg(counts: Sequence[int], scale: str = LOG, color: str = HIGHLIGHT) -> str:
    """Bars of a histogram as SVG.

    Args:
        counts: Height of each bar.
        scale: One of `SCALES`; on the logarithmic one a bar is as high as log(1 + count), so that rare values are seen.
        color: Of the bars.
    """
    numbers = np.asarray(counts, dtype=np.float64)
    scaled = np.log1p(numbers) if scale == LOG else numbers
    tallest = float(scaled.max()) if scaled.size and scaled.max() > 0 else 1.0
    step = WIDTH / max(len(scaled), 1)
    heights = np.where(scaled > 0, np.maximum(scaled / tallest * (HEIGHT - 4), 1.5), 0.0)
    size = f'width="{max(step - 1, 0.5):.2f}"'
    rects = "".join(
        f'<rect x="{number * step:.2f}" y="{HEIGHT - height:.2f}" {size} height="{height:.2f}"/>'
        for number, height in enumerate(heights)
        if height > 0
    )
    line = f'<path d="M0 {HEIGHT - 0.5}H{WIDTH}" stroke="{NEUTRAL}" stroke-width="1"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none">'
        f'<g fill="{color}">{rects}</g>{line}</svg>'
    )


def histogram_html(
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    unit: str = "activation",
    scale: str = LOG,
    words: Words = OF_TOKENS,
) -> Html:
    """The histogram with its axis.

    Args:
        edges: Bin edges, one more than there are counts.
        counts: Tokens in each bin.
        unit: What the axis shows.
        scale: One of `SCALES`.
        words: What is counted.
    """
    if len(counts) == 0 or sum(counts) == 0:
        said = element("p", f"It fired on no {words.row}, so there is nothing to count.", kind="note")
        return element("div", said, kind="sae plot")
    uri = "data:image/svg+xml;base64," + b64encode(bars_svg(counts, scale).encode()).decode()
    description = (
        f"Histogram of {unit}: {whole(sum(counts))} {words.rows} from {decimal(edges[0])} to {decimal(edges[-1])}, "
        f"at most {whole(max(counts))} in one of {len(counts)} bins"
    )
    image = Html(f'<img src="{uri}" alt="{escape(description)}" title="{escape(description)}">')
    return element(
        "div",
        _axis(f"{whole(max(counts))} {words.rows}"),
        image,
        _axis(decimal(edges[0]), unit, decimal(edges[-1])),
        kind="sae plot",
    )


def _axis(*texts: str) -> Html:
    return element("div", *(element("span", text) for text in texts), kind="axis")
