"""What all charts share: a plain Plotly figure whose colours Streamlit's theme fits to light and dark."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

CONFIG: dict[str, Any] = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}
GRID = "rgba(128,136,146,0.18)"
AXIS = "rgba(128,136,146,0.45)"


def figure(*, x: str, y: str, height: int = 320, legend: bool = True) -> go.Figure:
    """An empty figure with titled axes (name and unit) and the legend below the plot."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": AXIS, "automargin": True, "title": {"standoff": 8}}
    chart = go.Figure()
    chart.update_layout(
        height=height,
        margin={"l": 8, "r": 12, "t": 12, "b": 8, "pad": 0},
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "title": None},
        hoverlabel={"align": "left"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    chart.update_xaxes(**axis, title_text=x)
    chart.update_yaxes(**axis, title_text=y)
    return chart


def error_bars(values: Iterable[float], lows: Iterable[float], highs: Iterable[float], **look: float) -> dict[str, Any]:
    """Bars from the low to the high end of the intervals of some values."""
    ends = list(zip(values, lows, highs, strict=True))
    above, below = [high - value for value, _, high in ends], [value - low for value, low, _ in ends]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, **look}


def quoted(text: str) -> str:
    """Text for a hover label: Plotly reads a few tags there and %{…} as a template, so both are taken apart."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "%\u200b{")
