"""Comparing members: matching matrices beside their null, families, lone features, what stages add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from dashboard.parts.charts import figure
from dashboard.parts.colors import HIGHLIGHT, SEQUENTIAL, member_color

MEASURES = {
    "mean_matched_cosine": "One-to-one match",
    "mmcs": "Best match",
    "shared": "Shared features",
}
EXPLANATIONS = {
    "mean_matched_cosine": "Mean cosine when every feature of one member is paired with exactly one of the other "
    "(Hungarian matching): 1 means the same dictionary, the null is what random dictionaries of that size reach.",
    "mmcs": "Mean over one member's features of the cosine with the most similar feature of the other (MMCS): "
    "higher means more alike; read it against the null, since wide dictionaries match by chance.",
    "shared": "Share of one member's features whose best match in the other has a cosine of at least 0.7.",
}
NULLS = {"mean_matched_cosine": "matched", "mmcs": "best"}


def matrix(pairs: Sequence[Mapping[str, Any]], measure: str, members: int) -> NDArray[np.float64]:
    """The member × member matrix of a measure [J, J]; NaN on the diagonal and where a pair is missing.

    A pair that is given in one direction only counts for both.
    """
    values = np.full((members, members), np.nan)
    for pair in pairs:
        values[pair["a"], pair["b"]] = pair[measure]
    return np.where(np.isnan(values), values.T, values)


def heat_map(values: NDArray[np.float64], measure: str, *, word: str = "member") -> go.Figure:
    """The matrix as a heat map with its figures written in."""
    names = [str(number) for number in range(len(values))]
    share = measure == "shared"
    chart = figure(x=word, y=word, height=120 + 60 * len(values), legend=False)
    chart.add_heatmap(
        z=values,
        x=names,
        y=names,
        zmin=0,
        zmax=1,
        colorscale=SEQUENTIAL,
        texttemplate="%{z:.0%}" if share else "%{z:.2f}",
        hovertemplate=f"{word} %{{y}} against %{{x}}: "
        + ("%{z:.1%}" if share else "cosine %{z:.3f}")
        + "<extra></extra>",
        hoverongaps=False,
        xgap=3,
        ygap=3,
        colorbar={
            "title": {"text": "share" if share else "cosine", "side": "right"},
            "thickness": 10,
            "outlinewidth": 0,
            "tickformat": ".0%" if share else ".1f",
        },
    )
    chart.update_xaxes(showgrid=False, side="top", type="category")
    chart.update_yaxes(showgrid=False, autorange="reversed", type="category")
    return chart


def against_null(
    pairs: Sequence[Mapping[str, Any]], measure: str, null: float | None, *, word: str = "member"
) -> go.Figure:
    """One bar a pair, with a line where random dictionaries of the same size lie."""
    chosen = {(min(pair["a"], pair["b"]), max(pair["a"], pair["b"])): pair[measure] for pair in reversed(pairs)}
    names = [f"{a} – {b}" for a, b in sorted(chosen)]
    share = measure == "shared"
    chart = figure(
        x="share of features" if share else "mean cosine", y=f"{word}s", height=130 + 34 * len(names), legend=False
    )
    chart.add_bar(
        x=[chosen[pair] for pair in sorted(chosen)],
        y=names,
        orientation="h",
        marker={"color": "#4d8fbf"},
        hovertemplate=f"{word}s %{{y}}: " + ("%{x:.1%}" if share else "%{x:.3f}") + "<extra></extra>",
    )
    if null is not None:
        chart.add_vline(
            x=null,
            line={"color": HIGHLIGHT, "width": 2.5, "dash": "dash"},
            annotation={"text": f"random {null:.2f}", "yref": "paper", "y": 1, "yanchor": "bottom"},
        )
        chart.update_layout(margin={"t": 30})
    chart.update_xaxes(range=[0, 1], tickformat=".0%" if share else ".1f")
    chart.update_yaxes(autorange="reversed", type="category", showgrid=False)
    return chart


@dataclass(frozen=True, slots=True)
class Family:
    """Features of different members that match one to one.

    Attributes:
        number: The family's id.
        features: By member, the feature.
        cosine: The smallest best cosine among its features.
        density: The mean density.
    """

    number: int
    features: dict[int, int]
    cosine: float
    density: float


def families(atoms: pd.DataFrame, *, size: int | None = None) -> list[Family]:
    """Families, the most frequent first.

    Args:
        atoms: One row a feature, with family, family_size, member, best_cosine, density and dead.
        size: Only families of this many features; None for all.
    """
    chosen = atoms[(atoms["family"] >= 0) & (atoms["family_size"] > 1)]
    if size is not None:
        chosen = chosen[chosen["family_size"] == size]
    found = [
        Family(
            int(str(number)),
            dict(zip(part["member"].astype(int), part["feature"].astype(int), strict=True)),
            float(part["best_cosine"].min()),
            float(part["density"].mean()),
        )
        for number, part in chosen.groupby("family", sort=True)
    ]
    return sorted(found, key=lambda family: (-family.density, family.number))


def family_sizes(atoms: pd.DataFrame) -> dict[int, int]:
    """How many families there are of each size, the largest size first."""
    grouped = atoms[(atoms["family"] >= 0) & (atoms["family_size"] > 1)].groupby("family")["family_size"].first()
    return {int(size): int(count) for size, count in sorted(grouped.value_counts().items(), reverse=True)}  # type: ignore[call-overload]


def lone_features(atoms: pd.DataFrame, *, below: float = 0.7) -> pd.DataFrame:
    """Living features without a match in any other member, the least similar first."""
    lone = atoms[~atoms["dead"] & (atoms["best_cosine"] < below)]
    return lone.sort_values(["best_cosine", "feature"])


def residual_energy(ratios: Sequence[float], *, word: str = "stage") -> go.Figure:
    """What is left of the activations' energy after each stage, starting from all of it.

    Args:
        ratios: ρ_j, the residual energy after stage j over that before it.
        word: What a member is called.
    """
    left = np.cumprod(np.asarray(ratios, dtype=np.float64))
    names = [f"{word} {number}" for number in range(len(left))]
    chart = figure(x="", y="energy left after it (share of E‖a‖²)", height=300, legend=False)
    chart.add_bar(
        x=names,
        y=left,
        marker={"color": [member_color(number) for number in range(len(left))]},
        text=[f"{100 * share:.2g} %" for share in left],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="after %{x}: %{y:.3%} of the energy is left<extra></extra>",
    )
    chart.update_yaxes(tickformat=".0%", rangemode="tozero")
    chart.update_layout(margin={"t": 26})
    return chart


def stages(atoms: pd.DataFrame, matches: pd.DataFrame, members: int, *, threshold: float = 0.7) -> pd.DataFrame:
    """What each stage adds: living features, those unlike every feature of an earlier stage, mean density.

    Args:
        atoms: One row a feature.
        matches: feature, member, other_member, best_cosine.
        members: J.
        threshold: Cosine from which on two features count as the same.
    """
    earlier = matches[matches["other_member"] < matches["member"]]
    nearest = earlier.groupby("feature")["best_cosine"].max()
    alive = atoms[~atoms["dead"]]
    # Features of the first stage have no earlier one: all of them are new.
    new = alive["feature"].map(nearest).fillna(-1.0) < threshold
    grouped = alive.assign(new=new).groupby("member")
    table = pd.DataFrame(
        {
            "alive": grouped.size(),
            "new": grouped["new"].sum(),
            "density": grouped["density"].mean(),
        }
    ).reindex(range(members), fill_value=0)
    return table.rename_axis("member").reset_index()
