"""What the report says, for the overview: sentences for those who decide, tables of all figures, where to stop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from dashboard.shared.look.cards import Cell, Column, table
from dashboard.shared.look.charts import figure
from dashboard.shared.look.colors import method_color
from sae_core.foundation.colours import NEUTRAL
from sae_core.foundation.methods import title_of
from sae_core.foundation.numbers import MISSING, compact, decimal, percent, seconds, signed, size
from sae_core.report.columns import STAGES, TRUTH, Columns, Style, micro
from sae_core.report.controls import rows_of
from sae_core.report.known import COMPARED
from sae_core.report.texts import ANSWERS


def headline(decision: Mapping[str, Any]) -> str:
    """The one sentence."""
    return f'<div class="sae notice"><b>{escape(decision["headline"])}</b></div>'


def answers(decision: Mapping[str, Sequence[str]]) -> str:
    """What it cost, what it bought, how sure that is, and what to do next."""
    parts = [
        f"<section><h3>{escape(question)}</h3>{_items(decision[key])}</section>"
        for key, question in ANSWERS.items()
        if decision[key]
    ]
    return f'<div class="sae answers">{"".join(parts)}</div>'


def sentences(texts: Iterable[str]) -> str:
    """A list of sentences."""
    return f'<div class="sae answers"><section>{_items(texts)}</section></div>'


def meanings(definitions: Mapping[str, str]) -> str:
    """Names and what they mean."""
    listed = "".join(f"<li><b>{escape(name)}</b>: {escape(meaning)}</li>" for name, meaning in definitions.items())
    return f'<div class="sae answers"><section><ul>{listed}</ul></section></div>'


def _items(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def figures_table(ensembles: Mapping[str, Mapping[str, Any]], columns: Columns) -> str:
    """One row an ensemble, below a boosted one its control; columns that nobody has are left out, as is an empty table.

    Args:
        ensembles: By name, with their ``figures``, as the report has them.
        columns: The columns, by the key of their figure.
    """
    there = {key: shown for key, shown in columns.items() if any(key in own["figures"] for own in ensembles.values())}
    if not there:
        return ""
    heads = [Column(shown.title, shown.definition) for shown in there.values()]
    rows = [
        [
            Cell(title, color=method_color(method)),
            *(cell(own.get(key), shown.style, spread=shown.spread) for key, shown in there.items()),
        ]
        for title, method, own in rows_of(ensembles, columns)
    ]
    return table([Column("Ensemble"), *heads], rows)


def cell(found: Mapping[str, Any] | None, style: Style, *, spread: bool = True) -> Cell:
    """A figure with its interval, if that is to be shown, below it; a dash where there is none."""
    if found is None or found["mean"] is None:
        return Cell(MISSING)
    if not spread or found.get("low") is None:
        return Cell(style(found["mean"]))
    return Cell(style(found["mean"]), f"{style(found['low'])} – {style(found['high'])}")


def stages_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Boosted stages over independent trainings, beside noise and random atoms; empty where it is not known.

    Args:
        found: By ensemble, as the report has it.
    """
    rows = [
        [
            Cell(f"{title_of(name)}, stage {stage['stage']}", color=method_color(name)),
            *(Cell(MISSING if stage.get(key) is None else shown.style(stage[key])) for key, shown in STAGES.items()),
        ]
        for name, own in found.items()
        for stage in own["by_stage"]
    ]
    heads = [Column(shown.title, shown.definition) for shown in STAGES.values()]
    return table([Column("Stage"), *heads], rows) if rows else ""


def marginal_chart(ensembles: Mapping[str, Mapping[str, Any]], worth: float) -> go.Figure | None:
    """What each member adds for the cost of the first one, and where the rule stops; None without several members.

    Args:
        ensembles: By name, with ``by_members``, as the report has them.
        worth: Explained variance that a member has to add for the cost of the first one.
    """
    chart = figure(x="member", y="added explained variance per cost")
    for name, own in ensembles.items():
        later = [step for step in own["by_members"][1:] if step["added_per_cost"]["mean"] is not None]
        if later:
            chart.add_scatter(
                x=[step["members"] for step in later],
                y=[step["added_per_cost"]["mean"] for step in later],
                name=title_of(name),
                mode="lines+markers",
                line={"color": method_color(name), "width": 2.5},
                marker={"size": 8},
                hovertemplate=f"{title_of(name)}, member %{{x}}: %{{y:.2%}}<extra></extra>",
            )
    if not chart.data:
        return None
    line = {"color": NEUTRAL, "width": 1.5, "dash": "dash"}
    chart.add_hline(
        y=worth, line=line, annotation={"text": "the rule stops below", "x": 0, "xanchor": "left", "yanchor": "top"}
    )
    chart.update_xaxes(dtick=1)
    chart.update_yaxes(tickformat=".1%", rangemode="tozero")
    return chart


def stops(ensembles: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where the rule stops, a sentence an ensemble of several members."""
    found = []
    for name, own in ensembles.items():
        steps, stop = own["by_members"], own["stop"]
        if len(steps) > 1:
            said = f"stop at {stop} of {len(steps)} members" if stop else f"all {len(steps)} members were worth it"
            found.append(f"{title_of(name)}: {said}")
    return found


def members_table(ensembles: Mapping[str, Mapping[str, Any]]) -> str:
    """Costs and gains of the first 1, 2, … J members of each ensemble that has several; empty if none has."""
    heads = ["First members", "Training", "Training FLOPs", "On disk", "Time a token", "Explained variance", "Added"]
    styles: list[tuple[str, Style]] = [
        ("train_seconds", seconds),
        ("train_flops", compact),
        ("bytes", size),
        ("inference_seconds_per_token", micro),
        ("explained_variance", share),
        ("added_explained_variance", share),
        ("added_per_cost", share),
    ]
    definitions = {"Added": "What the last of these members adds to the explained variance"}
    rows = [
        [
            Cell(f"{title_of(name)}, {step['members']}", color=method_color(name)),
            *(cell(step[key], style) for key, style in styles),
        ]
        for name, own in ensembles.items()
        if len(own["by_members"]) > 1 and own["by_members"][-1]["added_explained_variance"]["mean"] is not None
        for step in own["by_members"]
    ]
    per_cost = Column("per cost", "The same for as much training arithmetic as the first member took")
    return table([*(Column(head, definitions.get(head, "")) for head in heads), per_cost], rows) if rows else ""


def share(value: float) -> str:
    """A share with two decimals."""
    return percent(value, 2)


def as_often(found: Mapping[str, Any] | None) -> str:
    """What one SAE with as many trainings reaches, in a sentence; empty where it is not known."""
    if not found:
        return ""
    return (
        f"One SAE given {found['retrains']} retrains has a pooled stability of {decimal(found['pooled'], 3)} (random "
        f"{decimal(found['null_pooled'], 3)}); what an ensemble has above one SAE is in part its number of atoms."
    )


def found_by_members(ensembles: Mapping[str, Mapping[str, Any]], measure: str) -> dict[str, dict[str, Any]]:
    """A figure of the first 1, 2, … members of each ensemble, as `overview_charts.by_members` takes it.

    Args:
        ensembles: By name, with ``by_members``, as the report has them.
        measure: A key of the steps; ensembles without it are left out.
    """
    found = {}
    for name, own in ensembles.items():
        steps = [
            {"members": step["members"], measure: step[measure]["mean"]}
            for step in own["by_members"]
            if step.get(measure, {}).get("mean") is not None
        ]
        if steps:
            found[name] = {"by_members": steps}
    return found


def truth_differences(rows: Sequence[Mapping[str, Any]]) -> str:
    """What ensembles find of a known dictionary more than others, one row a pair.

    Args:
        rows: The differences, as the report has them.
    """
    heads = [Column(name, TRUTH[f"truth.{key}"].definition) for key, name in COMPARED.items()]
    cells = [
        [
            Cell(f"{title_of(row['ensemble'])} − {title_of(row['other'])}", color=method_color(row["ensemble"])),
            *(cell(row[key], signed) for key in COMPARED),
        ]
        for row in rows
    ]
    return table([Column("Difference"), *heads], cells)


def recall_chart(by_frequency: Mapping[str, Sequence[Mapping[str, Any]]]) -> go.Figure:
    """Recall of true features by their probability of firing, one line an ensemble.

    Args:
        by_frequency: By ensemble the bins, as the report has them.
    """
    chart = figure(x="firing probability (log scale)", y="recall of true features")
    for name, bins in by_frequency.items():
        own = [part for part in bins if part["from"] > 0 and part["recall"]["mean"] is not None]
        chart.add_scatter(
            x=[(part["from"] * part["to"]) ** 0.5 for part in own],
            y=[part["recall"]["mean"] for part in own],
            name=title_of(name),
            mode="lines+markers",
            line={"color": method_color(name), "width": 2.5},
            hovertemplate=f"{title_of(name)}: %{{y:.1%}}<extra></extra>",
        )
    chart.update_xaxes(type="log")
    chart.update_yaxes(tickformat=".0%", rangemode="tozero")
    return chart
