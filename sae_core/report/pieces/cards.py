"""Small pieces of HTML that the dashboard and notebooks draw: headings, chips, tiles, bars and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sae_core.foundation.colours import member_color
from sae_core.foundation.numbers import decimal
from sae_core.report import html
from sae_core.report.html import Cell, Column, Html, element
from sae_core.report.pieces.tokens import token_chip


def heading(title: str, text: str = "", chips: Sequence[Html] = ()) -> Html:
    """A page's title, one paragraph and chips."""
    paragraph = element("p", text) if text else ""
    row = element("div", *chips, kind="chips") if chips else ""
    return element("div", element("h1", title), paragraph, row, kind="sae head")


def section(title: str, how_to_read: str = "") -> Html:
    """A section's title and one sentence on how to read what follows."""
    return element("div", element("h2", title), element("p", how_to_read) if how_to_read else "", kind="sae section")


def dot(color: str) -> Html:
    """A coloured dot; nothing without a colour."""
    return element("span", kind="dot", style=f"background:{color}") if color else Html()


def chip(text: str, color: str = "", *, title: str = "") -> Html:
    """A rounded label, with a coloured dot if a colour is given."""
    return element("span", dot(color), text, kind="chip", title=title)


def member_chip(member: int, *, stage: bool = False) -> Html:
    """The chip of a member (or stage, in a boosted ensemble) in its colour; numbered from 0, as the folders are."""
    return chip(f"{'stage' if stage else 'member'} {member}", member_color(member))


def muted(text: str) -> Html:
    """Text that stands back."""
    return element("span", text, kind="muted")


def tile(label: str, value: str, small: str = "", *, title: str = "") -> Html:
    """One figure with its name above and its explanation below."""
    below = element("span", small, kind="s") if small else ""
    return element("div", element("span", label, kind="k"), element("span", value, kind="v"), below, title=title)


def tiles(items: Sequence[Html]) -> Html:
    """Tiles side by side, as many as fit."""
    return element("div", *items, kind="sae tiles")


def token_bars(title: str, texts: Sequence[str], scores: Sequence[float], color: str, *, largest: float) -> Html:
    """Tokens with a bar each, as long as the score's share of ``largest``."""
    rows = [
        piece
        for text, score in zip(texts, scores, strict=True)
        for piece in (token_chip(text), bar(_width(score, largest), color), element("span", decimal(score), kind="n"))
    ]
    return element("div", element("span", title, kind="t"), *rows, kind="sae bars")


def bar(percent: float, color: str, *more: Html, title: str = "") -> Html:
    """A bar of a list of bars, so many percent of its place long."""
    return element("span", element("i", style=f"width:{percent:g}%;background:{color}"), *more, kind="b", title=title)


def _width(score: float, largest: float) -> int:
    return round(100 * min(1.0, abs(score) / largest)) if largest > 0 else 0


def table(columns: Iterable[str | Column], rows: Iterable[Sequence[Cell]]) -> Html:
    """A table of the report, in the style of the pieces."""
    return element("div", html.table(columns, rows), kind="sae")
