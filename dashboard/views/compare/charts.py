"""Comparing members: matching matrices beside their null, families, lone features, what stages add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from dashboard.shared.look.charts import figure
from sae_core.foundation.colours import HIGHLIGHT, SEQUENTIAL, member_color
from sae_core.foundation.numbers import percent
from sae_core.report.html import Cell, Column
from sae_core.report.pieces.cards import table

MEASURES = {
    "mean_matched_cosine": "One-to-one match",
    "mmcs": "Best match",
    "shared": "Shared features",
}
BY = {"cosine": "Atoms", "correlation": "Activations", "overlap": "Top contexts"}
"""Ways of matching features, as people read them."""
MEANINGS = {
    "cosine": "cosine of the atoms",
    "correlation": "Pearson correlation of the activations over tokens",
    "overlap": "overlap of the top contexts (contexts that both have, of all that either has)",
}
NULLS = {"mean_matched_cosine": "matched", "mmcs": "best", "shared": "shared"}


def explanation(measure: str, by: str, threshold: float) -> str:
    """What a figure of two members means, in a sentence."""
    what = MEANINGS[by]
    return {
        "mean_matched_cosine": f"Mean {what} when every feature of one member is paired with at most one of the other "
        "such that the sum is largest (features left over count as 0): 1 means the same features; "
        "read it against chance.",
        "mmcs": f"Mean over one member's features of the {what} with the most similar feature of the other: higher "
        "means more alike; read it against chance, since wide members match by chance.",
        "shared": f"Share of one member's features whose best match in the other has at least {threshold:.2g} as "
        f"{what}.",
    }[measure]


def pairs_by(
    by: str, cosines: Mapping[str, Any], firing: Mapping[str, Any] | None
) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, float | None]]:
    """(figures of each pair of members, what chance gives) by one way of matching, named as in `MEASURES`.

    Args:
        by: One of `BY`.
        cosines: What ``matches.json`` holds.
        firing: What ``families.json`` holds.
    """
    if by == "cosine" or firing is None:
        null = cosines["null"] or {}
        return cosines["pairs"], {measure: null.get(key) for measure, key in NULLS.items()}
    pairs = [{"a": pair["a"], "b": pair["b"], **_named(pair)} for pair in firing["pairs"][by]]
    chance = [_named(pair) for pair in firing["null"][by]]
    means = {measure: [pair[measure] for pair in chance if pair[measure] is not None] for measure in NULLS}
    return pairs, {measure: float(np.mean(values)) if values else None for measure, values in means.items()}


def _named(pair: Mapping[str, Any]) -> dict[str, Any]:
    return {measure: pair[key] for measure, key in NULLS.items()}


def about_chance(by: str, null: float | None, *, word: str = "member") -> str:
    """How to read the chart beside chance."""
    if by == "cosine" and null is None:
        return "Bars are pairs; random dictionaries of this size share next to nothing at this threshold."
    line = "random dictionaries of the same size" if by == "cosine" else f"{word}s shifted along the text"
    return f"Bars are pairs; the dashed line is what {line} reach."


def removers(energy: pd.DataFrame, atoms: pd.DataFrame, stage: int | None) -> pd.DataFrame:
    """The features of one stage or of all by the energy that they remove, the most first.

    Args:
        energy: feature, member, removed and alone, as `sae_core.analysis.atoms.stage_energy` measures them.
        atoms: One row a feature, in order.
        stage: The stage; None for all.

    Returns:
        The energy's columns, of_stage (share of what all features of the stage remove), top_token and density.
    """
    total = energy.groupby("member")["removed"].transform("sum")
    rows = energy.assign(
        of_stage=energy["removed"] / total.where(total > 0),
        top_token=atoms["top_token"].to_numpy(),
        density=atoms["density"].to_numpy(),
    )
    rows = rows if stage is None else rows[rows["member"] == stage]
    return rows[rows["fired"] > 0].sort_values("removed", ascending=False, kind="stable")


def matrix(pairs: Sequence[Mapping[str, Any]], measure: str, members: int) -> NDArray[np.float64]:
    """The member × member matrix of a measure [J, J]; NaN on the diagonal and where a pair is missing.

    A pair that is given in one direction only counts for both.
    """
    values = np.full((members, members), np.nan)
    for pair in pairs:
        values[pair["a"], pair["b"]] = np.nan if pair[measure] is None else pair[measure]
    return np.where(np.isnan(values), values.T, values)


def heat_map(values: NDArray[np.float64], measure: str, *, word: str = "member", by: str = "cosine") -> go.Figure:
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
        + ("%{z:.1%}" if share else f"{by} %{{z:.3f}}")
        + "<extra></extra>",
        hoverongaps=False,
        xgap=3,
        ygap=3,
        colorbar={
            "title": {"text": "share" if share else by, "side": "right"},
            "thickness": 10,
            "outlinewidth": 0,
            "tickformat": ".0%" if share else ".1f",
        },
    )
    chart.update_xaxes(showgrid=False, side="top", type="category")
    chart.update_yaxes(showgrid=False, autorange="reversed", type="category")
    return chart


def against_null(
    pairs: Sequence[Mapping[str, Any]],
    measure: str,
    null: float | None,
    *,
    word: str = "member",
    by: str = "cosine",
) -> go.Figure:
    """One bar a pair, with a line where chance lies: random dictionaries of the same size, or shifted members."""
    chosen = {(min(pair["a"], pair["b"]), max(pair["a"], pair["b"])): pair[measure] for pair in reversed(pairs)}
    names = [f"{a} – {b}" for a, b in sorted(chosen)]
    share = measure == "shared"
    chart = figure(
        x="share of features" if share else f"mean {by}", y=f"{word}s", height=130 + 34 * len(names), legend=False
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
            annotation={"text": f"chance {null:.2f}", "yref": "paper", "y": 1, "yanchor": "bottom"},
        )
        chart.update_layout(margin={"t": 30})
    chart.update_xaxes(range=[0, 1], tickformat=".0%" if share else ".1f")
    chart.update_yaxes(autorange="reversed", type="category", showgrid=False)
    return chart


def lone_features(
    atoms: pd.DataFrame, scores: pd.DataFrame, thresholds: Mapping[str, float], by: Sequence[str]
) -> pd.DataFrame:
    """Living features without a match in any other member, the least similar first.

    Args:
        atoms: One row a feature.
        scores: The largest score of each with any feature of another member, a column a measure, with the same rows.
        thresholds: Score from which on two features count as the same, by measure.
        by: The measures by which there must be no match.

    Returns:
        The rows of ``atoms`` with the scores as best_<measure>.
    """
    rows = atoms.assign(**{f"best_{name}": scores[name].to_numpy() for name in scores})
    alone = ~rows["dead"].to_numpy(bool)
    for measure in by:
        alone &= ~(rows[f"best_{measure}"].to_numpy(np.float64) >= thresholds[measure])
    return rows[alone].sort_values([*(f"best_{measure}" for measure in by), "feature"])


def residual_energy(ratios: Sequence[float], *, word: str = "stage") -> go.Figure:
    """What is left of the activations' energy after each stage, starting from all of it.

    Args:
        ratios: ρ_j, the residual energy after stage j over that before it.
        word: What a member is called.
    """
    left = np.cumprod(np.asarray(ratios, dtype=np.float64))
    names = [f"{word} {number}" for number in range(len(left))]
    chart = figure(x="", y="energy left after it (share of held-out E‖a‖²)", height=300, legend=False)
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
    rows = pd.DataFrame(
        {
            "alive": grouped.size(),
            "new": grouped["new"].sum(),
            "density": grouped["density"].mean(),
        }
    ).reindex(range(members), fill_value=0)
    return rows.rename_axis("member").reset_index()


def stage_table(stages: Sequence[Mapping[str, float]]) -> str:
    """What each stage finds, removes and leaves, as shares of the energy of the indexed tokens.

    Args:
        stages: before, after and bias (what its bias removes) of each, as shares.
    """
    columns = (
        Column("Stage"),
        Column("Finds", "Residual energy before it, as a share of the energy of the indexed tokens"),
        Column("Removes", "Share of the energy of the indexed tokens that it removes"),
        Column("of what it finds", "The same as a share of what it finds"),
        Column("by its bias", "How much of what it removes its decoder bias does"),
        Column("by features", "How much of what it removes its features do"),
        Column("Leaves", "Residual energy after it on the indexed tokens, which the SAEs were trained on"),
    )
    rows = []
    for number, stage in enumerate(stages):
        removed = stage["before"] - stage["after"]
        rows.append(
            [
                Cell(f"stage {number}", color=member_color(number)),
                Cell(percent(stage["before"], 1)),
                Cell(percent(removed, 1)),
                Cell(percent(removed / stage["before"] if stage["before"] > 0 else None, 0)),
                Cell(percent(stage["bias"], 1)),
                Cell(percent(removed - stage["bias"], 1)),
                Cell(percent(stage["after"], 1)),
            ]
        )
    return table(columns, rows)
