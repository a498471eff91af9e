"""What several pages need of Streamlit: links to features, what is missing, charts with a title."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import streamlit as st

from dashboard.address import Here
from dashboard.parts.cards import section, what_to_run
from dashboard.parts.charts import CONFIG
from dashboard.queries import EnsembleInfo

FEATURE_PAGE, FEATURES_PAGE = "pages/feature.py", "pages/features.py"


def trained_ensemble(here: Here) -> EnsembleInfo:
    """The chosen ensemble; where nothing is trained the page ends with what to run."""
    if here.ensemble is None:
        missing(here, "train")
        st.stop()
    return here.ensemble


def missing(here: Here, command: str, title: str = "") -> None:
    """Say what to run."""
    st.html(what_to_run(command, here.run.path, title))


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
    st.switch_page(FEATURE_PAGE, query_params={**here.link(feature, ensemble=ensemble), **more})


def chart(figure: go.Figure, title: str, how_to_read: str, *, key: str, **options: Any) -> Any:
    """A chart with its title and one sentence on how to read it."""
    st.html(section(title, how_to_read))
    return st.plotly_chart(figure, key=key, config=CONFIG, alt=f"{title}. {how_to_read}", **options)


def picked_row(key: str) -> int | None:
    """The row of the cell that was clicked in the table called ``key``; rows count in the table's own order."""
    selection = (st.session_state.get(key) or {}).get("selection") or {}
    cells = selection.get("cells") or []
    return int(cells[0][0]) if cells else None
