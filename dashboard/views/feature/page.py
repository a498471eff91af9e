"""One feature: examples in context, histogram, suggested label, logit lens, nearest atoms, company, label and note.

All of it is one fragment, so that a step to the next feature draws nothing else, and most of it is two blocks of HTML.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from dashboard.components import feature_keys
from dashboard.shared import address
from dashboard.shared import filters as chosen
from dashboard.shared.address import Here, here
from dashboard.shared.common import go_to, missing, opened_key, trained_ensemble
from dashboard.shared.faults import fragment
from dashboard.shared.feature_figures import CLOSEST, COUNT, DENSITY, FAMILY, STABILITY
from dashboard.shared.filters import Filters
from dashboard.shared.look.cards import notice, what_to_run
from dashboard.shared.look.colors import method_color
from dashboard.shared.pins import pin_button
from dashboard.shared.reads import finding, label_store, one_feature, tables
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.views.feature.label_form import label_form
from dashboard.views.feature.near import near_features
from dashboard.views.feature.side import keys_html, lens_html, passages_html
from dashboard.views.feature.steps import stepped
from sae_core.foundation.colours import HIGHLIGHT
from sae_core.foundation.numbering import within
from sae_core.foundation.numbers import decimal, is_missing, one_in
from sae_core.foundation.origin import Words
from sae_core.labels import Label
from sae_core.report.html import Html, joined
from sae_core.report.pieces.cards import chip, heading, member_chip, section, tile, tiles
from sae_core.report.pieces.histogram import SCALES, histogram_html
from sae_core.report.pieces.tokens import legend, strips

SHOWN = (12, 24, 48)
WINDOWS = {"8": 8, "16": 16, "32": 32, "full": 1_000_000}
"""Tokens shown on either side; a window ends where its passage does."""
_BEFORE, _STEPPED = "feature-before", "feature-stepped"


def show(here: Here) -> None:
    """The whole page."""
    info = trained_ensemble(here)
    if tables.atoms(here.run, info.name) is None:
        st.html(heading("Feature"))
        missing(here, "index")
        return
    filters = Filters.from_query({key: st.query_params[key] for key in chosen.KEYS if key in st.query_params})
    order = finding.order(here.run, info, filters)
    asked = address.requested_feature(st.query_params.get(address.FEATURE), info.features)
    feature = asked if asked is not None else int(order[0]) if len(order) else 0
    address.write({address.FEATURE: str(feature)}, always=True)
    _feature(here, info, order, filters)


@fragment
def _feature(here: Here, info: EnsembleInfo, order: NDArray[np.int64], filters: Filters) -> None:
    """What a step changes; the order of the table is as it was when the page was opened."""
    feature = address.requested_feature(st.query_params.get(address.FEATURE), info.features) or 0
    with label_store.labels(here.run).at_once():
        _draw(here, info, feature, order, filters)


def _draw(here: Here, info: EnsembleInfo, feature: int, order: NDArray[np.int64], filters: Filters) -> None:
    _to_the_top(feature)
    atoms = tables.atoms(here.run, info.name)
    assert atoms is not None, "the page has looked"
    row = atoms.iloc[feature]
    label = label_store.label_of(here.run, info, feature)
    _head(here, info, row, label, order, filters)
    label_form(here, info, feature, label)
    st.html(_figures(info, row, here.words))
    left, right = st.columns([1.95, 1], gap="large")
    with left:
        view = _examples(here, info, feature)
    with right:
        _side(here, info, feature, atoms, view, filters)
    feature_keys.feature_keys(lambda: _act(info, order))


def _act(info: EnsembleInfo, order: NDArray[np.int64]) -> None:
    """What keys and links ask for."""
    act = feature_keys.asked(info.features)
    if act.open is not None:
        address.write({address.FEATURE: str(act.open)})
    elif act.steps:
        now = address.requested_feature(st.query_params.get(address.FEATURE), info.features) or 0
        _go(stepped(order, now, act.steps))


def _to_the_top(feature: int) -> None:
    """After a link to another feature, start at its top; steps leave the page where it is, to compare."""
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


def _head(
    here: Here,
    info: EnsembleInfo,
    row: pd.Series,
    label: Label | None,
    order: NDArray[np.int64],
    filters: Filters,
) -> None:
    feature = int(row["feature"])
    title, buttons = st.columns([2, 1.4], vertical_alignment="top")
    with title:
        chips = [
            chip(info.title, method_color(info.name)),
            member_chip(int(row["member"]), stage=info.staged),
            chip(
                within(int(row["member"]), int(row["latent"])),
                title=f"{info.member_word.capitalize()} and number within it; searches and lists take it, too",
            ),
        ]
        if label and label.label:
            chips.append(chip(label.label, HIGHLIGHT, title="label"))
        if row["dead"]:
            chips.append(chip(f"dead: fires on no indexed {here.words.row}"))
        st.html(heading(f"Feature {feature:,}", "", chips))
    with buttons, st.container(horizontal=True, horizontal_alignment="right", gap="small"):
        if st.button("All", icon=":material/format_list_bulleted:", help="Back to its row in the table", key="all"):
            st.session_state[opened_key(here, info)] = feature
            go_to("features", {**here.link(), **filters.to_query()})
        pin_button(here, feature, shortcut="p", text=False)
        _step("Previous", stepped(order, feature, -1), feature, "←", ":material/chevron_left:")
        _step("Next", stepped(order, feature, 1), feature, "→", ":material/chevron_right:")


def _step(name: str, to: int, feature: int, key: str, icon: str) -> None:
    st.button(
        name,
        icon=icon,
        key=name.lower(),
        disabled=to == feature,
        help=f"In the order of the table (key {key})" if to != feature else "There is none in this direction",
        on_click=_go,
        args=(to,),
    )


def _figures(info: EnsembleInfo, row: pd.Series, words: Words) -> Html:
    rows = words.rows
    items = [
        tile(DENSITY.title, DENSITY.text(row), one_in(row["density"], rows), title=DENSITY.explained(words)),
        tile(COUNT.title, COUNT.text(row), f"indexed {rows}"),
        tile("Peak activation", decimal(row["peak"]), f"mean when active {decimal(row['mean_active'])}"),
    ]
    if info.members > 1:
        others = info.members - 1
        found = "" if is_missing(row["stability"]) else f"in {round(row['stability'] * others)} of {others} others"
        items.append(tile(STABILITY.title, STABILITY.text(row), found, title=STABILITY.definition))
        items.append(tile(CLOSEST.title, CLOSEST.text(row), "cosine, other members"))
        size = int(row["family_size"])
        items.append(
            tile(
                FAMILY.title,
                str(size) if size > 1 else "alone",
                "features, one to one" if size > 1 else "no one-to-one match",
            )
        )
    return tiles(items)


def _examples(here: Here, info: EnsembleInfo, feature: int) -> one_feature.FeatureView | None:
    # The controls stand below what they change, and their values are known before they are drawn.
    shown, window = st.session_state.get("shown", SHOWN[0]), st.session_state.get("window", "16")
    view = one_feature.feature_view(here.run, info.name, feature, count=shown, window=WINDOWS[window])
    words = here.words
    blocks = [section(words.examples, words.how_to_read)]
    if view is None:
        blocks.append(what_to_run("index", here.run.path))
    elif not view.top:
        blocks.append(notice("It is dead", f"It fires on none of the indexed {words.rows}, so there are no examples."))
    else:
        tokens = view.top[0].row is None
        blocks.append(legend(view.peak, tokens=tokens))
        blocks.append(strips(view.top, view.peak, heading="Strongest", note="where it fires most"))
        for number, low, high, examples in view.quantiles:
            note = f"activation {decimal(low)} to {decimal(high)}, a fifth of the {words.rows} on which it fires"
            blocks.append(strips(examples, view.peak, heading=f"Quantile {number}", note=note))
    st.html(joined(*blocks))
    with st.container(horizontal=True, gap="medium"):
        # A row that stands for itself has no others around it.
        if view is None or not view.top or view.top[0].row is None or view.top[0].row.places is not None:
            st.segmented_control(
                f"{words.rows.capitalize()} on either side",
                list(WINDOWS),
                default="16",
                key="window",
                required=True,
                persist_state="session",
                help=f"“full” shows the whole {words.passage}",
            )
        st.segmented_control(
            "Strongest examples", SHOWN, default=SHOWN[0], key="shown", required=True, persist_state="session"
        )
    st.html(keys_html())
    return view


def _side(
    here: Here,
    info: EnsembleInfo,
    feature: int,
    atoms: pd.DataFrame,
    view: one_feature.FeatureView | None,
    filters: Filters,
) -> None:
    query = {**here.link(), **filters.to_query()}
    if view is not None:
        how = f"How many {here.words.rows} (height of the bar) have each activation, of those on which it fires."
        st.html(section("How strongly it fires", how))
        scale = st.segmented_control(
            "Scale of the bars",
            SCALES,
            default=SCALES[0],
            key="bars",
            required=True,
            persist_state="session",
            label_visibility="collapsed",
        )
        blocks = [histogram_html(view.edges, view.counts, scale=scale or SCALES[0], words=here.words)]
    else:
        blocks = []
    shares = one_feature.passage_labels(here.run, info.name, feature)
    if shares is not None:
        blocks.append(passages_html(shares, here.words))
    lens = tables.promoted(here.run, info.name)
    if lens is not None and feature < len(lens):
        blocks.append(lens_html(lens.iloc[feature].to_dict()))
    st.html(joined(*blocks, *near_features(here, info, feature, atoms, query)))


show(here())
