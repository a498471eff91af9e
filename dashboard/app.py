"""The dashboard's entrance: pages, pickers and nothing else. Start it with ``streamlit run app.py -- PATH``.

PATH is a run folder or a folder of runs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from dashboard import views
from dashboard.shared import address, pins, visitor
from dashboard.shared.faults import in_a_sentence
from dashboard.shared.look.style import stylesheet
from dashboard.shared.reads import opening
from dashboard.shared.reads.opening import EnsembleInfo
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run

# Drawn here, since Streamlit's own icons for the browser tab would be fetched from a server.
_PICKED = "address-picked"
"""What was picked in the sidebar, until the page has put it into the address with all that follows from it."""
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#1f6fb5"/>'
    '<g fill="#fff"><circle cx="10" cy="11" r="3.2"/><circle cx="22" cy="9" r="2.2" opacity=".7"/>'
    '<circle cx="21" cy="22" r="4.2"/><circle cx="10" cy="23" r="1.9" opacity=".6"/></g></svg>'
)


def _pages() -> list[st.Page]:
    return [
        st.Page(
            views.file_of(name),
            title=page.title,
            icon=f":material/{page.icon}:" if page.icon else None,
            url_path=name,
            default=not number,
            visibility="visible" if page.icon else "hidden",
        )
        for number, (name, page) in enumerate(views.pages().items())
    ]


def _root() -> Path:
    arguments = sys.argv[1:]
    if len(arguments) != 1:
        raise UserError("Start the dashboard with one path: streamlit run dashboard/app.py -- RUN.")
    return Path(arguments[0])


def _picked_run(key: str) -> None:
    others = {address.ENSEMBLE: None, address.FEATURE: None, address.PINS: None}
    st.session_state[_PICKED] = {address.RUN: st.session_state[key], **others}


def _picked_ensemble(key: str) -> None:
    st.session_state[_PICKED] = {address.ENSEMBLE: st.session_state[key], address.FEATURE: None}


def _pick_run(root: Path, asked: Mapping[str, str | None]) -> tuple[dict[str, Path], Run]:
    runs = opening.runs(root)
    names = list(runs)
    requested, remembered = asked.get(address.RUN), st.session_state.get("run")
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
    return runs, opening.open_run(runs[name])


def _pick_ensemble(infos: dict[str, EnsembleInfo], asked: Mapping[str, str | None]) -> EnsembleInfo | None:
    if not infos:
        return None
    # Several members are what this is about, so the first such ensemble is shown first.
    names = sorted(infos, key=lambda name: infos[name].members == 1)
    requested, remembered = asked.get(address.ENSEMBLE), st.session_state.get("ensemble")
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


def _shape(info: EnsembleInfo) -> str:
    return f"{info.members} × {info.widths[0]:,}"


def _look() -> address.Here:
    root = _root()
    picked: dict[str, str | None] = st.session_state.pop(_PICKED, {})
    asked = {**st.query_params.to_dict(), **picked}
    runs, run = _pick_run(root, asked)
    infos = opening.ensembles(run)
    ensemble = _pick_ensemble(infos, asked)
    here = address.Here(root, runs, run, infos, ensemble, visitor.name_field())
    address.write({**picked, **here.link(), **pins.remember(here, asked.get(address.PINS))})
    return here


def _links(pages: list[st.Page], here: address.Here | None) -> None:
    """The way to every page.

    Streamlit's own links would drop the address, which the page would then write again: two steps of the browser's
    history, of which Back would reach one.
    """
    query = here.link() if here else {}
    if here and (text := pins.to_text(pins.pinned(here))):
        query[address.PINS] = text
    for page in pages:
        if page.visibility != "hidden":
            st.page_link(page, query_params=query)


def _way_back() -> None:
    st.page_link(views.file_of(next(iter(views.pages()))), label="Back to the overview", icon=":material/arrow_back:")


def main() -> None:
    """Draw the sidebar and run the page that is asked for; bad input becomes one sentence."""
    st.set_page_config(page_title="SAE ensembles", page_icon=ICON, layout="wide")
    # Before anything that may fail: without it Streamlit would run a page's file on its own.
    pages = _pages()
    page = st.navigation(pages, position="hidden")
    with st.container(key="stylesheet"):
        # HTML of nothing but style goes to a place of Streamlit's that a toast in a callback writes over.
        st.html(f"<i></i>{stylesheet()}")
        keeping = st.empty()
    links, here = st.sidebar.container(gap=None, key="pages"), None
    with in_a_sentence(_way_back):
        here = _look()
    if kept := visitor.script():
        keeping.html(kept, unsafe_allow_javascript=True)
    with links:
        _links(pages, here)
    if here is not None:
        address.remember(here)
        with in_a_sentence(_way_back):
            page.run()


main()
