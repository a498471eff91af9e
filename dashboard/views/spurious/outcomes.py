"""Removing a spurious correlation: outcomes of ablations as tables and charts, texts as evidence."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from dashboard.shared.look.charts import error_bars, figure
from dashboard.shared.look.colors import method_color
from sae_core.analysis.shared.names_in_tables import BIASED, BY_PROBE, ORACLE, RANDOM
from sae_core.analysis.shared.seeds import within
from sae_core.foundation.colours import HIGHLIGHT, NEUTRAL
from sae_core.foundation.methods import is_control, title_of
from sae_core.foundation.numbers import decimal, interval, percent, whole
from sae_core.report.html import Cell, Column, Html, element, joined
from sae_core.report.pieces.cards import chip, table
from sae_core.report.pieces.tokens import example_row, show_in_context

if TYPE_CHECKING:  # What computes it brings scikit-learn.
    from sae_core.analysis.spurious.ablation import Outcome

MEASURES = {
    "target": "accuracy on the target",
    "spurious": "answers that follow the spurious attribute",
    "worst_group": "accuracy in the worst group",
    "scr": "S_SCR",
}
LONGEST = 320
"""Characters of a text that are shown before it is cut."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the two labels are called.

    Attributes:
        target: Names of T = 0 and T = 1.
        spurious: Names of S = 0 and S = 1.
    """

    target: tuple[str, str]
    spurious: tuple[str, str]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Names:
        """From a task in evaluation/spurious.json."""
        (t0, t1), (s0, s1) = facts["target"], facts["spurious"]
        return cls((str(t0), str(t1)), (str(s0), str(s1)))

    def group(self, target: bool, spurious: bool) -> str:
        """``nurse · man``."""
        return f"{self.target[target]} · {self.spurious[spurious]}"


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table of outcomes.

    Attributes:
        name: What was done.
        features: How many features were ablated.
        outcome: What came of it.
        scr: Its S_SCR.
        color: CSS colour of its dot.
    """

    name: str
    features: int
    outcome: Outcome
    scr: float
    color: str = NEUTRAL


def outcome_columns(names: Names) -> list[Column]:
    """Headings with their definitions."""
    target, spurious = (" or ".join(pair[::-1]) for pair in (names.target, names.spurious))
    return [
        Column("Probe"),
        Column("Ablated", "Features set to 0; the reconstruction error is kept"),
        Column("Target", f"Accuracy on {target} on balanced test texts; ± is half a 95 % interval over texts"),
        Column("Spurious", f"Share of test texts whose answer is what {spurious} would say; 50 % means it is ignored"),
        Column("Worst group", "Accuracy on the target in the group of target and attribute where it is lowest"),
        Column("S_SCR", "(accuracy after ablation − untouched) / (oracle − untouched); 1 is as good as the oracle"),
        *(
            Column(names.group(t, s), f"Accuracy on the target in texts that are {names.group(t, s)}")
            for t in (True, False)
            for s in (True, False)
        ),
    ]


def outcome_table(names: Names, lines: Sequence[Line], texts: int) -> Html:
    """What each ablation came to, beside the untouched probe, which comes first.

    Args:
        names: Of the labels.
        lines: The rows.
        texts: Test texts, balanced over the four groups.
    """
    before = lines[0].outcome
    rows = []
    for line in lines:
        found = line.outcome
        rows.append(
            [
                Cell(line.name, color=line.color),
                Cell(whole(line.features) if line.features else "–"),
                Cell(percent(found.target), f"± {100 * half_width(found.target, texts):.1f}"),
                Cell(percent(found.spurious), _change(found.spurious, before.spurious)),
                Cell(percent(found.worst_group), _change(found.worst_group, before.worst_group)),
                Cell(decimal(line.scr)),
                *(Cell(percent(found.groups[t, s])) for t in (True, False) for s in (True, False)),
            ]
        )
    return table(outcome_columns(names), rows)


def half_width(share: float, texts: int) -> float:
    """Half a 95 % interval of a share of so many texts (normal approximation)."""
    return 1.96 * math.sqrt(max(share * (1 - share), 0.0) / texts) if texts else 0.0


def _change(now: float, before: float) -> str:
    change = 100 * (now - before)
    return "" if abs(change) < 0.05 else f"{change:+.1f}".replace("-", "−")


def seeds_table(rows: Iterable[tuple[str, Mapping[str, Any], str]]) -> Html:
    """Means over seeds with their intervals.

    Args:
        rows: (name, by measure a figure with mean, low and high, colour).
    """
    columns = [Column("All seeds"), *(Column(_capital(title)) for title in MEASURES.values())]
    cells = []
    for name, figures, color in rows:
        row = [Cell(name, color=color)]
        for key in MEASURES:
            found = figures[key] if key == "scr" else within(dict(figures[key]), 0.0, 1.0)
            if key == "scr":
                spread = "" if found["low"] is None else f"{decimal(found['low'])} – {decimal(found['high'])}"
                row.append(Cell(decimal(found["mean"]), spread))
            else:
                row.append(Cell(percent(found["mean"]), interval(found["low"], found["high"])))
        cells.append(row)
    return table(columns, cells)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def automatic_chart(figures: Sequence[Mapping[str, Any]], measure: str) -> go.Figure:
    """A measure against the number of features that are ablated automatically, one line a method.

    Args:
        figures: The figures of a task in evaluation/spurious.json.
        measure: One of `MEASURES`.
    """
    title = MEASURES[measure]
    chart = figure(x="features ablated automatically (log scale)", y=title, height=360)
    shown = [row for row in figures if row["ranking"] == BY_PROBE and not row["retrained"] and row["n"]]
    for method in dict.fromkeys(str(row["method"]) for row in shown):
        own = sorted((row for row in shown if row["method"] == method), key=lambda row: int(row["n"]))
        found = [row[measure] if measure == "scr" else within(dict(row[measure]), 0.0, 1.0) for row in own]
        means = [each["mean"] for each in found]
        spread = None
        if all(each["low"] is not None for each in found):
            ends = ([each[end] for each in found] for end in ("low", "high"))
            spread = error_bars(means, *ends, thickness=1.2, width=3)
        style = ".2f" if measure == "scr" else ".1%"
        chart.add_scatter(
            x=[row["n"] for row in own],
            y=means,
            error_y=spread,
            name=title_of(method),
            mode="lines+markers",
            line={
                "color": method_color(method),
                "width": 2.2,
                "dash": "dot" if method == RANDOM or is_control(method) else "solid",
            },
            hovertemplate=f"{title_of(method)}, %{{x}} features: %{{y:{style}}}<extra></extra>",
        )
    for name, dash in ((BIASED, "dash"), (ORACLE, "dashdot")):
        row = next((row for row in figures if row["method"] == name), None)
        if row is not None and row[measure]["mean"] is not None:
            line = {"color": NEUTRAL, "width": 1.4, "dash": dash}
            said = "untouched" if name == BIASED else "oracle"
            chart.add_hline(y=row[measure]["mean"], line=line, annotation={"text": said, "yanchor": "bottom"})
    numbers = sorted({int(row["n"]) for row in shown})
    chart.update_xaxes(type="log", tickvals=numbers, ticktext=[str(n) for n in numbers])
    if measure != "scr":
        chart.update_yaxes(tickformat=".0%")
    return chart


def text_cards(names: Names, rows: Iterable[Mapping[Any, Any]], words: Sequence[str]) -> Html:
    """Texts with their labels and the feature's mean on them; the words that go with it are set off.

    Args:
        names: Of the labels.
        rows: text, target, spurious and mean.
        words: Words to set off, lower-case.
    """
    return element("div", *(_card(names, row, words) for row in rows), kind="sae strips")


def _card(names: Names, row: Mapping[Any, Any], words: Sequence[str]) -> Html:
    group = names.group(bool(row["target"]), bool(row["spurious"]))
    label = element("span", chip(group, HIGHLIGHT if row["spurious"] else NEUTRAL), kind="src")
    return example_row(decimal(row["mean"]), _marked(str(row["text"]), words), label)


def _marked(text: str, words: Sequence[str]) -> Html:
    """The text, cut, with some of its words in bold."""
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
    # Every second piece is one of the words.
    pieces = re.split(rf"(?i)\b({'|'.join(map(re.escape, words))})\b", text) if words else [text]
    shown = map(show_in_context, pieces)
    return joined(*(element("b", piece) if number % 2 else piece for number, piece in enumerate(shown)))
