"""What several pages need of Streamlit: links to features, what is missing, charts with a title."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard.shared import address
from dashboard.shared.address import Here
from dashboard.shared.look.cards import notice, what_to_run
from dashboard.shared.look.charts import CONFIG
from dashboard.shared.reads.opening import EnsembleInfo
from sae_core.report.pieces.cards import section

FEATURE_PAGE, FEATURES_PAGE = "views/feature/page.py", "views/features/page.py"


def trained_ensemble(here: Here) -> EnsembleInfo:
    """The chosen ensemble; where nothing is trained the page ends with what to run."""
    if here.ensemble is None:
        missing(here, "train")
        st.stop()
    return here.ensemble


def opened_key(here: Here, info: EnsembleInfo) -> str:
    """Where the session keeps the feature at which an ensemble's table begins: its page, and the cursor."""
    return f"features-opened-{here.run.path.name}-{info.name}"


def missing(here: Here, command: str, title: str = "") -> None:
    """Say what to run."""
    st.html(what_to_run(command, here.run.path, title))


def needs_text(here: Here) -> None:
    """End the page with one line where the run has no language model that reads text."""
    origin = here.run.settings.origin
    if not origin.reads_text:
        st.html(notice("There are no texts", f"The activations of this run come from {origin.title}."))
        st.stop()


def feature_link(here: Here, feature: int, text: str, *, ensemble: str | None = None, **more: str) -> None:
    """A link to a feature's page; it opens without a reload, and in a new tab like any link."""
    st.page_link(
        FEATURE_PAGE,
        label=text,
        icon=":material/arrow_forward:",
        query_params={**here.link(feature, ensemble=ensemble), **more},
    )


def open_feature(here: Here, feature: int, *, ensemble: str | None = None, **more: str) -> None:
    """Go to a feature's page."""
    go_to("feature", {**here.link(feature, ensemble=ensemble), **more})


def go_to(page: str, query: Mapping[str, str]) -> None:
    """Go to a page, as one step of the browser's history.

    `st.switch_page` makes two of it: it writes the new query behind the old page's path first, and Back would lead to
    that page with the filters of another. So the browser makes the step itself, as if people had gone back and forth.

    Args:
        page: The page's path.
        query: All of its address.
    """
    # Quoted, so that nothing in it ends the script; the last part makes the browser run the script each time.
    target = json.dumps(f"{page}?{urlencode(query)}")
    script = f"history.pushState({{}}, '', {target}); dispatchEvent(new PopStateEvent('popstate'))"
    st.html(f"<script>{script} // {uuid4().hex}</script>", unsafe_allow_javascript=True)


def chart(figure: go.Figure, title: str, how_to_read: str, *, key: str, **options: Any) -> Any:
    """A chart with its title and one sentence on how to read it."""
    st.html(section(title, how_to_read))
    return st.plotly_chart(figure, key=key, config=CONFIG, alt=f"{title}. {how_to_read}", **options)


def choice(
    name: str,
    label: str,
    options: Sequence[str],
    show: Callable[[str], str] = str,
    *,
    menu: bool = False,
    default: str | None = None,
) -> str:
    """A choice that the address bar holds under ``name``.

    The widget's key holds the choice, so that links and the Back button decide and a widget never overrules them.

    Args:
        name: Key in the address bar.
        label: Read out by screen readers.
        options: What can be chosen.
        show: Text of an option.
        menu: A menu, for many options, instead of buttons side by side.
        default: What it is where the address bar does not say; the first option, if not given.
    """
    asked, otherwise = st.query_params.get(name), options[0]
    if default is not None and default in options:
        otherwise = default
    now = asked if asked is not None and asked in options else otherwise
    key = f"{name}-{now}"

    def chosen() -> None:
        picked = st.session_state[key]
        address.write({name: picked if picked != otherwise else None})

    if menu:
        place = list(options).index(now)
        st.selectbox(label, options, place, key=key, format_func=show, on_change=chosen, label_visibility="collapsed")
    else:
        st.segmented_control(
            label,
            options,
            default=now,
            key=key,
            format_func=show,
            on_change=chosen,
            required=True,
            label_visibility="collapsed",
        )
    return now


def clicked_row(rows: pd.DataFrame, columns: Mapping[str, Any], *, key: str, alt: str, height: int = 380) -> int | None:
    """Draw a table, and return the row in which a cell was clicked."""
    st.dataframe(
        rows,
        key=key,
        hide_index=True,
        height=min(height, 37 + 35 * len(rows)),
        on_select="rerun",
        selection_mode="single-cell",
        column_config=columns,
        alt=alt,
    )
    row = picked_row(key)
    return row if row is not None and row < len(rows) else None


def picked_row(key: str) -> int | None:
    """The row of the cell that was clicked in the table called ``key``; rows count in the table's own order."""
    selection = (st.session_state.get(key) or {}).get("selection") or {}
    cells = selection.get("cells") or []
    return int(cells[0][0]) if cells else None
