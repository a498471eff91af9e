"""Concept detection: accuracies per method and concept, and the features that detect one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboard.shared.look.charts import error_bars, figure, quoted
from dashboard.shared.look.colors import method_color
from sae_core.analysis.concepts.detected import Mean
from sae_core.analysis.index.examples import Example
from sae_core.foundation.colours import NEUTRAL
from sae_core.foundation.methods import title_of
from sae_core.foundation.numbers import MISSING, decimal, percent, signed
from sae_core.report.html import Cell, Html, element
from sae_core.report.pieces.tokens import strips

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x")


def name_of(method: str, m: int) -> str:
    """A row of the charts: ``bagged, 5 features``; 0 means every dimension."""
    if m == 0:
        return f"{title_of(method)}, all dimensions"
    return f"{title_of(method)}, {m} feature{'' if m == 1 else 's'}"


def means(table: pd.DataFrame, known: Mapping[tuple[str, int], Mean] | None = None) -> pd.DataFrame:
    """Mean accuracy over concepts per method and m, in the table's order of methods; also lowest, highest and count.

    Args:
        table: One row a concept and detector.
        known: By (method, m) the mean with its interval, which becomes ``low`` and ``high``; of one concept, its own.
    """
    grouped = table.groupby(["method", "m"], sort=False)
    result = grouped["accuracy"].agg(["mean", "min", "max", "count"]).reset_index()
    for end in ("low", "high"):
        own = grouped[f"accuracy_{end}"].mean().where(grouped.size() == 1)
        found = [(known or {}).get((str(method), int(m))) for method, m in own.index]
        result[end] = [value if mean is None else getattr(mean, end) for mean, value in zip(found, own, strict=True)]
    order = {method: place for place, method in enumerate(dict.fromkeys(table["method"]))}
    return result.sort_values(by=["m", "method"], key=lambda c: c.map(order) if c.name == "method" else c)


def _row_name(method: str, m: int, table: pd.DataFrame) -> str:
    """`name_of`, without the m if it is the same in all rows."""
    return title_of(method) if m and len(numbers_of_features(table)) == 1 else name_of(method, m)


def numbers_of_features(table: pd.DataFrame) -> list[int]:
    """The m that were measured, in order, without the 0 of all dimensions."""
    return sorted({int(m) for m in table["m"]} - {0})


def with_features(table: pd.DataFrame, m: int) -> pd.DataFrame:
    """The rows of detectors with m features, and of those with all dimensions."""
    return table[table["m"].isin((0, m))]


def by_features(
    table: pd.DataFrame, chance: float | None, known: Mapping[tuple[str, int], Mean] | None = None
) -> go.Figure:
    """Each method's mean accuracy over the concepts against m; all dimensions, which have no m, are a level line.

    Intervals are those of `means`.
    """
    summary, numbers = means(table, known), numbers_of_features(table)
    chart = figure(x="features a detector uses, m (log scale)", y="mean accuracy on held-out texts", height=460)
    for place, method in enumerate(dict.fromkeys(table["method"].astype(str))):
        part = summary[summary["method"] == method].sort_values("m")
        level = bool((part["m"] == 0).all())
        name = name_of(method, 0) if level else title_of(method)
        chart.add_scatter(
            x=[numbers[0], numbers[-1]] if level else part["m"].tolist(),
            y=part["mean"].tolist() * (2 if level else 1),
            error_y=None if level else error_bars(part["mean"], part["low"], part["high"], thickness=1.2, width=3),
            name=name,
            mode="lines" if level else "lines+markers",
            # Later ones are thinner, so that of lines that coincide all can be seen.
            line={
                "color": method_color(method),
                "width": max(2.0, 4 - place / 2),
                "dash": "dash" if level else "solid",
            },
            marker={"size": max(7, 12 - 1.5 * place)},
            hovertemplate=f"{name}: %{{y:.1%}}<extra></extra>"
            if level
            else f"{name}, m = %{{x}}: %{{y:.1%}}<extra></extra>",
        )
    if chance is not None:
        line = {"color": NEUTRAL, "width": 1.5, "dash": "dot"}
        chart.add_hline(y=chance, line=line, annotation={"text": "chance", "yanchor": "bottom"})
    chart.update_xaxes(type="log", tickvals=numbers, ticktext=[str(m) for m in numbers])
    chart.update_yaxes(tickformat=".0%")
    return chart


def difference(found: Mean | None) -> Cell:
    """How many points of accuracy a method is above another one, with the interval below; a dash where unknown."""
    if found is None:
        return Cell(MISSING)
    value, low, high = (signed(100 * each, 1) for each in found)
    if math.isnan(found.low):
        return Cell(value)
    return Cell(value, "exactly the same" if found.low == found.high == 0 else f"{low} to {high}")


def roc_chart(curves: pd.DataFrame, table: pd.DataFrame) -> go.Figure:
    """ROC curves of one concept's detectors, one line a method; the dotted diagonal is guessing.

    Args:
        curves: ``method``, ``m`` and the two rates as lists (evaluation/detectors.parquet).
        table: The same detectors' figures, for the areas.
    """
    areas = {(str(row["method"]), int(row["m"])): row["auc"] for row in table.to_dict("records")}
    chart = figure(x="false alarms (false-positive rate)", y="detected (true-positive rate)", height=440)
    line = {"color": NEUTRAL, "width": 1.5, "dash": "dot"}
    chart.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=line, hoverinfo="skip", showlegend=False)
    for row in curves.to_dict("records"):
        key = str(row["method"]), int(row["m"])
        name = f"{_row_name(*key, table)} ({decimal(areas.get(key), 3)})"
        chart.add_scatter(
            x=list(row["roc_false_positive_rate"]),
            y=list(row["roc_detection_rate"]),
            name=name,
            mode="lines",
            line={"color": method_color(key[0]), "width": 2.2, "dash": "solid" if key[1] else "dash"},
            hovertemplate=f"{name}: %{{y:.1%}} detected at %{{x:.1%}} false alarms<extra></extra>",
        )
    chart.update_xaxes(tickformat=".0%", range=[-0.01, 1.01])
    chart.update_yaxes(tickformat=".0%", range=[-0.01, 1.01])
    return chart


def accuracy_chart(table: pd.DataFrame, chance: float | None) -> go.Figure:
    """Each method's mean accuracy over the concepts, with a small dot for every concept."""
    summary = means(table)
    chart = figure(x="accuracy on held-out texts", y="", height=120 + 34 * len(summary), legend=False)
    for row in summary.itertuples():
        part = table[(table["method"] == row.method) & (table["m"] == row.m)]
        name, color = _row_name(str(row.method), int(row.m), table), method_color(str(row.method))  # type: ignore[arg-type]
        chart.add_scatter(
            x=part["accuracy"],
            y=[name] * len(part),
            text=[quoted(str(concept)) for concept in part["concept"]],
            mode="markers",
            marker={"size": 6, "color": color, "opacity": 0.38},
            hovertemplate="%{text}: %{x:.1%}<extra></extra>",
        )
        chart.add_scatter(
            x=[row.mean],
            y=[name],
            mode="markers",
            marker={"size": 13, "color": color, "symbol": _symbol(int(row.m), table), "line": {"width": 0}},  # type: ignore[arg-type]
            hovertemplate=f"{name}: mean {percent(row.mean)} over {row.count} concepts<extra></extra>",
        )
    return _finished(chart, chance, [_row_name(str(r.method), int(r.m), table) for r in summary.itertuples()])  # type: ignore[arg-type]


def concept_chart(table: pd.DataFrame, chance: float | None) -> go.Figure:
    """One concept: each method's accuracy with its 95 % interval."""
    rows = table.sort_values("m", kind="stable")
    chart = figure(x="accuracy on held-out texts", y="", height=120 + 34 * len(rows), legend=False)
    for row in rows.to_dict("records"):
        name = _row_name(str(row["method"]), int(row["m"]), table)
        chart.add_scatter(
            x=[row["accuracy"]],
            y=[name],
            error_x=error_bars([row["accuracy"]], [row["accuracy_low"]], [row["accuracy_high"]], thickness=2, width=5),
            mode="markers",
            marker={"size": 11, "color": method_color(str(row["method"])), "symbol": _symbol(int(row["m"]), table)},
            hovertemplate=f"{name}: {percent(row['accuracy'])}, 95 % interval {percent(row['accuracy_low'])} to "
            f"{percent(row['accuracy_high'])}<extra></extra>",
        )
    return _finished(chart, chance, [_row_name(str(r["method"]), int(r["m"]), table) for r in rows.to_dict("records")])


def _symbol(m: int, table: pd.DataFrame) -> str:
    numbers = sorted(set(table["m"]))
    return _SYMBOLS[numbers.index(m) % len(_SYMBOLS)]


def _finished(chart: go.Figure, chance: float | None, names: Sequence[str]) -> go.Figure:
    if chance is not None:
        chart.add_vline(
            x=chance,
            line={"color": NEUTRAL, "width": 1.5, "dash": "dash"},
            annotation={"text": "chance", "yref": "paper", "y": 1, "yanchor": "bottom"},
        )
    chart.update_xaxes(tickformat=".0%")
    chart.update_yaxes(categoryorder="array", categoryarray=list(reversed(names)), type="category")
    chart.update_layout(margin={"t": 28})
    return chart


def examples(found: Sequence[Example]) -> Html:
    """A feature's strongest contexts, folded away until someone asks; empty without any."""
    if not found:
        return Html()
    return element("details", element("summary", "Examples"), strips(found, found[0].peak), kind="sae more")


def detectors(row: Mapping[Any, Any]) -> list[tuple[int, int]]:
    """(feature, sign) of the features that a detector uses, the best first."""
    features, signs = row.get("features"), row.get("signs")
    if features is None or signs is None:
        return []
    return [(int(feature), int(sign)) for feature, sign in zip(features, signs, strict=True)]
