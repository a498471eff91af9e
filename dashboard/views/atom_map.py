"""Atom map: all members' atoms in the plane, by similarity; a click shows the feature and leads to it."""

from __future__ import annotations

import streamlit as st

from dashboard import queries
from dashboard.address import Here, here
from dashboard.common import choice, feature_link, missing, trained_ensemble
from dashboard.parts.atom_map import COLORS, clicked, map_figure
from dashboard.parts.cards import chip, heading, member_chip, notice, section
from dashboard.parts.colors import HIGHLIGHT
from dashboard.parts.numbers import compact, decimal, one_in
from dashboard.parts.tokens import strips

MAX_POINTS = 20_000  # Plotly becomes slow above this; the most frequent features are shown then
EXPLANATIONS = {
    "member": "colour is the member, so mixed neighbourhoods are features that several members found",
    "density": "colour is the share of tokens on which a feature fires, on a log scale",
    "stability": "colour is the share of the other members that have the feature too",
    "label": "labelled features are orange",
    "cluster": "colour is the cluster; grey belongs to none, and colours repeat",
}


def show(here: Here) -> None:
    """The whole page."""
    info = trained_ensemble(here)
    st.html(
        heading(
            "Atom map",
            f"Every point is a feature of {info.title}; features with similar atoms (cosine) lie close together. "
            "The axes have no meaning of their own.",
        )
    )
    table = queries.features(here.run, info)
    if table is None or "x" not in table or table["x"].isna().all():
        missing(here, "index", "There is no map yet")
        return
    color, dead = _controls(info)
    points = table[table["x"].notna()] if dead else table[table["x"].notna() & ~table["dead"]]
    if len(points) > MAX_POINTS:
        st.caption(f"The {compact(MAX_POINTS)} most frequent of {compact(len(points))} features are shown.")
        points = points.nlargest(MAX_POINTS, "density")
    left, right = st.columns([2.1, 1], gap="large")
    with left:
        text = f"Click a point to see the feature, drag to move, scroll to zoom; {EXPLANATIONS[color]}."
        st.html(section(f"{len(points):,} features by {COLORS[color].lower()}", text))
        event = st.plotly_chart(
            map_figure(points, color, word=info.member_word),
            key=f"map-{info.name}-{color}-{dead}",
            on_select="rerun",
            selection_mode="points",
            config={"displaylogo": False, "scrollZoom": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]},
            alt=f"Map of all features of {info.title}",
        )
    with right:
        _preview(here, info, clicked(event))


def _controls(info: queries.EnsembleInfo) -> tuple[str, bool]:
    options = [name for name in COLORS if info.members > 1 or name not in ("member", "stability")]
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        color = choice("color", "Colour", options, COLORS.__getitem__)
        dead = st.toggle("Dead features too", key="map-dead")
    return color, dead


def _preview(here: Here, info: queries.EnsembleInfo, feature: int | None) -> None:
    if feature is None:
        st.html(section("The feature") + notice("No point is chosen", "Click one to see what its feature responds to."))
        return
    table = queries.features(here.run, info)
    if table is None or not 0 <= feature < len(table):
        return
    row = table.iloc[feature]
    chips = [
        member_chip(int(row["member"]), stage=info.staged),
        chip(f"peak {decimal(row['peak'])}"),
        chip(one_in(row["density"])),
    ]
    if row["label"]:
        chips.append(chip(str(row["label"]), HIGHLIGHT))
    st.html(section(f"Feature {feature:,}") + f'<div class="sae head"><div class="chips">{"".join(chips)}</div></div>')
    feature_link(here, feature, f"Open feature {feature:,}")
    view = queries.feature_view(here.run, info.name, feature, count=6)
    if view is not None:
        st.html(strips(view.top, view.peak))


show(here())
