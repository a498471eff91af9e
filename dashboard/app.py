"""The dashboard's entrance: pages, pickers and nothing else. Start it with ``streamlit run app.py -- PATH``.

PATH is a run folder or a folder of runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import streamlit as st

from dashboard import address, pins, queries
from dashboard.parts.cards import notice
from dashboard.parts.style import stylesheet
from sae_core import variables
from sae_core.browse.labels import LONGEST
from sae_core.errors import UserError
from sae_core.run import Run

# Drawn here, since Streamlit's own icons for the browser tab would be fetched from a server.
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#1f6fb5"/>'
    '<g fill="#fff"><circle cx="10" cy="11" r="3.2"/><circle cx="22" cy="9" r="2.2" opacity=".7"/>'
    '<circle cx="21" cy="22" r="4.2"/><circle cx="10" cy="23" r="1.9" opacity=".6"/></g></svg>'
)


def _pages() -> list[st.Page]:
    return [
        st.Page("views/overview.py", title="Overview", icon=":material/dashboard:", default=True),
        st.Page("views/features.py", title="Features", icon=":material/format_list_bulleted:", url_path="features"),
        st.Page("views/feature.py", title="Feature", url_path="feature", visibility="hidden"),
        st.Page("views/text.py", title="Type a text", icon=":material/keyboard:", url_path="text"),
        st.Page("views/pinned.py", title="Pinned features", icon=":material/keep:", url_path="pinned"),
        st.Page("views/compare.py", title="Compare members", icon=":material/compare_arrows:", url_path="compare"),
        st.Page("views/atom_map.py", title="Atom map", icon=":material/scatter_plot:", url_path="map"),
        st.Page("views/concepts.py", title="Concepts", icon=":material/category:", url_path="concepts"),
        st.Page("views/spurious.py", title="Spurious correlations", icon=":material/link_off:", url_path="spurious"),
        st.Page("views/labels.py", title="Labels", icon=":material/sell:", url_path="labels"),
    ]


def _root() -> Path:
    arguments = sys.argv[1:]
    if len(arguments) != 1:
        raise UserError("Start the dashboard with one path: streamlit run dashboard/app.py -- RUN.")
    return Path(arguments[0])


def _picked_run(key: str) -> None:
    others = {address.ENSEMBLE: None, address.FEATURE: None, address.PINS: None}
    address.write({address.RUN: st.session_state[key], **others})


def _picked_ensemble(key: str) -> None:
    address.write({address.ENSEMBLE: st.session_state[key], address.FEATURE: None})


def _pick_run(root: Path) -> tuple[dict[str, Path], Run]:
    runs = queries.runs(root)
    names = list(runs)
    requested, remembered = st.query_params.get(address.RUN), st.session_state.get("run")
    shown = address.shown(requested, remembered, names)
    if len(names) > 1 or shown is None:
        # The key holds the choice, so that the address bar alone decides and a picker never overrules a link.
        key = f"pick-run-{shown}"
        place = names.index(shown) if shown else None
        st.sidebar.selectbox(
            "Run", names, index=place, key=key, placeholder="Choose a run", on_change=_picked_run, args=(key,)
        )
    name = address.choose("run", requested, remembered, names)
    st.session_state["run"] = name
    return runs, queries.open_run(runs[name])


def _pick_ensemble(infos: dict[str, queries.EnsembleInfo]) -> queries.EnsembleInfo | None:
    if not infos:
        return None
    # Several members are what this is about, so the first such ensemble is shown first.
    names = sorted(infos, key=lambda name: infos[name].members == 1)
    requested, remembered = st.query_params.get(address.ENSEMBLE), st.session_state.get("ensemble")
    shown = address.shown(requested, remembered, names)
    key = f"pick-ensemble-{shown}"
    st.sidebar.selectbox(
        "Ensemble",
        list(infos),
        index=list(infos).index(shown) if shown else None,
        key=key,
        placeholder="Choose an ensemble",
        format_func=lambda name: f"{infos[name].title} · {_shape(infos[name])}",
        on_change=_picked_ensemble,
        args=(key,),
    )
    name = address.choose("ensemble", requested, remembered, names)
    st.session_state["ensemble"] = name
    return infos[name]


def _shape(info: queries.EnsembleInfo) -> str:
    return f"{info.members} × {info.widths[0]:,}"


def _author() -> str:
    author = st.sidebar.text_input(
        "Your name",
        value=os.environ.get(variables.AUTHOR) or "anonymous",
        key="author",
        max_chars=LONGEST["author"],
        help="Written beside every label that you save; kept for this session.",
        persist_state="session",
    )
    return (author or "").strip() or "anonymous"


def _look() -> address.Here:
    root = _root()
    runs, run = _pick_run(root)
    infos = queries.ensembles(run)
    ensemble = _pick_ensemble(infos)
    here = address.Here(root, runs, run, infos, ensemble, _author())
    address.write(here.link())
    pins.remember(here)
    return here


def main() -> None:
    """Draw the sidebar and run the page that is asked for; bad input becomes one sentence."""
    st.set_page_config(page_title="SAE ensembles", page_icon=ICON, layout="wide")
    # Before anything that may fail: without it Streamlit would run a page's file on its own.
    page = st.navigation(_pages())
    st.html(stylesheet())
    try:
        address.remember(_look())
        page.run()
    except UserError as error:
        st.html(notice("This cannot be shown", str(error)))
        if st.button("Back to the overview", icon=":material/arrow_back:"):
            st.query_params.clear()
            st.switch_page("views/overview.py")


main()
