"""Families of features: the table, the scatter that shows where measures disagree, sizes beside chance, pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboard.shared.look.charts import AXIS, figure, quoted
from dashboard.views.compare.charts import BY
from sae_core.foundation.colours import NEUTRAL, member_color
from sae_core.foundation.numbers import MISSING, decimal, percent, whole
from sae_core.report.html import Cell, Column
from sae_core.report.pieces.cards import table, tile, tiles
from sae_core.report.pieces.tokens import show_alone

FOUND = {"any": "Any way", "cosine": "By atoms", "correlation": "By activations", "overlap": "By top contexts"}
FOUND |= {"disputed": "Disputed"}
"""Which families are listed: those found in a given way, or not found in all three ways."""
MAX_POINTS = 2000
MAX_ROWS = 2000
_TOKENS = 4


def chosen(families: pd.DataFrame, found: str, size: int | None) -> pd.DataFrame:
    """Families found in one of the ways of `FOUND`, of one size or of any."""
    ways = families[[f"by_{by}" for by in BY]].to_numpy(bool)
    kept = np.ones(len(families), np.bool_)
    if found == "disputed":
        kept = np.count_nonzero(ways, axis=1) < len(BY)
    elif found != "any":
        kept = families[f"by_{found}"].to_numpy(bool)
    if size is not None:
        kept = kept & (families["size"] == size).to_numpy()
    return families[kept]


def label_of(features: Sequence[int], labels: Mapping[int, str], suggestions: Sequence[str]) -> str:
    """The first label among a family's features; else the first suggestion, marked as one; else nothing.

    Args:
        features: The family's.
        labels: The labels that there are.
        suggestions: What is suggested for each feature, empty for nothing; no text at all where nothing is.
    """
    label = next((labels[feature] for feature in features if feature in labels), "")
    suggestion = next(filter(None, (suggestions[feature] for feature in features)), "") if len(suggestions) else ""
    return label or (f"suggested: {suggestion}" if suggestion else "")


def as_shown(
    families: pd.DataFrame, labels: Mapping[int, str], suggestions: Sequence[str], *, word: str = "member"
) -> pd.DataFrame:
    """The families as a table for people, row by row; its columns are what `st.dataframe` shows and sorts."""
    return pd.DataFrame(
        {
            "Family": families["family"],
            f"{word.capitalize()}s": families["size"],
            "Top tokens": ["  ".join(map(show_alone, tokens[:_TOKENS])) for tokens in families["tokens"]],
            "Label": [label_of(group, labels, suggestions) for group in families["features"]],
            "Cosine": families["cosine"],
            "Correlation": families["correlation"],
            "Overlap": families["overlap"],
            "Density": 100 * families["density"],
            "More": families["more"],
            "Found by": [", ".join(ways) for ways in families["found"]],
        }
    )


def scatter(families: pd.DataFrame, thresholds: Mapping[str, float], *, word: str = "member") -> go.Figure:
    """Mean cosine of a family's atoms against the mean correlation of their activations, a point a family."""
    chart = figure(x="mean cosine of the atoms", y="mean correlation of the activations", height=430)
    for size, part in families.groupby("size", sort=True):
        number = int(str(size))
        chart.add_scattergl(
            x=part["cosine"].to_numpy(),
            y=part["correlation"].to_numpy(),
            mode="markers",
            name=f"in {number} {word}s",
            marker={"size": 6, "opacity": 0.75, "color": member_color(number - 2) if number > 2 else NEUTRAL},
            customdata=part["family"].to_numpy(),
            text=[quoted("  ".join(map(show_alone, tokens[:_TOKENS]))) for tokens in part["tokens"]],
            hovertemplate="%{text}<br>cosine %{x:.2f}, correlation %{y:.2f}<br>click to see the family<extra></extra>",
        )
    line = {"color": AXIS, "width": 1, "dash": "dot"}
    chart.add_vline(x=thresholds["cosine"], line=line)
    chart.add_hline(y=thresholds["correlation"], line=line)
    low = min(0.0, float(families[["cosine", "correlation"]].min().min())) if len(families) else 0.0
    chart.update_xaxes(range=[low - 0.03, 1.03])
    chart.update_yaxes(range=[low - 0.03, 1.03])
    for text, x, y, anchor in (
        ("fire together, other direction", low, 1.0, "left"),
        ("same direction, fire apart", 1.0, low, "right"),
    ):
        chart.add_annotation(text=text, x=x, y=y, xanchor=anchor, showarrow=False, opacity=0.7, font={"size": 11})
    return chart


def points_of(families: pd.DataFrame) -> pd.DataFrame:
    """At most `MAX_POINTS` families for the scatter: those that most members share, of these the most frequent."""
    return families.dropna(subset=["cosine", "correlation"]).head(MAX_POINTS)


def picked(event: Any) -> int | None:
    """The family whose point was clicked, from Plotly's selection; None for no point."""
    points = ((event or {}).get("selection") or {}).get("points") or []
    value = points[0].get("customdata") if points else None
    value = value[0] if isinstance(value, list) and value else value
    return int(value) if isinstance(value, int | float) else None


def sizes_table(summary: Mapping[str, Any], members: int, *, word: str = "member") -> str:
    """How many families so many members share, by each way of matching, beside what chance gives."""
    columns = [Column(f"Shared by {word}s")]
    for by, name in BY.items():
        chance = "random dictionaries of the same sizes" if by == "cosine" else f"{word}s shifted along the text"
        threshold = summary["thresholds"][by]
        columns.append(Column(name, f"Families matched one to one with at least {threshold:.2g} as {by}"))
        columns.append(Column("by chance", f"The same for {chance}"))
    rows = []
    for size in range(members, 1, -1):
        cells = [Cell(f"all {size}" if size == members else f"{size} of {members}")]
        for by in BY:
            cells.append(Cell(whole(summary["sizes"][by].get(str(size), 0))))
            cells.append(Cell(whole(summary["null_sizes"][by].get(str(size), 0))))
        rows.append(cells)
    return table(columns, rows)


def agreement_tiles(agreement: Mapping[str, Any]) -> str:
    """How often the three ways name the same best match."""
    names = {
        "all": ("All three agree", "atoms, activations and contexts"),
        "cosine_correlation": ("Atoms and activations", "name the same feature"),
        "cosine_overlap": ("Atoms and contexts", "name the same feature"),
        "correlation_overlap": ("Activations and contexts", "name the same feature"),
    }
    definition = (
        f"Of {whole(agreement['rows'])} pairs of a feature and another member in which the best match by at least one "
        "of the three reaches its threshold"
    )
    return tiles(
        [
            tile(title, MISSING if agreement[key] is None else percent(agreement[key], 0), small, title=definition)
            for key, (title, small) in names.items()
        ]
    )


def pair_table(pairs: pd.DataFrame, member_of: Mapping[int, int], thresholds: Mapping[str, float]) -> str:
    """The three scores of each pair of a family's features; those below their threshold are marked."""
    columns = [Column("Pair")]
    columns += [Column(name, f"{by}; ↓ marks one below {thresholds[by]:.2g}") for by, name in BY.items()]
    rows = []
    for row in pairs.to_dict("records"):
        first, second = member_of[int(row["first"])], member_of[int(row["second"])]
        cells = [Cell(f"{first} – {second}")]
        cells += [Cell(f"{decimal(row[by])}{' ↓' if row[by] < thresholds[by] else ''}") for by in BY]
        rows.append(cells)
    return table(columns, rows)
