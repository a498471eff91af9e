"""Charts of the overview: what members add, what they cost, how training went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboard.shared.look.charts import error_bars, figure
from dashboard.shared.look.colors import method_color
from sae_core.foundation.colours import member_color
from sae_core.foundation.methods import title_of
from sae_core.foundation.numbers import compact, is_missing, percent

MAX_POINTS = 600


def by_members(
    ensembles: Mapping[str, Mapping[str, Any]], measure: str = "explained_variance", title: str = "explained variance"
) -> go.Figure:
    """A share (explained variance, loss recovered) that the first j members reach, against j.

    Args:
        ensembles: By name, the figures with ``by_members`` or, of the whole, ``members`` and the measure.
        measure: The figure to show.
        title: What it is.
    """
    chart = figure(x="members (SAEs used)", y=title)
    for name, figures in ensembles.items():
        steps = figures.get("by_members") or [figures]
        chart.add_scatter(
            x=[step["members"] for step in steps],
            y=[step.get(measure) for step in steps],
            name=title_of(name),
            mode="lines+markers",
            line={"color": method_color(name), "width": 2.5},
            marker={"size": 8, "symbol": "circle" if len(steps) > 1 else "diamond"},
            hovertemplate=f"{title_of(name)}, %{{x}} members<br>{title} %{{y:.2%}}<extra></extra>",
        )
    chart.update_xaxes(dtick=1)
    chart.update_yaxes(tickformat=".0%")
    return chart


def cost(rows: Sequence[Mapping[str, Any]], costs: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """Explained variance against the arithmetic of encoding one token.

    Args:
        rows: `sae_core.analysis.summary.summarize`.
        costs: By ensemble, ``inference_flops_per_token``.
    """
    chart = figure(x="arithmetic per token (FLOP, log scale)", y="explained variance (total)", legend=False)
    for row in rows:
        flops = costs.get(row["ensemble"], {}).get("inference_flops_per_token")
        if is_missing(flops) or is_missing(row["explained_variance"]):
            continue
        value, low, high = (row[f"explained_variance{end}"] for end in ("", "_low", "_high"))
        spread = {} if is_missing(low) or is_missing(high) else error_bars([value], [low], [high])
        chart.add_scatter(
            x=[flops],
            y=[row["explained_variance"]],
            error_y=spread,
            name=title_of(row["ensemble"]),
            text=[f"  {title_of(row['ensemble'])}"],
            textposition="middle right",
            mode="markers+text",
            marker={"size": 13, "color": method_color(row["ensemble"])},
            cliponaxis=False,
            hovertemplate=f"{title_of(row['ensemble'])}<br>{compact(flops)} FLOP a token<br>"
            f"explained variance {percent(row['explained_variance'], 2)}<extra></extra>",
        )
    chart.update_xaxes(type="log", dtick="D2", range=_log_range(chart))
    chart.update_yaxes(tickformat=".0%")
    return chart


def _log_range(chart: go.Figure) -> list[float] | None:
    """Room left and right of the points, so that their names are not cut off."""
    values = [math.log10(trace.x[0]) for trace in chart.data]
    return [min(values) - 0.35, max(values) + 0.35] if values else None


def training(curves: pd.DataFrame, measure: str, title: str, *, word: str = "member") -> go.Figure:
    """A training curve per member.

    Args:
        curves: member, tokens and the measure.
        measure: The column to show.
        title: What it is, with its unit.
        word: What a member is called.
    """
    chart = figure(x="training tokens", y=title)
    for member, part in curves.groupby("member", sort=True):
        every = max(1, len(part) // MAX_POINTS)
        thin = part.iloc[::every]
        chart.add_scatter(
            x=thin["tokens"],
            y=thin[measure],
            name=f"{word} {member}",
            mode="lines",
            line={"color": member_color(int(str(member))), "width": 1.8},
            hovertemplate=f"{word} {member}<br>%{{x:.3s}} tokens<br>%{{y:.4g}}<extra></extra>",
        )
    return chart
