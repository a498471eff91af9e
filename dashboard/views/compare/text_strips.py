"""One text through all members: a strip a member, token below token, and what stages remove of its energy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_core.foundation.colours import FAMILY_COLORS, NEUTRAL, activation_level
from sae_core.foundation.numbers import decimal
from sae_core.report.html import Html, element
from sae_core.report.pieces.cards import dot
from sae_core.report.pieces.tokens import show_alone, show_in_context, token_chip

LONE_COLOR = NEUTRAL
LINE = 92
"""Characters of a line, after which all strips go on below."""
_LONGEST = 40
_LINE = (
    "display:grid;grid-template-columns:max-content auto;column-gap:.8rem;align-items:baseline;"
    "margin:.55rem 0;width:max-content"
)


@dataclass(frozen=True, slots=True)
class Mark:
    """What a token shows in one member's strip.

    Attributes:
        feature: The feature.
        value: Its coefficient there.
        peak: Its largest coefficient anywhere.
        family: The number of its family; None if it has none.
    """

    feature: int
    value: float
    peak: float
    family: int | None


def strongest_marks(
    features_E: NDArray[np.int64],
    rows_E: NDArray[np.int64],
    values_E: NDArray[np.float32],
    tokens: int,
    peaks: Mapping[int, float],
    family_of: Mapping[int, int],
) -> list[Mark | None]:
    """For each token the feature with the largest coefficient, of one member's coefficients; None where all are 0."""
    marks: list[Mark | None] = [None] * tokens
    for place in np.argsort(values_E, kind="stable").tolist():
        feature, value = int(features_E[place]), float(values_E[place])
        marks[int(rows_E[place])] = Mark(feature, value, peaks.get(feature, value), family_of.get(feature))
    return marks


def family_colors(strips: Sequence[Sequence[Mark | None]]) -> dict[int, str]:
    """Colours of the families that are strongest on most tokens in several members; the most frequent first."""
    counts: Counter[int] = Counter()
    members: dict[int, set[int]] = {}
    for number, strip in enumerate(strips):
        for mark in strip:
            if mark is not None and mark.family is not None:
                counts[mark.family] += 1
                members.setdefault(mark.family, set()).add(number)
    shared = [family for family, _ in counts.most_common() if len(members[family]) > 1]
    return dict(zip(shared, FAMILY_COLORS, strict=False))


def lines(texts: Sequence[str], width: int = LINE) -> list[range]:
    """Ranges of tokens that fill a line; all members break where these do."""
    found, start, length = [], 0, 0
    for number, text in enumerate(texts):
        size = len(_shown(text))
        if length + size > width and number > start:
            found.append(range(start, number))
            start, length = number, 0
        length += size
        if "\n" in text:
            found.append(range(start, number + 1))
            start, length = number + 1, 0
    return [*found, range(start, len(texts))] if start < len(texts) else found


def aligned(
    texts: Sequence[str],
    names: Sequence[str],
    strips: Sequence[Sequence[Mark | None]],
    *,
    colors: Mapping[int, str] | None,
    describe: Mapping[int, str],
    lone: Sequence[str] = (),
) -> Html:
    """The strips of all members as HTML, line by line, with the same tokens in the same places.

    Args:
        texts: The tokens.
        names: What each member is called.
        strips: For each member what each token shows.
        colors: Colour of a family. None colours by activation alone.
        describe: What is known of a feature, for its tooltip.
        lone: For each member the colour of features whose family has none; grey, if not given.
    """
    lone = lone or [LONE_COLOR] * len(names)
    blocks = []
    for line in lines(texts):
        rows = [
            element("span", name, kind="muted", style="font-size:.78rem;white-space:nowrap")
            + element(
                "div",
                *(_token(texts[place], strip[place], colors, describe, color) for place in line),
                kind="txt",
                style="white-space:pre;overflow:visible",
            )
            for name, strip, color in zip(names, strips, lone, strict=True)
        ]
        blocks.append(element("div", *rows, style=_LINE))
    return element("div", *blocks, kind="sae strips", style="overflow-x:auto")


def _shown(text: str) -> str:
    shown = show_in_context(text)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"


def _token(
    text: str, mark: Mark | None, colors: Mapping[int, str] | None, describe: Mapping[int, str], lone: str
) -> str:
    if mark is None:
        return _shown(text)
    known = describe.get(mark.feature, "")
    title = f"{show_alone(text[:_LONGEST])}\nfeature {mark.feature:,}: {decimal(mark.value, 3)}"
    title += f" of at most {decimal(mark.peak, 3)}" + (f"\n{known}" if known else "")
    if colors is None:
        return element("span", _shown(text), kind=f"a{activation_level(mark.value, mark.peak)}", title=title)
    color = lone if mark.family is None else colors.get(mark.family, lone)
    share = round(12 + 58 * min(1.0, mark.value / mark.peak if mark.peak > 0 else 1.0))
    return element(
        "span", _shown(text), style=f"background:color-mix(in srgb,{color} {share}%,transparent)", title=title
    )


def family_legend(colors: Mapping[int, str], tokens: Mapping[int, Sequence[str]], other: str = LONE_COLOR) -> Html:
    """Which colour is which family, by its top tokens; ``other`` is that of the rest, empty for one a member."""
    keys = [
        element("span", dot(color), f"family {family} ", *map(token_chip, tokens.get(family, ())[:2]), kind="key")
        for family, color in colors.items()
    ]
    rest = element("span", dot(other), f"another feature{'' if other else ': the colour of its row'}", kind="key")
    return element(
        "div", *keys, rest, element("span", "the stronger, the deeper; hover for the feature"), kind="sae legend"
    )
