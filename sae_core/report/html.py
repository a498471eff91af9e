"""HTML of the report and of the dashboard: an element escapes the text in it, so that nobody has to think of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from sae_core.foundation.numbers import MISSING
from sae_core.report.style import STYLE


class Html(str):
    """HTML that is finished. Every other text is escaped when it becomes a part of HTML.

    Small pieces take 5 times as long with Jinja2's `Markup` in its place, and 8 times as long as templates of Jinja2.
    """

    __slots__ = ()

    def __add__(self, other: str) -> Html:
        """Put other content behind it."""
        return joined(self, other)


def joined(*content: str) -> Html:
    """Pieces one after another."""
    return Html("".join([piece if piece.__class__ is Html else escape(piece) for piece in content]))


def element(tag: str, *content: str, kind: str = "", **attributes: str) -> Html:
    """An element.

    Args:
        tag: Its name.
        content: Text, which is escaped, and `Html`, which is not.
        kind: Its classes.
        attributes: Its other attributes, those that are empty left out; ``data_go`` becomes data-go.
    """
    if kind:
        attributes = {"class": kind, **attributes}
    shown = [f' {name.replace("_", "-")}="{escape(value)}"' for name, value in attributes.items() if value]
    return Html(f"<{tag}{''.join(shown)}>{joined(*content)}</{tag}>")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading.
        definition: What it holds, as a tooltip.
        prose: Whether it is text, to the left and wrapped; the first column always is to the left.
    """

    name: str
    definition: str = ""
    prose: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: The text.
        small: Small print below it, in one line or several.
        color: CSS colour of a dot before it.
    """

    text: str
    small: str = ""
    color: str = ""


def table(columns: Iterable[str | Column], rows: Iterable[Sequence[Cell]]) -> Html:
    """A table; one that is too wide for the page can be scrolled."""
    heads = [Column(each) if isinstance(each, str) else each for each in columns]
    kinds = ["text" if each.prose else "" for each in heads]
    head = [element("th", each.name, kind=kind, title=each.definition) for each, kind in zip(heads, kinds, strict=True)]
    body = [
        element(
            "tr", *(_cell(cell, kind, not place) for place, (cell, kind) in enumerate(zip(row, kinds, strict=True)))
        )
        for row in rows
    ]
    made = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", made, kind="scroll")


def _cell(cell: Cell, kind: str, first: bool) -> Html:
    dot = element("span", kind="dot", style=f"background:{cell.color}") if cell.color else ""
    below = [element("small", line) for line in cell.small.splitlines()]
    tag, scope = ("th", "row") if first else ("td", "")
    return element(tag, dot, cell.text, *below, kind=kind, scope=scope)


def number(figure: Mapping[str, Any] | None, style: Any, *, spread: bool = True) -> Cell:
    """A figure with its interval below it; a dash where there is none.

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


def page(title: str, content: Html) -> str:
    """A whole page that needs nothing else: no script, no network."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"{element('title', title)}<style>{STYLE}</style></head>\n<body>{element('main', content)}</body></html>\n"
    )


def items(texts: Iterable[str]) -> Html:
    """A list."""
    return element("ul", *(element("li", text) for text in texts))


def questions(titles: Mapping[str, str], said: Mapping[str, Sequence[str]]) -> Html:
    """Sentences below the questions that they answer; questions without an answer are left out.

    Args:
        titles: The questions by their keys, in order.
        said: The sentences by the same keys.
    """
    found = [element("section", element("h3", title), items(said[key])) for key, title in titles.items() if said[key]]
    return element("div", *found, kind="answers")


def section(title: str, anchor: str, content: Html) -> Html:
    """A part of the page with a title that can be linked to."""
    return element("section", element("h2", title, id=anchor), content)


def contents(sections: Mapping[str, str]) -> Html:
    """Links to the sections, by their anchors."""
    return element("nav", *(element("a", title, href=f"#{anchor}") for anchor, title in sections.items()))


def figure(title: str, chart: str, caption: str) -> Html:
    """A chart with a title and what it shows; nothing without a chart."""
    return element("figure", element("h3", title), chart, element("figcaption", caption)) if chart else Html()


def charts(*figures: Html) -> Html:
    """Charts side by side, where there is room."""
    return element("div", *figures, kind="charts") if any(figures) else Html()


def definitions(meanings: Mapping[str, str]) -> Html:
    """Names and what they mean."""
    return element("dl", *(element("dt", name) + element("dd", text) for name, text in meanings.items()))


def folded(title: str, content: Html) -> Html:
    """What is shown when someone asks for it."""
    return element("details", element("summary", title), content)
