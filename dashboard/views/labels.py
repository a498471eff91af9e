"""Labels: everyone's labels in one table, to CSV and back."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard import queries
from dashboard.address import Here, here
from dashboard.common import open_feature, picked_row
from dashboard.parts.cards import heading, notice, plain, section
from dashboard.parts.numbers import moment, whole
from sae_core.errors import UserError

_SAID = "labels-said"
COLUMNS = ["ensemble", "member", "feature", "label", "note", "author", "time"]


def show(here: Here) -> None:
    """The whole page."""
    table = queries.label_table(here.run)
    st.html(
        heading(
            "Labels",
            f"What people wrote about the features of {here.run.path.name}. Labels are given on a feature's page; here "
            "they are searched, sent and brought in.",
        )
    )
    _said()
    if table.empty:
        st.html(notice("There are no labels yet", "Open a feature and write what it responds to."))
    else:
        _table(here, table)
    left, right = st.columns(2, gap="large")
    with left:
        _export(here, table)
    with right:
        _import(here)


def _table(here: Here, table: pd.DataFrame) -> None:
    search = st.text_input("Search", key="labels-search", placeholder="label, note, author", icon=":material/search:")
    found = table
    for word in (search or "").lower().split():
        text = found["label"].astype(str) + " " + found["note"].astype(str) + " " + found["author"].astype(str)
        found = found[text.str.lower().str.contains(word, regex=False)]
    st.caption(f"{whole(len(found))} of {whole(len(table))} labels · click a row to open the feature")
    key = f"labels-table-{here.run.path.name}-{hash(search)}-{len(table)}"
    st.dataframe(
        found[COLUMNS].assign(time=[moment(str(time)) for time in found["time"]]),
        key=key,
        hide_index=True,
        height=min(560, 37 + 35 * max(1, len(found))),
        on_select="rerun",
        selection_mode="single-cell",
        column_config={
            "ensemble": st.column_config.TextColumn("Ensemble", width="small"),
            "member": st.column_config.NumberColumn("Member", format="%d", width="small"),
            "feature": st.column_config.NumberColumn(
                "Feature", format="%d", width="small", help="Number of the feature within its member"
            ),
            "label": st.column_config.TextColumn("Label", width="medium"),
            "note": st.column_config.TextColumn("Note", width="medium"),
            "author": st.column_config.TextColumn("Author"),
            "time": st.column_config.TextColumn("Time"),
        },
        alt="Labels; click a row to open the feature",
    )
    row = picked_row(key)
    if row is None or row >= len(found):
        return
    chosen = found.iloc[row]
    info = here.ensembles.get(str(chosen["ensemble"]))
    if info is not None and int(chosen["member"]) < info.members:
        open_feature(here, info.feature(int(chosen["member"]), int(chosen["feature"])), ensemble=info.name)


def _export(here: Here, table: pd.DataFrame) -> None:
    st.html(
        section(
            "Export", "A CSV file with one row a label; cells that a spreadsheet would run as a formula are quoted."
        )
    )
    st.download_button(
        "Download CSV",
        queries.labels(here.run).to_csv().encode(),
        file_name=f"labels-{here.run.path.name}.csv",
        mime="text/csv",
        icon=":material/download:",
        disabled=table.empty,
        on_click="ignore",
    )


def _import(here: Here) -> None:
    st.html(section("Import", "A CSV file as the export writes it; either all its rows are taken or none."))
    file = st.file_uploader("CSV file", type="csv", key="labels-file", label_visibility="collapsed", max_upload_size=20)
    st.button(
        "Import",
        icon=":material/upload:",
        disabled=file is None,
        on_click=_take,
        args=(here, file),
        key="labels-import",
    )


def _take(here: Here, file: Any) -> None:
    try:
        text = file.getvalue().decode("utf-8-sig")
        widths = {name: list(info.widths) for name, info in here.ensembles.items()}
        count = queries.labels(here.run).from_csv(text, widths)
        st.session_state[_SAID] = (True, f"{whole(count)} label{'' if count == 1 else 's'} imported from {file.name}.")
    except UnicodeDecodeError:
        st.session_state[_SAID] = (False, f"{file.name} is not UTF-8 text; save it as “CSV UTF-8”.")
    except UserError as error:
        st.session_state[_SAID] = (False, str(error))


def _said() -> None:
    said = st.session_state.pop(_SAID, None)
    # Its place is always taken, so that the search field below stays the same one when the message goes.
    place = st.empty()
    if said is not None:
        (place.success if said[0] else place.error)(plain(said[1]))


show(here())
