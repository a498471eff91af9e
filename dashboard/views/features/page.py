"""Features: search, filter, sort and page through all features of an ensemble; a click or Enter opens one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard.components.feature_list import feature_list
from dashboard.shared import address, pins
from dashboard.shared import filters as chosen
from dashboard.shared.address import Here, here
from dashboard.shared.common import missing, open_feature, opened_key, trained_ensemble
from dashboard.shared.faults import fragment
from dashboard.shared.filters import DEAD_STATES, DENSITIES, LABEL_STATES, Filters
from dashboard.shared.look.cards import plain
from dashboard.shared.pins import Pin
from dashboard.shared.reads import cluster_names, finding
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.views.features import rows
from sae_core.foundation.numbers import whole
from sae_core.report.pieces.cards import heading
from sae_core.report.pieces.tokens import show_alone

ALL = -2
"""Stands in a menu for every member and every cluster."""
PAGE, FAMILIES = "page", 9
_SEEN, _TO_OPEN = "features-address", "features-to-open"
_WIDGETS = ("q", "token", "concept", "member", "labels", "from", "to", "stability", "family", "cluster", "dead")
"""Filters that have a widget; sort and page are the table's own."""


def show(here: Here) -> None:
    """The whole page."""
    info = trained_ensemble(here)
    st.html(
        heading(
            "Features",
            f"All {info.features:,} features of {info.title}, {info.members} × {info.widths[0]:,}. Search by words, by "
            f"the {here.words.told_by} that drives them or by the concept that they carry; click a row to open the "
            "feature.",
        )
    )
    if finding.features(here.run, info) is None:
        missing(here, "index")
        return
    _find(here, info)


@fragment
def _find(here: Here, info: EnsembleInfo) -> None:
    """What changes at every filter: the widgets and the table."""
    to_open = st.session_state.pop(_TO_OPEN, None)
    filters = _filters(here, info)
    table = finding.features(here.run, info)
    if table is None:
        return
    ranking = finding.ranking(here.run, info, filters)
    order = finding.order(here.run, info, filters)
    _say(here, info, filters, ranking, len(order))
    if not len(order):
        st.info("No feature fits this search. Take a filter away.", icon=":material/search_off:")
        return
    opened = st.session_state.get(opened_key(here, info))
    asked = st.query_params.get(PAGE, "")
    number = int(asked) - 1 if asked.isdigit() and len(asked) < 9 else rows.page_with(order, opened)
    page = rows.page(
        table,
        order,
        number,
        columns=rows.columns(info.member_word, members=info.members, filters=filters, table=table, words=here.words),
        filters=filters,
        scores=None if ranking is None else ranking.table,
        pinned=[pin.feature for pin in pins.pinned(here) if pin.ensemble == info.name],
        chosen=opened,
    )
    # The key changes with the choice, or a remembered click would mean another feature.
    key = f"features-{info.name}-{here.run.path.name}"
    feature_list(page, key=key, on_act=lambda: _act(here, info, filters, key))
    if to_open is not None:
        open_feature(here, to_open, **filters.to_query())


def _act(here: Here, info: EnsembleInfo, filters: Filters, key: str) -> None:
    """Do what was asked for in the table; it comes from the browser and is checked."""
    done = getattr(st.session_state.get(key), "act", None)
    if not isinstance(done, Mapping):
        return
    kind, value = done.get("kind"), done.get("value")
    if kind == "sort" and value in chosen.SORTS:
        reverse = value == filters.column and not filters.reverse
        address.write({"sort": str(value), "dir": "reverse" if reverse else None, PAGE: None})
        st.session_state.pop(opened_key(here, info), None)
    elif kind == "page" and isinstance(value, int) and value >= 0:
        address.write({PAGE: str(value + 1)})
    elif kind in ("open", "pin") and isinstance(value, int) and 0 <= value < info.features:
        st.session_state[opened_key(here, info)] = value
        if kind == "pin":
            pins.toggle(here, Pin(info.name, value))
        else:
            st.session_state[_TO_OPEN] = value


def _say(here: Here, info: EnsembleInfo, filters: Filters, ranking: finding.Ranking | None, found: int) -> None:
    """How many there are, and what a token or a concept means."""
    parts = [f"{whole(found)} of {whole(info.features)} features"]
    if filters.token and ranking is not None and ranking.tokens:
        read = ", ".join(f"`{show_alone(text)}`" for text in ranking.tokens[:6])
        more = f" and {len(ranking.tokens) - 6} more" if len(ranking.tokens) > 6 else ""
        parts.append(f"driven by {read}{more}, of each {here.words.told_by} at most those that tell it best")
    if filters.concept:
        parts.append(f"carry {plain(filters.concept)}: chosen on training texts to detect it")
    pinned = len(pins.pinned(here))
    if pinned:
        parts.append(f"{pinned} pinned")
    st.caption(" · ".join(parts))
    if filters.token and not finding.has_tokens(here.run, info.name):
        missing(here, "index", "This run was indexed before features could be found by token")
    elif filters.token and ranking is not None and not ranking.tokens:
        reads_text = here.run.settings.origin.reads_text
        like = ", ".join(f"`{show_alone(text)}`" for text in ranking.instead)
        st.info(
            f"No {here.words.told_by} of the corpus reads “{plain(filters.token)}”."
            + (f" These begin with it: {like}." if like else "")
            + (" A word of several tokens can be read on the page *Type a text*." if reads_text else ""),
            icon=":material/search_off:",
        )


def _filters(here: Here, info: EnsembleInfo) -> Filters:
    first, version = _first_choice()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        search = st.text_input(
            "Search",
            first.search,
            key=_key(version),
            placeholder="words, label or number",
            icon=":material/search:",
            help=f"Words that must all occur in a feature's number (or 1:6, number 6 of member 1), top "
            f"{here.words.told_by}, promoted tokens, suggested label, or what people wrote.",
            width=215,
        )
        token = st.text_input(
            f"{here.words.told_by.capitalize()} that drives it",
            first.token,
            key=f"f-token-{version}",
            placeholder=here.words.sought,
            help=f"Features that tell this {here.words.told_by} best, over the whole indexed corpus. Type · for a "
            f"space and ⏎ for a line end to mean one {here.words.told_by} exactly.",
            width=150,
        )
        concept = _concept(here, info, first, version)
        member = _member(info, first, version)
        labels = _menu("Label", LABEL_STATES, first.labels, f"f-labels-{version}")
        with st.popover("More filters"):
            more = _more_filters(here, info, first, version)
        if first != Filters() or st.session_state.get(_SEEN, ({},))[0]:
            st.button(
                "", icon=":material/filter_alt_off:", key="f-clear", on_click=_clear, help="Take all filters away"
            )
    query = st.query_params
    filters = Filters(
        search=(search or "").strip(),
        token=(token or "").strip(" ") or (token or "")[:1],
        concept=concept,
        member=member,
        labels=labels,
        sort=query.get("sort", "") if query.get("sort", "") in chosen.SORTS else "",
        reverse=query.get("dir") == "reverse",
        **more,
    )
    if _remember(filters, first, version):
        st.session_state.pop(opened_key(here, info), None)
    return filters


def _remember(filters: Filters, first: Filters, version: int) -> bool:
    """Put the choice into the address bar, and say whether it is another one, which starts at its first page."""
    query = filters.to_query()
    mine = {key: query[key] for key in _WIDGETS if key in query}
    is_other = mine != {key: st.query_params[key] for key in _WIDGETS if key in st.query_params}
    start = {PAGE: None} if is_other else {}
    address.write({**{key: query.get(key) for key in chosen.KEYS}, **start})
    st.session_state[_SEEN] = (mine, first, version)
    return is_other


def _clear() -> None:
    address.write(dict.fromkeys((*chosen.KEYS, PAGE)))


def _concept(here: Here, info: EnsembleInfo, first: Filters, version: int) -> str:
    names = finding.concept_names(here.run, info.name)
    if not names:
        return ""
    return st.selectbox(
        "Concept",
        ["", *names],
        names.index(first.concept) + 1 if first.concept in names else 0,
        key=f"f-concept-{info.name}-{version}",
        format_func=lambda name: name.replace("/", " · ", 1) or "any",
        help="Features that detect this concept, the fewest that suffice first.",
        width=160,
    )


def _member(info: EnsembleInfo, first: Filters, version: int) -> int | None:
    if info.members < 2:
        return None
    start = first.member if first.member is not None and first.member < info.members else ALL
    options = [ALL, *range(info.members)]
    picked = st.selectbox(
        info.member_word.capitalize(),
        options,
        options.index(start),
        key=f"f-member-{info.name}-{version}",
        format_func=lambda number: "all" if number == ALL else f"{info.member_word} {number}",
        width=115,
    )
    return None if picked == ALL else picked


def _menu(name: str, texts: dict[str, str], first: str, key: str) -> str:
    return st.selectbox(name, list(texts), list(texts).index(first), key=key, format_func=texts.__getitem__, width=130)


def _more_filters(here: Here, info: EnsembleInfo, first: Filters, version: int) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "density": st.select_slider(
            f"Density (share of {here.words.rows} on which it fires)",
            DENSITIES,
            first.density,
            key=f"f-density-{version}",
            format_func=lambda limit: f"{100 * limit:g} %",
        )
    }
    if info.members > 1:
        text = "Stability at least (share of the other members that have it)"
        chosen["stability"] = st.slider(text, 0.0, 1.0, first.stability, step=0.05, key=f"f-stability-{version}")
        text = "Family at least (features that match one to one over the members)"
        most = max(2, min(info.members, FAMILIES))
        chosen["family"] = st.slider(text, 1, most, min(first.family, most), key=f"f-family-{version}")
    clusters = cluster_names.clusters(here.run, info)
    if clusters:
        names = {ALL: "any", -1: "in no cluster", **clusters}
        start = first.cluster if first.cluster in names else ALL
        picked = st.selectbox(
            "Cluster of the atom map",
            list(names),
            list(names).index(start),
            key=f"f-cluster-{info.name}-{version}",
            format_func=lambda number: names[number],
        )
        chosen["cluster"] = None if picked == ALL else picked
    chosen["dead"] = _menu("Features that never fire", DEAD_STATES, first.dead, f"f-dead-{version}")
    return chosen


def _key(version: int) -> str:
    return f"f-search-{version}"


def _first_choice() -> tuple[Filters, int]:
    """What the filters start from and the version of their widgets.

    Widgets keep what people do with them, until the address bar is changed from outside (a link, Back, a first visit):
    then they are made anew from it.
    """
    query = {key: st.query_params[key] for key in _WIDGETS if key in st.query_params}
    seen, first, version = st.session_state.get(_SEEN, ({}, Filters(), 0))
    if seen == query and _key(version) in st.session_state:
        return first, version
    return Filters.from_query(query), version + 1


show(here())
