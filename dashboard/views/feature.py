"""One feature: examples in context, histogram, logit lens, matches in the other members, label and note."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from dashboard import address, queries
from dashboard.address import Here, here
from dashboard.common import FEATURES_PAGE, feature_link, missing, trained_ensemble
from dashboard.label_form import label_form
from dashboard.parts import filters as chosen
from dashboard.parts.cards import chip, heading, member_chip, notice, plain, section, tile, tiles, token_bars
from dashboard.parts.colors import HIGHLIGHT, METHODS
from dashboard.parts.filters import Filters
from dashboard.parts.histogram import histogram_html
from dashboard.parts.numbers import decimal, is_missing, one_in, percent, whole
from dashboard.parts.tokens import legend, show_alone, strips, token_chips

SHOWN = (12, 24, 48)
_BEFORE, _STEPPED = "feature-before", "feature-stepped"


def show(here: Here) -> None:
    """The whole page."""
    info = trained_ensemble(here)
    table = queries.features(here.run, info)
    if table is None:
        st.html(heading("Feature"))
        missing(here, "index")
        return
    filters = Filters.from_query({key: st.query_params[key] for key in chosen.KEYS if key in st.query_params})
    order = queries.order(here.run, info, filters, table)
    asked = address.requested_feature(st.query_params.get(address.FEATURE), info.features)
    feature = asked if asked is not None else int(order[0]) if len(order) else 0
    # Written even if it is the same: a link from this page to itself changes the query but not the address bar.
    st.query_params[address.FEATURE] = str(feature)
    _to_the_top(feature)
    row = table.iloc[feature]
    _head(here, info, row, order, filters)
    label_form(here, info, feature)
    st.html(_figures(info, row))
    view = queries.feature_view(here.run, info.name, feature, count=st.session_state.get("shown", SHOWN[0]))
    left, right = st.columns([1.95, 1], gap="large")
    with left:
        _examples(here, view)
    with right:
        _side(here, info, row, view, filters)


def _to_the_top(feature: int) -> None:
    """After a link to another feature, start at its top; the step buttons leave the page where it is, to compare."""
    before, stepped = st.session_state.get(_BEFORE), st.session_state.pop(_STEPPED, False)
    st.session_state[_BEFORE] = feature
    # Its place is always taken. Otherwise all below would move up at the next run, and the browser would make the
    # label's form anew and forget what is being typed there.
    place = st.empty()
    if before is not None and before != feature and not stepped:
        script = "document.querySelector('[data-testid=stMain]')?.scrollTo(0, 0)"
        place.html(f"<script>{script} // {feature}</script>", unsafe_allow_javascript=True)


def _go(feature: int) -> None:
    st.session_state[_STEPPED] = True
    address.write({address.FEATURE: str(feature)})


def _head(here: Here, info: queries.EnsembleInfo, row: pd.Series, order: NDArray[np.int64], filters: Filters) -> None:
    feature = int(row["feature"])
    before, after = chosen.neighbours(order, feature)
    title, buttons = st.columns([2.2, 1.2], vertical_alignment="top")
    with title:
        chips = [
            chip(info.title, METHODS.get(info.name, "")),
            member_chip(int(row["member"]), stage=info.staged),
            chip(f"number {int(row['latent'])} in its {info.member_word}"),
        ]
        if row["label"]:
            chips.append(chip(str(row["label"]), HIGHLIGHT, title="label"))
        if row["dead"]:
            chips.append(chip("dead: fires on no indexed token"))
        st.html(heading(f"Feature {feature:,}", "", chips))
    with buttons, st.container(horizontal=True, horizontal_alignment="right", gap="small"):
        if st.button("All", icon=":material/format_list_bulleted:", help="Back to the table", key="all"):
            st.switch_page(FEATURES_PAGE, query_params={**here.link(), **filters.to_query()})
        _step("Previous", before, "Left", ":material/chevron_left:")
        _step("Next", after, "Right", ":material/chevron_right:")


def _step(name: str, feature: int | None, key: str, icon: str) -> None:
    st.button(
        name,
        icon=icon,
        key=name.lower(),
        disabled=feature is None,
        shortcut=key,
        help="In the order of the table" if feature is not None else "There is none in this direction",
        on_click=_go,
        args=(feature,),
    )


def _figures(info: queries.EnsembleInfo, row: pd.Series) -> str:
    items = [
        tile(
            "Density",
            percent(row["density"], 2),
            one_in(row["density"]),
            title="Share of the indexed tokens on which it fires",
        ),
        tile("Fires on", whole(row["count"]), "indexed tokens"),
        tile("Peak activation", decimal(row["peak"]), f"mean when active {decimal(row['mean_active'])}"),
    ]
    if info.members > 1:
        others = info.members - 1
        found = "" if is_missing(row["stability"]) else f"in {round(row['stability'] * others)} of {others} others"
        items.append(
            tile(
                "Stability",
                percent(row["stability"], 0),
                found,
                title="Share of the other members with a feature of cosine ≥ 0.7",
            )
        )
        items.append(tile("Closest match", decimal(row["best_cosine"]), "cosine, other members"))
        size = int(row["family_size"])
        items.append(
            tile(
                "Family",
                str(size) if size > 1 else "alone",
                "features, one to one" if size > 1 else "no one-to-one match",
            )
        )
    return tiles(items)


def _examples(here: Here, view: queries.FeatureView | None) -> None:
    st.html(
        section(
            "Examples in context",
            "Left: the activation at the outlined token; below: where the text comes from. One example a document.",
        )
    )
    if view is None:
        missing(here, "index")
        return
    if not view.top:
        st.html(notice("It is dead", "It fires on none of the indexed tokens, so there are no examples."))
        return
    blocks = [legend(view.peak), strips(view.top, view.peak, heading="Strongest", note="where it fires most")]
    for number, low, high, examples in view.quantiles:
        note = f"activation {decimal(low)} to {decimal(high)}"
        blocks.append(strips(examples, view.peak, heading=f"Quantile {number}", note=note))
    st.html("".join(blocks))
    st.segmented_control(
        "Strongest examples shown", SHOWN, default=SHOWN[0], key="shown", required=True, persist_state="session"
    )


def _side(
    here: Here, info: queries.EnsembleInfo, row: pd.Series, view: queries.FeatureView | None, filters: Filters
) -> None:
    feature = int(row["feature"])
    if view is not None:
        st.html(
            section(
                "How strongly it fires",
                "How many tokens (height, square-root scale) have each activation, of those on which it fires.",
            )
            + histogram_html(view.edges, view.counts)
        )
    _lens(here, info, feature)
    _matches(here, info, feature, filters)
    _together(here, info, feature, filters)


def _lens(here: Here, info: queries.EnsembleInfo, feature: int) -> None:
    table = queries.promoted(here.run, info.name)
    if table is None or feature >= len(table):
        return
    row = table.iloc[feature]
    up, down = [float(v) for v in row["promoted_scores"]], [float(v) for v in row["suppressed_scores"]]
    largest = max((abs(score) for score in [*up, *down]), default=0.0)
    st.html(
        section("What it predicts next", "Logit lens: the tokens whose logit its atom raises or lowers most, in nats.")
        + token_bars("Promoted", list(row["promoted"]), up, METHODS["bagged"], largest=largest)
        + token_bars("Suppressed", list(row["suppressed"]), down, METHODS["boosted"], largest=largest)
    )


def _matches(here: Here, info: queries.EnsembleInfo, feature: int, filters: Filters) -> None:
    if info.members < 2:
        return
    st.html(
        section(
            f"In the other {info.member_word}s",
            "The most similar feature of each, by the cosine of their atoms; 1 is the same direction.",
        )
    )
    table = queries.matches(here.run, info.name)
    if table is None:
        missing(here, "index", "The members are not matched yet")
        return
    for match in table[table["feature"] == feature].sort_values("other_member").to_dict("records"):
        other = int(match["best_feature"])
        paired = " · one-to-one match" if int(match["matched_feature"]) == other else ""
        with st.container(border=True, gap="small"):
            tokens = token_chips(queries.peak_tokens(here.run, info.name, other, count=4))
            st.html(
                f'<div class="sae card"><div class="row">{member_chip(int(match["other_member"]), stage=info.staged)}'
                f'<span class="muted">cosine {decimal(match["best_cosine"])}{paired}</span></div>{tokens}</div>'
            )
            feature_link(here, other, f"Feature {other:,}", **filters.to_query())


def _together(here: Here, info: queries.EnsembleInfo, feature: int, filters: Filters) -> None:
    found = queries.often_together(here.run, info.name, feature)
    if found is None or found.empty:
        return
    st.html(
        section(
            "Fires together with",
            "Features on the same tokens; lift is how many times more often than if they were independent.",
        )
    )
    table = queries.atoms(here.run, info.name)
    for pair in found.to_dict("records"):
        other = int(pair["feature"])
        token = show_alone(str(table["top_token"].iloc[other])) if table is not None else ""
        feature_link(here, other, f"{other:,} · {plain(token)} · lift {decimal(pair['lift'], 1)}", **filters.to_query())


show(here())
