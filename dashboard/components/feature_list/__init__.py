"""A page of the feature table, drawn in the browser: sort by a column's head, walk and open by key, pin.

A Streamlit component (v2): the rows come as plain values and become text nodes, never HTML. The server filters, sorts
and cuts into pages, so a table of 131,072 features is as fast as one of a hundred.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import streamlit as st

HERE = Path(__file__).parent
Kind = Literal["text", "token", "label", "number", "member", "share"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        key: What the server calls it when it sorts.
        title: Its heading.
        kind: How its cells look; of a share, a number from 0 to 1, a bar is drawn.
        help: Its definition, shown as a tooltip.
        wide: Whether it is left out on a phone.
        sorts: Whether the table can be sorted by it.
    """

    key: str
    title: str
    kind: Kind = "text"
    help: str = ""
    wide: bool = False
    sorts: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the table.

    Attributes:
        columns: The columns.
        rows: For each row its cells, one a column: texts, of a share the number; of a label (text, whether it is only
            suggested), of a member (text, CSS colour).
        features: The feature of each row.
        pinned: Which of them are pinned.
        sort: Key of the column by which the table is sorted.
        ascending: Whether the smallest comes first.
        number: Number of the page, from 0.
        pages: How many there are.
        chosen: The feature whose row the cursor begins at, if it is on the page.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    features: Sequence[int]
    pinned: Sequence[int]
    sort: str
    ascending: bool
    number: int
    pages: int
    chosen: int | None = None


_MOUNT = st.components.v2.component(
    "sae_ensemble_feature_list",
    html='<div class="list"></div>',
    css=(HERE / "feature_list.css").read_text(encoding="utf-8"),
    js=(HERE / "feature_list.js").read_text(encoding="utf-8"),
)


def feature_list(page: Page, *, key: str, on_act: Callable[[], None]) -> None:
    """Draw a page of the table.

    What is done lies in ``st.session_state[key].act`` when ``on_act`` is called: a mapping of ``kind`` (open, sort,
    page or pin) and ``value`` (a feature, a column's key, a page's number, a feature).

    Args:
        page: What is shown.
        key: Identity of the table.
        on_act: Called when something is done.
    """
    _MOUNT(key=key, data=asdict(page), on_act_change=on_act)
