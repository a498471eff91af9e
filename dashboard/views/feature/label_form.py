"""The form on a feature's page: its label, for the feature alone or its family; history, undo and redo."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.components import label_drafts
from dashboard.shared import label_tables, labelling
from dashboard.shared.address import Here
from dashboard.shared.faults import callback
from dashboard.shared.label_fields import entry, put, texts_of, typed
from dashboard.shared.look.cards import plain
from dashboard.shared.reads import label_store, tables
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.views.feature.side import suggestion_html
from sae_core.foundation.numbers import decimal, moment, whole
from sae_core.labels import WRITTEN, Copy, Edit, Label

_SHOWN, _DRAFT = "label-form-shown", "label-form-draft"


def label_form(here: Here, info: EnsembleInfo, feature: int, label: Label | None) -> None:
    """Write what a feature responds to.

    What somebody else saves while the form is open is said, and never overwritten without asking.

    Args:
        here: What the page looks at.
        info: The ensemble.
        feature: The feature.
        label: What is saved.
    """
    version = label.version if label else label_store.labels(here.run).versions(info.name, [feature])[feature]
    key = f"{here.run.name}-{info.name}-{feature}"
    seen = _seen(key, label, version)
    labelling.said()
    if not labelling.pending(here) and version != seen:
        _changed_meanwhile(here, info, feature, key, label, version)
    family = label_store.copies_in_family(here.run, info, feature)
    with st.form(f"label-form-{key}", border=True):
        _fields(here, info, feature, key, label, family)
        if _shows_draft(key):
            _draft(here, info, feature, key, label)
        if label:
            source = f" It is {label_tables.source_text(label.source)}." if label.source else ""
            st.caption(
                f"Last saved by {plain(label.author)} on {plain(moment(label.time))}.{plain(source)} "
                "Saving all fields empty removes the label."
            )
    with st.container(horizontal=True, gap="small"):
        labelling.undo_and_redo(here, key="label")
        with st.popover("History", icon=":material/history:", disabled=version == 0):
            changes = label_store.labels(here.run).history(info.name, feature) if version else []
            st.html(label_tables.history_table(changes))
    place = label_drafts.place_of(here.run, info.name, feature)
    label_drafts.label_drafts(
        place,
        key,
        texts_of(label),
        seen=seen,
        reload=_reloaded(),
        shown=_shows_draft(key),
        on_found=lambda: _restore(key, place),
    )


def _fields(
    here: Here, info: EnsembleInfo, feature: int, key: str, label: Label | None, family: Sequence[Copy]
) -> None:
    *places, save = st.columns([*(kind.width for kind in WRITTEN.values()), 0.55], vertical_alignment="bottom")
    for name, place in zip(WRITTEN, places, strict=True):
        with place:
            entry(name, key, label)
    with save:
        st.form_submit_button(
            "Save", type="primary", width="stretch", on_click=_save, args=(here, info, feature, key, family)
        )
    if family:
        scores = ", ".join(f"{copy.feature} ({decimal(copy.score)})" for copy in family[:8])
        st.checkbox(
            f"Also for its family ({whole(len(family))})",
            key=f"family-{key}",
            help=f"Give the label to its one-to-one matches too, with the cosine of the atoms: {scores}. They follow "
            "this label until somebody changes them; labels that people wrote themselves stay.",
        )
    _suggestion(here, info, feature, key, family)


def _suggestion(here: Here, info: EnsembleInfo, feature: int, key: str, family: Sequence[Copy]) -> None:
    table = tables.suggestions(here.run, info.name)
    row = table.iloc[feature].to_dict() if table is not None and feature < len(table) else None
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.html(suggestion_html(row, here.words), width="content")
        suggestion = str(row["suggestion"]) if row else ""
        if suggestion:
            longest = WRITTEN["label"].longest
            fits = len(suggestion) <= longest
            # Of the form, so that what is being written in the other fields is saved with it and not lost.
            st.form_submit_button(
                "Take as label",
                icon=":material/add_task:",
                help="Saves the suggestion as the label, and the other fields as they stand"
                if fits
                else f"It is longer than the {longest} characters of a label",
                disabled=not fits,
                on_click=_take,
                args=(here, info, feature, key, family, suggestion),
            )


@callback
def _take(here: Here, info: EnsembleInfo, feature: int, key: str, family: Sequence[Copy], suggestion: str) -> None:
    put(key, {"label": suggestion})
    _save(here, info, feature, key, family)


def _shows_draft(key: str) -> bool:
    return bool(st.session_state.get(_DRAFT) == key)


def _draft(here: Here, info: EnsembleInfo, feature: int, key: str, label: Label | None) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"draft-{key}"):
        st.markdown(
            ":material/edit_note: **Unsaved draft**, kept by your browser. Save it or discard it.", width="content"
        )
        # Of the form, so that it ends what has been typed since, too.
        st.form_submit_button(
            "Discard",
            icon=":material/delete:",
            help="Forget what you have typed, and show what is saved",
            on_click=_discard,
            args=(here, info, feature, key, label),
        )


@callback
def _restore(key: str, place: str) -> None:
    draft = label_drafts.found(place)
    if draft is not None:
        put(key, draft.texts)
        st.session_state[_SHOWN] = (key, draft.seen, _reloaded())
        st.session_state[_DRAFT] = key


@callback
def _discard(here: Here, info: EnsembleInfo, feature: int, key: str, label: Label | None) -> None:
    version = label_store.labels(here.run).versions(info.name, [feature])[feature]
    _load(here, info, feature, key, label, version)


def _reloaded() -> int:
    """How often forms have been filled with what is saved."""
    return int(st.session_state.get(labelling.RELOAD, 0))


def _seen(key: str, label: Label | None, version: int) -> int:
    """The version that the form shows: what was saved when the form was opened, or loaded again since."""
    reload = _reloaded()
    shown = st.session_state.get(_SHOWN)
    if shown is None or shown[0] != key or shown[2] != reload:
        if shown is not None and shown[0] == key:
            put(key, texts_of(label))
        st.session_state.pop(_DRAFT, None)
        st.session_state[_SHOWN] = shown = (key, version, reload)
    return int(shown[1])


def _changed_meanwhile(
    here: Here, info: EnsembleInfo, feature: int, key: str, label: Label | None, version: int
) -> None:
    since, just = (" since you wrote your draft", "") if _shows_draft(key) else ("", " just")
    with st.container(border=True, horizontal=True, vertical_alignment="center", key="label-meanwhile"):
        if label:
            text = f"{plain(label.author or 'Somebody')} has{just} saved “{plain(label.label)}” here{since}."
        else:
            text = f"Somebody has{just} removed this label{since}."
        st.markdown(f":material/group: {text}")
        st.button("Load it", key="label-load", on_click=_load, args=(here, info, feature, key, label, version))


def _load(here: Here, info: EnsembleInfo, feature: int, key: str, label: Label | None, version: int) -> None:
    put(key, texts_of(label))
    _settled(here, info, feature, key, version)


def _settled(here: Here, info: EnsembleInfo, feature: int, key: str, version: int) -> None:
    """The form shows what is saved, as this version; no draft is left."""
    st.session_state[_SHOWN] = (key, version, _reloaded())
    st.session_state.pop(_DRAFT, None)
    label_drafts.forget(label_drafts.place_of(here.run, info.name, feature))


@callback
def _save(here: Here, info: EnsembleInfo, feature: int, key: str, family: Sequence[Copy]) -> None:
    values = {name: kind.parse(typed(name, key)) for name, kind in WRITTEN.items()}
    wanted = Label.by(here.author, info.name, (feature, *info.place(feature)), values)
    shown = st.session_state.get(_SHOWN)
    seen = shown[1] if shown and shown[0] == key else None
    copies = {wanted.key: family} if wanted.label and st.session_state.get(f"family-{key}") else {}
    saved = labelling.save(here, [Edit(wanted, seen)], kind="family" if copies else "edit", copies=copies)
    if saved is None or saved.conflicts:
        return
    version = label_store.labels(here.run).versions(info.name, [feature])[feature]
    _settled(here, info, feature, key, version)
    followed = saved.followed + saved.given
    more = f", and {whole(followed)} of its family" if followed else ""
    if wanted.empty:
        st.toast(f"Label removed{more}", icon=":material/delete:")
    else:
        st.toast(f"Label saved{more}", icon=":material/check:")
