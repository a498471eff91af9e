"""Features: the table of all features, searched, filtered and sorted; a click opens a feature."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard import address, queries
from dashboard.address import Here, here
from dashboard.common import missing, open_feature, picked_row, trained_ensemble
from dashboard.parts import filters as chosen
from dashboard.parts.cards import heading
from dashboard.parts.filters import DENSITIES, LABEL_STATES, SORTS, Filters
from dashboard.parts.numbers import whole
from dashboard.parts.tokens import show_alone

MAX_ROWS = 100_000  # Streamlit's table loses selection above 150,000 rows
ALL_MEMBERS = -1
_SEEN = "features-address"


def show(here: Here) -> None:
    """The whole page."""
    info = trained_ensemble(here)
    st.html(
        heading(
            "Features",
            f"All {info.features:,} features of {info.name}, {info.members} × {info.widths[0]:,}. "
            "Click a row to open the feature; words in the search must all occur in its tokens, label, note or number.",
        )
    )
    table = queries.features(here.run, info)
    if table is None:
        missing(here, "index")
        return
    filters = _filters(info)
    found = chosen.apply(table, filters)
    _table(here, info, found, filters)


def _filters(info: queries.EnsembleInfo) -> Filters:
    _seed(info)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.text_input("Search", key="f_q", placeholder="token, label or number", icon=":material/search:")
        st.selectbox(
            info.member_word.capitalize(),
            [ALL_MEMBERS, *range(info.members)],
            key="f_member",
            format_func=lambda number: "all" if number == ALL_MEMBERS else f"{info.member_word} {number}",
            width=150,
        )
        st.selectbox("Label", list(LABEL_STATES), key="f_labels", format_func=LABEL_STATES.__getitem__, width=150)
        st.selectbox("Sort by", list(SORTS), key="f_sort", format_func=SORTS.__getitem__, width=160)
        with st.popover("More filters"):
            _more_filters(info)
    filters = Filters(
        search=(st.session_state["f_q"] or "").strip(),
        member=None if st.session_state["f_member"] == ALL_MEMBERS else st.session_state["f_member"],
        labels=st.session_state["f_labels"],
        sort=st.session_state["f_sort"],
        density=tuple(st.session_state["f_density"]),
        stability=st.session_state.get("f_stability", 0.0),
        dead=st.session_state["f_dead"],
    )
    query = filters.to_query()
    address.write({key: query.get(key) for key in chosen.KEYS})
    st.session_state[_SEEN] = query
    return filters


def _more_filters(info: queries.EnsembleInfo) -> None:
    st.select_slider(
        "Density (share of tokens on which it fires)",
        DENSITIES,
        key="f_density",
        format_func=lambda density: f"{100 * density:g} %",
    )
    if info.members > 1:
        st.slider(
            "Stability at least (share of the other members that have it)", 0.0, 1.0, step=0.05, key="f_stability"
        )
    st.toggle("Show dead features too", key="f_dead")


def _seed(info: queries.EnsembleInfo) -> None:
    """Set the widgets from the address bar, but only when it was changed from outside: a link, Back, a first visit."""
    query = {key: st.query_params[key] for key in chosen.KEYS if key in st.query_params}
    if st.session_state.get(_SEEN) == query and "f_q" in st.session_state:
        if st.session_state["f_member"] >= info.members:  # after a change to an ensemble with fewer members
            st.session_state["f_member"] = ALL_MEMBERS
        return
    filters = Filters.from_query(query)
    st.session_state["f_q"] = filters.search
    st.session_state["f_member"] = (
        filters.member if filters.member is not None and filters.member < info.members else ALL_MEMBERS
    )
    st.session_state["f_labels"] = filters.labels
    st.session_state["f_sort"] = filters.sort
    st.session_state["f_density"] = filters.density
    st.session_state["f_stability"] = filters.stability
    st.session_state["f_dead"] = filters.dead


def _table(here: Here, info: queries.EnsembleInfo, found: pd.DataFrame, filters: Filters) -> None:
    shown = found.head(MAX_ROWS)
    cut = f" (the first {whole(MAX_ROWS)} are shown)" if len(found) > MAX_ROWS else ""
    st.caption(
        f"{whole(len(found))} of {whole(info.features)} features{cut} · density: share of tokens on which it fires"
        + (" · stability: share of the other members that have it too" if info.members > 1 else "")
    )
    if shown.empty:
        st.info("No feature fits this search. Take a filter away.", icon=":material/search_off:")
        return
    # The key changes with the choice, or a remembered click would mean another feature.
    key = f"table-{info.name}-{hash((filters, here.run.path))}"
    st.dataframe(
        _columns(shown, info),
        key=key,
        hide_index=True,
        height=min(640, 37 + 35 * len(shown)),
        on_select="rerun",
        selection_mode="single-cell",
        column_config=_config(info),
        alt="Features; click a row to open one",
    )
    row = picked_row(key)
    if row is not None and row < len(shown):
        open_feature(here, int(shown["feature"].iloc[row]), **filters.to_query())


def _columns(shown: pd.DataFrame, info: queries.EnsembleInfo) -> pd.DataFrame:
    columns = pd.DataFrame(
        {
            "feature": shown["feature"],
            "member": shown["member"],
            "token": [show_alone(str(token)) for token in shown["top_token"]],
            "label": shown["label"],
            "density": 100 * shown["density"],
            "peak": shown["peak"],
        }
    )
    if info.members > 1:
        columns["stability"] = shown["stability"]
        columns["family"] = shown["family_size"]
    if "promoted_text" in shown:
        columns["promotes"] = [
            " ".join(show_alone(t) for t in str(text).split()[:4]) for text in shown["promoted_text"]
        ]
    return columns


def _config(info: queries.EnsembleInfo) -> dict[str, Any]:
    number = st.column_config.NumberColumn
    text = st.column_config.TextColumn
    return {
        "feature": number("Feature", format="%d", width="small", help="Number of the feature in the ensemble"),
        "member": number(info.member_word.capitalize(), format="%d", width="small"),
        "token": text("Top token", help="The most frequent token among its strongest activations; · is a space"),
        "label": text("Label", width="medium"),
        "density": number("Density", format="%.3g %%", help="Share of the indexed tokens on which it fires"),
        "peak": number("Peak", format="%.2f", help="Its largest activation"),
        "stability": st.column_config.ProgressColumn(
            "Stability", format="percent", min_value=0, max_value=1, help="Share of the other members that have it too"
        ),
        "family": number("Family", format="%d", width="small", help="Features that match one to one over the members"),
        "promotes": text("Promotes", help="Tokens whose prediction it raises most (logit lens)"),
    }


show(here())
