"""Pinned features: up to six side by side, and the list as a link."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.shared import pins
from dashboard.shared.address import Here, here
from dashboard.shared.common import FEATURES_PAGE, feature_link, missing, trained_ensemble
from dashboard.shared.feature_figures import (
    CLOSEST,
    COUNT,
    DENSITY,
    FAMILY,
    MEAN_ACTIVE,
    PEAK,
    STABILITY,
    TOP_TOKEN,
)
from dashboard.shared.look.cards import notice
from dashboard.shared.pins import MOST, Pin
from dashboard.shared.reads import finding, tables
from dashboard.shared.reads.one_feature import feature_view
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.views.pinned.side_by_side import Beside, side_by_side
from sae_core.foundation.origin import Words
from sae_core.foundation.run import Run
from sae_core.report.pieces.cards import heading

EXAMPLES, WINDOW = 5, 8
"""Examples of a feature, and tokens on either side of their peaks: columns are narrow."""
BESIDE = 6
"""Features side by side."""


def show(here: Here) -> None:
    """The whole page."""
    trained_ensemble(here)
    st.html(
        heading(
            "Pinned features",
            f"Up to {BESIDE} side by side. The list travels with the address of this page: send the link, and your "
            "colleague sees the same features.",
        )
    )
    unknown = pins.unknown()
    if unknown:
        names = ", ".join(f"“{part[:40]}”" for part in unknown[:5])
        st.html(notice("Not all of the link can be shown", f"This run has no feature {names}."))
    pinned = pins.pinned(here)
    if not pinned:
        st.html(
            notice(
                "No feature is pinned",
                f"Press the star beside a feature, in the table or on its page, to put it on the list; {MOST} fit.",
            )
        )
        st.page_link(FEATURES_PAGE, label="To the features", icon=":material/arrow_forward:", query_params=here.link())
        return
    shown = _shown(pinned)
    _controls(here, shown)
    columns = [column for pin in shown if (column := _column(here, pin)) is not None]
    if columns:
        st.html(side_by_side(columns))
    if len(columns) < len(shown):
        missing(here, "index", "Not every ensemble is indexed yet")


def _shown(pinned: Sequence[Pin]) -> Sequence[Pin]:
    """The pins of the chosen six."""
    if len(pinned) <= BESIDE:
        return pinned
    starts = list(range(0, len(pinned), BESIDE))
    start = st.segmented_control(
        "Which of them",
        starts,
        default=0,
        format_func=lambda start: f"{start + 1} to {min(start + BESIDE, len(pinned))}",
        key=f"pinned-part-{len(starts)}",
        required=True,
        label_visibility="collapsed",
    )
    return pinned[start : start + BESIDE]


def _controls(here: Here, shown: Sequence[Pin]) -> None:
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        for pin in shown:
            with st.container(horizontal=True, gap=None, width="content", vertical_alignment="center"):
                feature_link(
                    here, pin.feature, f"{here.ensembles[pin.ensemble].title} {pin.feature:,}", ensemble=pin.ensemble
                )
                pins.pin_button(here, pin.feature, ensemble=pin.ensemble, text=False)
        st.button("Unpin all", icon=":material/keep_off:", on_click=pins.replace, args=(here, ()), key="unpin-all")


def _column(here: Here, pin: Pin) -> Beside | None:
    info = here.ensembles[pin.ensemble]
    table = finding.features(here.run, info)
    view = feature_view(here.run, pin.ensemble, pin.feature, count=EXAMPLES, window=WINDOW, quantiles=False)
    if table is None or view is None:
        return None
    member, _ = info.place(pin.feature)
    return Beside(
        feature=pin.feature,
        ensemble=info.title,
        method=info.name,
        member=member,
        staged=info.staged,
        label=str(table["label"].iloc[pin.feature]),
        figures=_figures(here.run, info, pin.feature, here.words),
        examples=view.top,
        edges=view.edges,
        counts=view.counts,
        peak=view.peak,
    )


def _figures(run: Run, info: EnsembleInfo, feature: int, words: Words) -> list[tuple[str, str, str]]:
    table = tables.atoms(run, info.name)
    assert table is not None
    row = table.iloc[feature]
    figures = (DENSITY, COUNT, PEAK, MEAN_ACTIVE, STABILITY, CLOSEST, FAMILY, TOP_TOKEN)
    return [(figure.title, figure.text(row), figure.explained(words)) for figure in figures]


show(here())
