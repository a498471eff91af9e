"""The map of all atoms: one point a feature, coloured by what one asks about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboard.parts.charts import figure, quoted
from dashboard.parts.colors import HIGHLIGHT, NEUTRAL, SEQUENTIAL, category_color, member_color
from dashboard.parts.numbers import decimal, one_in
from dashboard.parts.tokens import show_alone

COLORS = {"member": "Member", "density": "Density", "stability": "Stability", "label": "Label", "cluster": "Cluster"}
_POINT = 6


def map_figure(atoms: pd.DataFrame, color: str, *, word: str = "member") -> go.Figure:
    """The map. Each point carries its feature number as custom data.

    Args:
        atoms: One row a feature: feature, member, x, y, density, stability, cluster, top_token, label.
        color: A key of `COLORS`.
        word: What a member is called.
    """
    chart = figure(x="UMAP 1 (no unit)", y="UMAP 2 (no unit)", height=640, legend=color in ("member", "label"))
    chart.update_layout(dragmode="pan", clickmode="event+select", legend={"y": -0.09, "itemsizing": "constant"})
    for name, part, marker in _groups(atoms, color, word):
        chart.add_scattergl(
            x=part["x"].to_numpy(np.float32),
            y=part["y"].to_numpy(np.float32),
            customdata=part["feature"].to_numpy(),
            text=hover_texts(part, word),
            hovertemplate="%{text}<extra></extra>",
            name=name,
            mode="markers",
            marker={"size": _POINT, "opacity": 0.8, **marker},
            unselected={"marker": {"opacity": 0.45}},
        )
    chart.update_xaxes(showticklabels=False, showgrid=False)
    chart.update_yaxes(showticklabels=False, showgrid=False)
    return chart


def _groups(atoms: pd.DataFrame, color: str, word: str) -> list[tuple[str, pd.DataFrame, dict[str, Any]]]:
    if color == "member":
        return [
            (f"{word} {member}", part, {"color": member_color(int(str(member)))})
            for member, part in atoms.groupby("member", sort=True)
        ]
    if color == "label":
        labelled = atoms["label"] != ""
        return [
            ("not labelled", atoms[~labelled], {"color": NEUTRAL, "opacity": 0.35}),
            ("labelled", atoms[labelled], {"color": HIGHLIGHT, "size": _POINT + 3}),
        ]
    if color == "cluster":
        return [("clusters", atoms, {"color": [category_color(int(number)) for number in atoms["cluster"]]})]
    values = atoms[color].to_numpy(np.float64)
    bar: dict[str, Any] = {"thickness": 10, "outlinewidth": 0, "len": 0.7}
    if color == "density":
        floor = values[values > 0].min(initial=1.0)
        values = np.log10(np.maximum(values, floor))
        ticks = list(range(int(np.floor(values.min(initial=0.0))), 1))
        bar |= {"title": "density", "tickvals": ticks, "ticktext": [_power(tick) for tick in ticks]}
    else:
        bar |= {"title": "stability", "tickformat": ".0%"}
    return [(color, atoms, {"color": values, "colorscale": SEQUENTIAL, "colorbar": bar})]


def _power(exponent: int) -> str:
    return f"{100 * 10.0**exponent:g} %"


def hover_texts(atoms: pd.DataFrame, word: str) -> list[str]:
    """What the pointer shows at each feature."""
    columns = ("feature", "member", "top_token", "density", "stability", "label")
    return [
        f"<b>feature {feature}</b> · {word} {member}<br>top token {quoted(show_alone(str(token)))}"
        f"<br>fires on {one_in(density)}"
        + ("" if np.isnan(stability) else f"<br>stability {decimal(stability)}")
        + (f"<br>label {quoted(str(label))}" if label else "")
        for feature, member, token, density, stability, label in zip(*(atoms[c] for c in columns), strict=True)
    ]


def clicked(event: Mapping[str, Any] | None) -> int | None:
    """The feature that a selection event of the map names, or None."""
    points = ((event or {}).get("selection") or {}).get("points") or []
    if not points:
        return None
    data = points[0].get("customdata")
    if isinstance(data, (list, tuple)):
        data = data[0] if data else None
    return int(data) if isinstance(data, (int, float)) and not isinstance(data, bool) else None
