"""A list of features with boxes to tick, drawn in the browser, so that a tick is seen before the server has answered.

A Streamlit component (v2): the rows come as plain values and become text nodes, never HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import streamlit as st

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Row:
    """One feature.

    Attributes:
        feature: Its number.
        title: What it is called.
        href: Address of its page; empty without one.
        color: CSS colour of its member.
        member: Which member it is of.
        label: What people call it.
        suggestion: What it may mean, as computed; marked as such.
        words: What goes with it on the task's texts.
        tokens: On what it fires most in the indexed corpus.
        share: Length of its bar, 0 to 1.
        feeds: Whether it feeds the correlation, or works against it.
        notes: Short remarks with their explanations.
    """

    feature: int
    title: str
    href: str
    color: str
    member: str
    label: str
    suggestion: str
    words: Sequence[str]
    tokens: Sequence[str]
    share: float
    feeds: bool
    notes: Sequence[tuple[str, str]]


_MOUNT = st.components.v2.component(
    "sae_ensemble_tick_list",
    html='<div class="list" role="group"></div>',
    css=(HERE / "tick_list.css").read_text(encoding="utf-8"),
    js=(HERE / "tick_list.js").read_text(encoding="utf-8"),
)


def tick_list(
    rows: Sequence[Row],
    *,
    key: str,
    version: int,
    preset: Sequence[int],
    on_tick: Callable[[], None],
    on_look: Callable[[], None],
) -> None:
    """Draw the list.

    What is ticked lies in ``st.session_state[key].ticked`` when ``on_tick`` is called, and the feature whose texts are
    asked for in ``.look`` when ``on_look`` is called.

    Args:
        rows: The features.
        key: Identity of the list.
        version: Another number makes the list take over ``preset``; between such changes the browser decides.
        preset: Which features are ticked then.
        on_tick: Called when a box is ticked or cleared.
        on_look: Called when the texts of a feature are asked for.
    """
    _MOUNT(
        key=key,
        data={"rows": [asdict(row) for row in rows], "version": version, "preset": list(preset)},
        on_ticked_change=on_tick,
        on_look_change=on_look,
    )
