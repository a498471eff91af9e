"""Pinned features: a list of one run that the address bar holds, so that a link shares it; the session remembers it.

``pins=bagged.12~boosted.3`` names feature 12 of the bagged ensemble and feature 3 of the boosted one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import streamlit as st

from dashboard.shared import address
from dashboard.shared.address import Here
from dashboard.shared.reads.opening import EnsembleInfo

MOST = 24
"""Features that can be pinned; the address stays short enough for a message."""


_UNKNOWN = "pins-unknown"


class Pin(NamedTuple):
    """A pinned feature: the ensemble's name and the feature's number in it."""

    ensemble: str
    feature: int


def to_text(pins: Sequence[Pin]) -> str:
    """What the address bar holds; empty for no pins."""
    return "~".join(f"{pin.ensemble}.{pin.feature}" for pin in pins)


def from_text(text: str, ensembles: Mapping[str, EnsembleInfo]) -> tuple[list[Pin], list[str]]:
    """(the pins of a text in order, each once and at most `MOST`; the parts of it that name no feature here)."""
    pins: dict[Pin, None] = {}
    unknown = []
    for part in filter(None, text.split("~")):
        name, _, number = part.rpartition(".")
        info = ensembles.get(name)
        known = number.isascii() and number.isdigit() and len(number) <= 12
        if info is None or not known or int(number) >= info.features:
            unknown.append(part)
        else:
            pins[Pin(name, int(number))] = None
    return list(pins)[:MOST], unknown


def remember(here: Here, text: str | None) -> dict[str, str | None]:
    """Take pins over from the address bar, once a run of the script.

    Args:
        here: What the page looks at.
        text: What the address bar holds; None if nothing, and the pins of this session are to be put into it.

    Returns:
        What the address bar is to hold.
    """
    if text is not None:
        pins, unknown = from_text(text, here.ensembles)
        st.session_state[_UNKNOWN] = unknown
        st.session_state[_key(here)] = tuple(pins)
    return {address.PINS: to_text(pinned(here)) or None}


def unknown() -> list[str]:
    """The parts of the last address that name no feature of the run, once."""
    parts: list[str] = st.session_state.pop(_UNKNOWN, [])
    return parts


def pinned(here: Here) -> tuple[Pin, ...]:
    """The pinned features of the run, in the order in which they were pinned."""
    pins: tuple[Pin, ...] = st.session_state.get(_key(here), ())
    return pins


def replace(here: Here, pins: Sequence[Pin]) -> None:
    """Pin these features and no others."""
    st.session_state[_key(here)] = tuple(pins[:MOST])
    address.write({address.PINS: to_text(pins[:MOST]) or None})


def toggle(here: Here, pin: Pin) -> None:
    """Pin a feature, or take it off the list."""
    pins = pinned(here)
    if pin in pins:
        replace(here, [one for one in pins if one != pin])
    elif len(pins) >= MOST:
        st.toast(f"{MOST} features are pinned; unpin one first.", icon=":material/push_pin:")
    else:
        replace(here, [*pins, pin])


def pin_button(
    here: Here, feature: int, *, ensemble: str | None = None, shortcut: str | None = None, text: bool = True
) -> None:
    """A button that pins a feature, or unpins it if it is pinned; one a feature on a page.

    Args:
        here: What the page looks at.
        feature: Number of the feature in its ensemble.
        ensemble: Name of the ensemble; the chosen one, if not given.
        shortcut: A key that presses it.
        text: Whether it says what it does; else it is an icon with a tooltip.
    """
    name = ensemble or (here.ensemble.name if here.ensemble else "")
    pin = Pin(name, feature)
    there = pin in pinned(here)
    what = "Unpin" if there else "Pin"
    st.button(
        what if text else "",
        icon=":material/keep_off:" if there else ":material/keep:",
        key=f"pin-{name}-{feature}",
        shortcut=shortcut,
        help=f"{what}: pinned features are compared side by side on a page of their own and travel with the link",
        on_click=toggle,
        args=(here, pin),
    )


def _key(here: Here) -> str:
    return f"pins-{here.run.path.name}"
