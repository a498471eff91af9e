"""The list of the features that were encircled or searched on the map: a table with links, and all of them as CSV."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from dashboard.components.map_canvas import Listed
from dashboard.shared.address import Here
from dashboard.shared.common import clicked_row, open_feature
from dashboard.shared.feature_figures import DENSITY, STABILITY, TOP_TOKEN
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.shared.selection import selection_csv
from dashboard.views.map.look import Look
from sae_core.foundation.origin import Words
from sae_core.foundation.run import Run
from sae_core.report.pieces.cards import section
from sae_core.report.pieces.tokens import show_alone

ROWS = 500
"""Rows that the table shows; more would be slow to draw, and nobody reads them."""


def listing(here: Here, look: Look, listed: Listed) -> None:
    """The features that were encircled or found: a table with links, and all of them as CSV."""
    chosen = look.points.table.iloc[listed.points].sort_values(["density", "feature"], ascending=[False, True])
    one = len(chosen) == 1
    fit = f"that fit{'s' * one} “{listed.by.removeprefix('search ')}”"
    how = f"feature{'s' * (not one)} {'inside the line' if listed.by == 'lasso' else fit}"
    more = f"; the {ROWS} that fire most often are shown, the CSV has all" if len(chosen) > ROWS else ""
    st.html(section(f"{len(chosen):,} {how}", f"Click a row to open the feature, or its number for a new tab{more}."))
    if chosen.empty:
        return
    shown = chosen.head(ROWS)
    places = [look.place(int(point)) for point in shown.index]
    row = clicked_row(
        _columns(here, shown, places, look.word),
        _config(look, here.words),
        key=f"{look.key}-list-{hash((listed.by, listed.points.tobytes(), look.points.key))}",
        alt="Features of the choice; click a row to open one",
        height=420,
    )
    runs = [f"{run.path.name}/{info.name}" for run, info in look.sides]
    st.download_button(
        "Download CSV",
        lambda: _csv(chosen, look),
        file_name=f"{'-with-'.join(name.replace('/', '-') for name in runs)}-selection.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
    )
    if row is not None:
        run, info, feature = places[row]
        open_feature(replace(here, run=run, ensemble=info), feature)


def _csv(chosen: pd.DataFrame, look: Look) -> str:
    parts: list[str] = []
    for side, (run, info) in enumerate(look.sides):
        own = chosen[chosen["side"] == side] if len(look.sides) > 1 else chosen
        parts.append(selection_csv(own, header=not parts, run=run.path.name, ensemble=info.name))
    return "".join(parts)


def _columns(here: Here, shown: pd.DataFrame, places: list[tuple[Run, EnsembleInfo, int]], word: str) -> pd.DataFrame:
    links = [replace(here, run=run, ensemble=info).link(feature) for run, info, feature in places]
    columns = pd.DataFrame(
        {
            "open": [f"feature?{urlencode(link)}" for link in links],
            "member": shown["member"].to_numpy(),
            "token": [show_alone(str(token)) if token else "" for token in shown["top_token"]],
            "label": shown["label"].to_numpy(),
        }
    )
    if "suggestion" in shown:
        columns["suggestion"] = shown["suggestion"].to_numpy()
    columns["density"] = DENSITY.values(shown).to_numpy()
    if shown["stability"].notna().any():
        columns["stability"] = shown["stability"].to_numpy()
    columns["cluster"] = shown["cluster"].to_numpy()
    if "side" in shown:
        columns.insert(1, "side", [("left", "right")[side] for side in shown["side"]])
        columns["counterpart"] = shown["cosine"].to_numpy()
    return columns


def _config(look: Look, words: Words) -> dict[str, Any]:
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    return {
        "open": st.column_config.LinkColumn("Feature", display_text=r"feature=(\d+)", help="Opens in a new tab"),
        "side": text("Side", width="small"),
        "member": number(look.word.capitalize(), format="%d", width="small"),
        "token": text(TOP_TOKEN.title, help=TOP_TOKEN.explained(words)),
        "label": text("Label"),
        "suggestion": text("Suggested label", width="medium", help="Made from the tokens on which it fires"),
        "density": DENSITY.column(words),
        "stability": STABILITY.column(words),
        "cluster": number("Cluster", format="%d", width="small", help="Cluster on the map; −1 is none"),
        "counterpart": number("Counterpart", format="%.2f", help="Largest cosine with an atom of the other side"),
    }
