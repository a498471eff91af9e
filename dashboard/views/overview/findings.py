"""What the report finds, as charts and sentences of the overview: what members add, and where to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from dashboard.shared.look.charts import figure
from dashboard.shared.look.colors import method_color
from sae_core.foundation.colours import NEUTRAL
from sae_core.foundation.methods import title_of


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


def found_by_members(ensembles: Mapping[str, Mapping[str, Any]], measure: str) -> dict[str, dict[str, Any]]:
    """A figure of the first 1, 2, … members of each ensemble, as `charts.by_members` takes it.

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
