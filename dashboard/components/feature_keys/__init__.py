"""The keys of a feature's page: a Streamlit component (v2) that counts presses in the browser, so that none is lost.

It also answers links within the page, ``<a href="…" data-go="12">`` in any HTML part, without loading the page anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

_MOUNT = st.components.v2.component(
    "sae_ensemble_feature_keys", js=(Path(__file__).parent / "feature_keys.js").read_text(encoding="utf-8")
)
KEY = "feature-keys"
_ANSWERED = "feature-keys-answered"
MOST_STEPS = 1_000_000


@dataclass(frozen=True, slots=True)
class Act:
    """What was asked for: so many features on (negative: back), or to open one."""

    steps: int = 0
    open: int | None = None


def feature_keys(on_act: Callable[[], None]) -> None:
    """Listen to keys and links; what was asked for is `asked` when ``on_act`` is called."""
    _MOUNT(key=KEY, data={"answered": st.session_state.get(_ANSWERED, 0)}, on_act_change=on_act, height=1)


def asked(features: int) -> Act:
    """What the browser asks for, taken as answered; what makes no sense asks for nothing.

    Args:
        features: How many there are.
    """
    st.session_state[_ANSWERED] = st.session_state.get(_ANSWERED, 0) + 1
    return read((st.session_state.get(KEY) or {}).get("act"), features)


def read(value: object, features: int) -> Act:
    """What a browser sent, checked; it is not trusted."""
    if not isinstance(value, Mapping):
        return Act()
    opened, steps = value.get("open"), value.get("steps")
    if type(opened) is int and 0 <= opened < features:
        return Act(open=opened)
    return Act(steps=steps) if type(steps) is int and abs(steps) <= MOST_STEPS else Act()
