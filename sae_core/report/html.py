"""Pieces of HTML: whatever text goes in is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from sae_core.foundation.numbers import MISSING
from sae_core.report.style import STYLE, color_of


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: text, with smaller text below it.

    Attributes:
        text: The text.
        below: What stands below it.
        wide: Whether it is prose, to the left and wrapped.
        method: The method whose colour it is marked with.
    """

    text: str
    below: str = ""
    wide: bool = False
    method: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """The heading of a column, with what it means as its tooltip."""

    text: str
    meaning: str = ""


def page(title: str, content: str) -> str:
    """A whole page that needs nothing else: no script, no network."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>{content}</main></body></html>\n"
    )


def element(tag: str, text: str, kind: str = "") -> str:
    """An element that holds text."""
    return f"<{tag}{_class(kind)}>{escape(text)}</{tag}>"


def items(texts: Iterable[str]) -> str:
    """A list."""
    return "<ul>" + "".join(element("li", text) for text in texts) + "</ul>"


def section(title: str, anchor: str, content: str) -> str:
    """A part of the page with a title that can be linked to."""
    return f'<section><h2 id="{escape(anchor, quote=True)}">{escape(title)}</h2>{content}</section>'


def joined(*parts: str) -> str:
    """Pieces one after another."""
    return "".join(parts)


def contents(sections: Mapping[str, str]) -> str:
    """Links to the sections, by their anchors."""
    links = (f'<a href="#{escape(anchor, quote=True)}">{escape(title)}</a>' for anchor, title in sections.items())
    return f"<nav>{''.join(links)}</nav>"


def figure(title: str, chart: str, caption: str) -> str:
    """A chart with a title and what it shows; nothing without a chart."""
    if not chart:
        return ""
    return f"<figure>{element('h3', title)}{chart}{element('figcaption', caption)}</figure>"


def charts(*figures: str) -> str:
    """Charts side by side, where there is room."""
    drawn = "".join(figures)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def table(heads: Sequence[str | Head], rows: Sequence[Sequence[Cell]]) -> str:
    """A table; one that is too wide for the page can be scrolled."""
    prose = [bool(rows) and rows[0][place].wide for place in range(len(heads))]
    head = "".join(_head(each, wide=wide) for each, wide in zip(heads, prose, strict=True))
    body = "".join(
        f"<tr>{''.join(_cell(cell, first=not place) for place, cell in enumerate(row))}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def definitions(meanings: Mapping[str, str]) -> str:
    """Names and what they mean."""
    return "<dl>" + "".join(f"{element('dt', name)}{element('dd', text)}" for name, text in meanings.items()) + "</dl>"


def folded(title: str, content: str) -> str:
    """What is shown when someone asks for it."""
    return f"<details>{element('summary', title)}{content}</details>"


def number(figure: Mapping[str, Any] | None, style: Any, *, spread: bool = True) -> Cell:
    """A figure with its interval below it.

    Args:
        figure: With ``mean``, ``low`` and ``high``.
        style: How a number is written.
        spread: Whether the interval is shown.
    """
    if figure is None or figure["mean"] is None:
        return Cell(MISSING)
    if not spread or figure.get("low") is None:
        return Cell(style(figure["mean"]))
    low, high = style(figure["low"]), style(figure["high"])
    return Cell(style(figure["mean"]), "" if low == high else f"{low} – {high}")


def _head(head: str | Head, *, wide: bool) -> str:
    head = Head(head) if isinstance(head, str) else head
    meaning = f' title="{escape(head.meaning, quote=True)}"' if head.meaning else ""
    return f"<th{_class('text' if wide else '')}{meaning}>{escape(head.text)}</th>"


def _cell(cell: Cell, *, first: bool) -> str:
    dot = f'<span class="dot" style="background:{color_of(cell.method)}"></span>' if cell.method else ""
    below = element("small", cell.below) if cell.below else ""
    tag = "th" if first else "td"
    scope = ' scope="row"' if first else ""
    return f"<{tag}{scope}{_class('text' if cell.wide else '')}>{dot}{escape(cell.text)}{below}</{tag}>"


def _class(kind: str) -> str:
    return f' class="{escape(kind, quote=True)}"' if kind else ""
