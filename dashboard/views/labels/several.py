"""Label several features at once, by a list or a filter: set, append or remove a label, or give it to families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from dashboard.shared import filters as chosen
from dashboard.shared import label_tables, labelling
from dashboard.shared.address import Here
from dashboard.shared.common import missing
from dashboard.shared.faults import callback
from dashboard.shared.filters import LABEL_STATES, Filters
from dashboard.shared.look.cards import notice
from dashboard.shared.reads import finding, label_store, tables
from dashboard.shared.reads.opening import EnsembleInfo
from sae_core.foundation.errors import UserError
from sae_core.foundation.numbers import decimal, whole
from sae_core.labels import WRITTEN, Copy, Edit, Label
from sae_core.report.pieces.cards import section
from sae_core.report.pieces.tokens import show_alone

MAX_FEATURES = 20_000
MAX_SHOWN = 500
ALL_MEMBERS = -1
_FAMILY = "family"
_HOW = {**label_tables.ACTIONS, _FAMILY: "Give the label to the family"}


def several(here: Here) -> None:
    """Choose features, say what to do, see what it comes to, do it."""
    if here.ensemble is None:
        missing(here, "train")
        return
    info = here.ensemble
    st.html(
        section(
            f"Which features of {info.title}",
            "By a list or by a filter. All that follows is one step, which Undo takes back as a whole.",
        )
    )
    try:
        features = _features(here, info)
    except UserError as error:
        st.html(notice("This list cannot be read", str(error)))
        return
    if features is None:
        return
    if not features:
        st.caption("No feature is chosen.")
        return
    if len(features) > MAX_FEATURES:
        st.warning(f"{whole(len(features))} features are too many at once; choose up to {whole(MAX_FEATURES)}.")
        return
    _action(here, info, features)


def _features(here: Here, info: EnsembleInfo) -> Sequence[int] | None:
    """The chosen features; None where they cannot be chosen yet."""
    how = st.segmented_control(
        "Choose by",
        ("a list", "a filter"),
        default="a list",
        key="several-by",
        required=True,
        label_visibility="collapsed",
    )
    if how == "a list":
        text = st.text_area(
            "Features",
            key="several-list",
            placeholder="3, 17-20, 1:6",
            help="Numbers in the ensemble, ranges, and member:number within the member; commas or spaces between them",
            height=80,
        )
        return label_tables.listed(text or "", info)
    table = finding.features(here.run, info)
    if table is None:
        missing(here, "index", "A filter needs the index; a list does not")
        return None
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        search = st.text_input(
            "Search", key="several-search", placeholder="token, label or number", icon=":material/search:"
        )
        member = st.selectbox(
            info.member_word.capitalize(),
            [ALL_MEMBERS, *range(info.members)],
            key=f"several-member-{info.name}",
            format_func=lambda number: "all" if number == ALL_MEMBERS else f"{info.member_word} {number}",
            width=150,
        )
        state = st.selectbox("Label", list(LABEL_STATES), key="several-state", format_func=LABEL_STATES.__getitem__)
    filters = Filters(search=(search or "").strip(), member=None if member == ALL_MEMBERS else member, labels=state)
    return [int(number) for number in chosen.apply(table, filters)["feature"]]


def _action(here: Here, info: EnsembleInfo, features: Sequence[int]) -> None:
    st.html(section(f"What to do with {whole(len(features))} feature{'' if len(features) == 1 else 's'}"))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        options = [name for name in _HOW if name != _FAMILY or info.members > 1]
        action = st.selectbox("Action", options, key="several-action", format_func=_HOW.__getitem__, width=260)
        text, least = "", 0.7
        if action == _FAMILY:
            least = st.slider(
                "Cosine at least",
                0.0,
                1.0,
                0.7,
                0.01,
                key="several-least",
                width=260,
                help="Of the atoms of source and target. Families are joined by chains of matches of 0.7 or more, so "
                "two of their features may be less alike.",
            )
        elif action != "remove":
            text = (st.text_input("Label", key="several-text", max_chars=WRITTEN["label"].longest) or "").strip()
    there = {one.feature: one for one in label_store.label_list(here.run) if one.ensemble == info.name}
    if action == _FAMILY:
        _families(here, info, [number for number in features if number in there], there, least)
    elif action == "remove" or text:
        versions = label_store.labels(here.run).versions(info.name, features)
        edits = label_tables.bulk_edits(info, features, there, versions, action=action, text=text, author=here.author)
        _bulk(here, info, edits, there)


def _bulk(here: Here, info: EnsembleInfo, edits: Sequence[Edit], there: Mapping[int, Label]) -> None:
    if not edits:
        st.caption("This would change nothing.")
        return
    tokens = _tokens(here, info)
    rows = [
        {
            "Feature": edit.wanted.feature,
            "Top token": tokens.get(edit.wanted.feature, ""),
            "Label now": there[edit.wanted.feature].label if edit.wanted.feature in there else "",
            "Label then": edit.wanted.label,
        }
        for edit in edits[:MAX_SHOWN]
    ]
    _preview(rows, len(edits))
    st.button(
        f"Change {labelling.labels_text(len(edits))}",
        type="primary",
        key="several-do",
        on_click=_do,
        args=(here, edits),
    )


@callback
def _do(here: Here, edits: Sequence[Edit]) -> None:
    saved = labelling.save(here, edits, kind="bulk")
    if saved is not None and not saved.conflicts:
        more = f", and {whole(saved.followed)} that follow them" if saved.followed else ""
        labelling.say(f"{labelling.labels_text(saved.changed)} changed{more}.")
        labelling.reload_forms()


def _families(
    here: Here, info: EnsembleInfo, labelled: Sequence[int], there: Mapping[int, Label], least: float
) -> None:
    given: dict[int, list[Copy]] = {}
    taken = set(there)
    for feature in labelled:
        copies = [
            copy
            for copy in label_store.copies_in_family(here.run, info, feature)
            if copy.score >= least and copy.feature not in taken and there[feature].label
        ]
        if copies:
            given[feature] = copies
            taken.update(copy.feature for copy in copies)
    if not given:
        st.caption("None of these has both a label and a family with features that have none.")
        return
    rows = [
        {
            "Feature": copy.feature,
            "Label then": there[feature].label,
            "From": feature,
            "Cosine": decimal(copy.score),
        }
        for feature, copies in given.items()
        for copy in copies
    ]
    st.caption("Each keeps its source and cosine, and follows its source until somebody changes it.")
    _preview(rows[:MAX_SHOWN], len(rows))
    st.button(
        f"Give {labelling.labels_text(len(rows))} to families",
        type="primary",
        key="several-do",
        on_click=_give,
        args=(here, info.name, given),
    )


@callback
def _give(here: Here, ensemble: str, given: Mapping[int, Sequence[Copy]]) -> None:
    copies = {(ensemble, feature): family for feature, family in given.items()}
    saved = labelling.save(here, [], kind="family", copies=copies)
    if saved is not None:
        labelling.say(f"{labelling.labels_text(saved.given)} given to families.")
        labelling.reload_forms()


def _preview(rows: Sequence[Mapping[str, object]], total: int) -> None:
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        height=min(320, 38 + 35 * len(rows)),
        column_config={name: st.column_config.NumberColumn(format="%d") for name in ("Feature", "From")},
        alt="What the step would change",
    )
    if total > len(rows):
        st.caption(f"The first {whole(len(rows))} of {whole(total)}.")


def _tokens(here: Here, info: EnsembleInfo) -> dict[int, str]:
    atoms = tables.atoms(here.run, info.name)
    if atoms is None:
        return {}
    return {number: show_alone(str(token)) for number, token in enumerate(atoms["top_token"])}
