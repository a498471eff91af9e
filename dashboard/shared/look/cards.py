"""Small pieces of HTML: headings, tiles, chips, bars, tables and notices. All text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from dashboard.shared.look.tokens import token_chip
from sae_core.foundation.colours import member_color
from sae_core.foundation.numbers import decimal


def heading(title: str, text: str = "", chips: Sequence[str] = ()) -> str:
    """A page's title, one paragraph and chips.

    Args:
        title: Plain text.
        text: Plain text.
        chips: HTML made by `chip` or `member_chip`.
    """
    paragraph = f"<p>{escape(text)}</p>" if text else ""
    row = f'<div class="chips">{"".join(chips)}</div>' if chips else ""
    return f'<div class="sae head"><h1>{escape(title)}</h1>{paragraph}{row}</div>'


def section(title: str, how_to_read: str = "") -> str:
    """A section's title and one sentence on how to read what follows."""
    paragraph = f"<p>{escape(how_to_read)}</p>" if how_to_read else ""
    return f'<div class="sae section"><h2>{escape(title)}</h2>{paragraph}</div>'


def chip(text: str, color: str = "", *, title: str = "") -> str:
    """A rounded label, with a coloured dot if a colour is given."""
    dot = f'<span class="dot" style="background:{escape(color)}"></span>' if color else ""
    tooltip = f' title="{escape(title)}"' if title else ""
    return f'<span class="chip"{tooltip}>{dot}{escape(text)}</span>'


def member_chip(member: int, *, stage: bool = False) -> str:
    """The chip of a member (or stage, in a boosted ensemble) in its colour; numbered from 0, as the folders are."""
    return chip(f"{'stage' if stage else 'member'} {member}", member_color(member))


def tile(label: str, value: str, small: str = "", *, title: str = "") -> str:
    """One figure with its name above and its explanation below."""
    tooltip = f' title="{escape(title)}"' if title else ""
    below = f'<span class="s">{escape(small)}</span>' if small else ""
    return f'<div{tooltip}><span class="k">{escape(label)}</span><span class="v">{escape(value)}</span>{below}</div>'


def tiles(items: Sequence[str]) -> str:
    """Tiles side by side, as many as fit."""
    return f'<div class="sae tiles">{"".join(items)}</div>'


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an HTML table: its heading, and a tooltip that defines it."""

    name: str
    definition: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: a figure, small print below it in one line or several, and a coloured dot before it."""

    text: str
    small: str = ""
    color: str = ""


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """A table that scrolls sideways where it does not fit. The first column is text, the others figures."""
    head = "".join(
        f'<th title="{escape(column.definition)}">{escape(column.name)}</th>'
        if column.definition
        else f"<th>{escape(column.name)}</th>"
        for column in columns
    )
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    return f'<div class="sae scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(cell: Cell) -> str:
    dot = f'<span class="dot" style="background:{escape(cell.color)};margin-right:.5rem"></span>' if cell.color else ""
    small = "".join(f"<small>{escape(line)}</small>" for line in cell.small.splitlines())
    return f"<td>{dot}{escape(cell.text)}{small}</td>"


def token_bars(title: str, texts: Sequence[str], scores: Sequence[float], color: str, *, largest: float) -> str:
    """Tokens with a bar each, as long as the score's share of ``largest``."""
    rows = "".join(
        f"{token_chip(text)}"
        f'<span class="b"><i style="width:{_width(score, largest)}%;background:{escape(color)}"></i></span>'
        f'<span class="n">{decimal(score)}</span>'
        for text, score in zip(texts, scores, strict=True)
    )
    return f'<div class="sae bars"><span class="t">{escape(title)}</span>{rows}</div>'


def _width(score: float, largest: float) -> int:
    return round(100 * min(1.0, abs(score) / largest)) if largest > 0 else 0


def notice(title: str, text: str = "", command: str = "") -> str:
    """A calm box: what is missing and what to run."""
    paragraph = f"<p>{escape(text)}</p>" if text else ""
    code = f"<pre>{escape(command)}</pre>" if command else ""
    return f'<div class="sae notice"><b>{escape(title)}</b>{paragraph}{code}</div>'


_COMMANDS = {
    "train": ("No ensemble is trained yet", "Training writes the members that this page shows."),
    "index": ("Nothing is indexed yet", "The index holds every activation of every feature; it is made once per run."),
    "spurious": ("No spurious correlation is measured yet", "It reads texts once and keeps what ablating needs."),
    "evaluate": ("No evaluation yet", "The figures on this page are measured on held-out activations."),
}


def what_to_run(command: str, run: Path, title: str = "", why: str = "") -> str:
    """The notice of an unfinished run.

    Args:
        command: The subcommand that makes what is missing: train, index, evaluate or spurious.
        run: The run folder.
        title: What is missing, if not the usual.
        why: What it is for, if not the usual.
    """
    usual, text = _COMMANDS[command]
    return notice(title or usual, f"{why or text} Run:", f"sae-ensemble {command} {_quoted(str(run))}")


def _quoted(argument: str) -> str:
    return f'"{argument}"' if any(c.isspace() for c in argument) else argument


def plain(text: str) -> str:
    """Text for a place that Streamlit renders as Markdown: every sign that Markdown would act on is escaped."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-.!|~$:<>&" else c for c in text)
