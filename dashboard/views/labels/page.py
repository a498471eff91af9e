"""Labels: everyone's labels in one table to edit, several at once, what changed, to CSV and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import streamlit as st

from dashboard.shared import label_tables, labelling
from dashboard.shared.address import Here, here
from dashboard.shared.common import choice, open_feature
from dashboard.shared.faults import callback
from dashboard.shared.label_fields import column
from dashboard.shared.look.cards import notice
from dashboard.shared.reads import label_store
from dashboard.views.labels import several as label_several
from dashboard.views.labels.files import files
from sae_core.foundation.numbers import whole
from sae_core.labels import WRITTEN, Label
from sae_core.report.pieces.cards import heading, section

MAX_ROWS = 2000
VIEWS = {"all": "All labels", "several": "Label several", "changes": "Changes", "files": "Import and export"}
_TABLE, _OPEN, _CHANGES, _HISTORY = "labels-table", "labels-open", "labels-changes", "labels-history"


def show(here: Here) -> None:
    """The whole page."""
    found = label_store.label_list(here.run)
    place = "in the database of your team" if label_store.labels(here.run).is_shared else "beside the run"
    st.html(
        heading(
            "Labels",
            f"What people wrote about the features of {here.run.name}, kept {place} with author, time and history.",
        )
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        view = choice("view", "What to do", list(VIEWS), VIEWS.__getitem__)
        labelling.undo_and_redo(here, key="labels")
    labelling.said()
    labelling.pending(here)
    if view == "all":
        _all(here, found)
    elif view == "several":
        label_several.several(here)
    elif view == "changes":
        _changes(here)
    else:
        files(here, found)


def _all(here: Here, found: Sequence[Label]) -> None:
    if not found:
        st.html(notice("There are no labels yet", "Open a feature and write what it responds to, or label several."))
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        search = st.text_input(
            "Search", key="labels-search", placeholder=", ".join((*WRITTEN, "author")), icon=":material/search:"
        )
        ensembles = sorted({one.ensemble for one in found})
        ensemble = st.selectbox("Ensemble", ["", *ensembles], format_func=lambda name: name or "all", width=150)
        kind = st.selectbox("Written", ["", "own", "propagated"], format_func=_kind_text, width=190)
    chosen = label_tables.matching(found, search or "", ensemble=ensemble, kind=kind)
    shown = chosen[:MAX_ROWS]
    cut = f", the first {whole(MAX_ROWS)} shown: search for fewer" if len(chosen) > MAX_ROWS else ""
    st.caption(
        f"{whole(len(chosen))} of {labelling.labels_text(len(found))}{cut} · double-click what somebody wrote to "
        "change it; it is saved at once · emptying all of it removes the label"
    )
    if shown:
        _editor(here, shown)
    else:
        st.info("No label fits this search.", icon=":material/search_off:")
    if st.session_state.get(_HISTORY):
        _history(here)


def _kind_text(kind: str) -> str:
    return {"": "all", "own": "by a person", "propagated": "propagated"}[kind]


def _editor(here: Here, shown: Sequence[Label]) -> None:
    key = _editor_key(here, shown)
    text, button = st.column_config.TextColumn, st.column_config.ButtonColumn
    st.data_editor(
        label_tables.edited_table(shown),
        key=key,
        hide_index=True,
        num_rows="fixed",
        height=min(560, 38 + 35 * len(shown)),
        disabled=["place", "source", "author", "time"],
        on_change=_edited,
        args=(here, shown, key),
        column_config={
            "open": button("Page", key=_OPEN, type="tertiary", width=60, on_click=_opened, args=(shown,)),
            "place": text("Feature", width=125, help="Ensemble and number of the feature in it, as on its page"),
            **{name: column(name, shown) for name in WRITTEN},
            "source": text(
                "Propagated from",
                width=150,
                help="Where a propagated label comes from and the cosine of the two atoms. It follows "
                "its source until somebody changes it.",
            ),
            "author": text("Author", width=85),
            "time": text("Time", width=152),
            "changes": button("History", key=_CHANGES, type="tertiary", width=75, on_click=_asked, args=(shown,)),
        },
        alt="Labels; double-click what somebody wrote to change it",
    )
    opened = st.session_state.pop("labels-opened", None)
    if opened is not None and opened.ensemble in here.ensembles:
        open_feature(here, opened.feature, ensemble=opened.ensemble)


def _editor_key(here: Here, shown: Sequence[Label]) -> str:
    """The table's key: a new one makes it anew, without what was edited in it.

    The table keeps every edit and shows it over what is saved. So it is made anew when somebody else has changed a
    label that was edited in it, or other rows are shown; else it stays, with its place, focus and what is being typed.
    """
    rows = hash((here.run.path, tuple(one.key for one in shown)))
    kept = st.session_state.get(_TABLE)
    if kept is None or kept["rows"] != rows or any(shown[row].version != v for row, v in kept["saved"].items()):
        kept = {"rows": rows, "key": f"labels-{uuid4().hex}", "done": {}, "saved": {}}
        st.session_state[_TABLE] = kept
    return str(kept["key"])


@callback
def _edited(here: Here, shown: Sequence[Label], key: str) -> None:
    kept: dict[str, Any] = st.session_state[_TABLE]
    edited = {row: dict(cells) for row, cells in st.session_state[key]["edited_rows"].items()}
    edits = label_tables.edits_in_table(shown, edited, kept["done"], here.author)
    saved = labelling.save(here, edits, kind="bulk" if len(edits) > 1 else "edit")
    if saved is None or saved.conflicts:
        del st.session_state[_TABLE]  # what is shown is not what is saved
        return
    wanted = {edit.wanted.key for edit in edits}
    kept["done"] = edited
    kept["saved"] |= {
        row: saved.versions.get(one.key, one.version) for row, one in enumerate(shown) if one.key in wanted
    }
    if saved.changed:
        st.toast(f"{labelling.labels_text(saved.changed)} saved".capitalize(), icon=":material/check:")


def _opened(shown: Sequence[Label]) -> None:
    click = st.session_state[_OPEN]
    if click is not None and click["row"] < len(shown):
        st.session_state["labels-opened"] = shown[click["row"]]


def _asked(shown: Sequence[Label]) -> None:
    click = st.session_state[_CHANGES]
    if click is not None and click["row"] < len(shown):
        st.session_state[_HISTORY] = shown[click["row"]]


def _history(here: Here) -> None:
    one: Label = st.session_state.pop(_HISTORY)

    @st.dialog(f"{one.ensemble}, feature {one.feature}", width="large")
    def draw() -> None:
        st.html(label_tables.history_table(label_store.labels(here.run).history(one.ensemble, one.feature)))

    draw()


def _changes(here: Here) -> None:
    st.html(
        section(
            "What people did",
            "The last 100 steps of everybody; Undo takes back your own last one, and Redo makes it again.",
        )
    )
    steps = label_store.labels(here.run).steps(100)
    if steps:
        st.html(label_tables.steps_table(steps))
    else:
        st.html(notice("Nothing was written yet", "Changes from before steps were recorded are in a label's history."))


show(here())
