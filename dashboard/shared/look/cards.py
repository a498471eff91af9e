"""Small pieces of HTML that only the dashboard draws: rows of chips, cards and notices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sae_core.report.html import Html, element


def chip_row(*chips: Html) -> Html:
    """Chips beside each other."""
    return element("div", element("div", *chips, kind="chips", style="margin:0"), kind="sae head")


def card(row: Sequence[Html], *below: Html) -> Html:
    """A row of pieces side by side, and what stands below it."""
    return element("div", element("div", *row, kind="row"), *below, kind="sae card")


def notice(title: str, text: str = "", command: str = "") -> Html:
    """A calm box: what is missing and what to run."""
    paragraph, code = element("p", text) if text else "", element("pre", command) if command else ""
    return element("div", element("b", title), paragraph, code, kind="sae notice")


_COMMANDS = {
    "train": ("No ensemble is trained yet", "Training writes the members that this page shows."),
    "index": ("Nothing is indexed yet", "The index holds every activation of every feature; it is made once per run."),
    "spurious": ("No spurious correlation is measured yet", "It reads texts once and keeps what ablating needs."),
    "evaluate": ("No evaluation yet", "The figures on this page are measured on held-out activations."),
}


def what_to_run(command: str, run: Path, title: str = "", why: str = "") -> Html:
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
