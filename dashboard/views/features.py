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
            f"All {info.features:,} features of {info.title}, {info.members} × {info.widths[0]:,}. "
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
    first, version = _first_choice()
    member = first.member if first.member is not None and first.member < info.members else ALL_MEMBERS
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        search = st.text_input(
            "Search", first.search, key=_key(version), placeholder="token, label or number", icon=":material/search:"
        )
        member = st.selectbox(
            info.member_word.capitalize(),
            [ALL_MEMBERS, *range(info.members)],
            member + 1,
            key=f"f-member-{info.name}-{version}",
            format_func=lambda number: "all" if number == ALL_MEMBERS else f"{info.member_word} {number}",
            width=150,
        )
        labels = _menu("Label", LABEL_STATES, first.labels, f"f-labels-{version}")
        sort = _menu("Sort by", SORTS, first.sort, f"f-sort-{version}")
        with st.popover("More filters"):
            density, stability, dead = _more_filters(info, first, version)
    filters = Filters(
        search=(search or "").strip(),
        member=None if member == ALL_MEMBERS else member,
        labels=labels,
        sort=sort,
        density=density,
        stability=stability,
        dead=dead,
    )
    query = filters.to_query()
    address.write({key: query.get(key) for key in chosen.KEYS})
    st.session_state[_SEEN] = (query, first, version)
    return filters


def _menu(name: str, texts: dict[str, str], first: str, key: str) -> str:
    return st.selectbox(name, list(texts), list(texts).index(first), key=key, format_func=texts.__getitem__, width=160)


def _more_filters(info: queries.EnsembleInfo, first: Filters, version: int) -> tuple[tuple[float, float], float, bool]:
    density = st.select_slider(
        "Density (share of tokens on which it fires)",
        DENSITIES,
        first.density,
        key=f"f-density-{version}",
        format_func=lambda limit: f"{100 * limit:g} %",
    )
    stability = 0.0
    if info.members > 1:
        text = "Stability at least (share of the other members that have it)"
        stability = st.slider(text, 0.0, 1.0, first.stability, step=0.05, key=f"f-stability-{version}")
    return density, stability, st.toggle("Show dead features too", first.dead, key=f"f-dead-{version}")


def _key(version: int) -> str:
    return f"f-search-{version}"


def _first_choice() -> tuple[Filters, int]:
    """What the filters start from and the version of their widgets.

    Widgets keep what people do with them, until the address bar is changed from outside (a link, Back, a first visit):
    then they are made anew from it.
    """
    query = {key: st.query_params[key] for key in chosen.KEYS if key in st.query_params}
    seen, first, version = st.session_state.get(_SEEN, ({}, Filters(), 0))
    if seen == query and _key(version) in st.session_state:
        return first, version
    return Filters.from_query(query), version + 1


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
