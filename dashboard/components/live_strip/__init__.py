"""A typed text and the features that fire on it, drawn in the browser: pointing at one shows at once what goes with it.

A Streamlit component (v2): tokens and labels come as plain values and become text nodes, never HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import streamlit as st

from sae_core.foundation.colours import activation_css

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Firing:
    """A feature that fires on the text.

    Attributes:
        feature: Its number.
        member: What its member is called, and the member's CSS colour.
        token: Its top token in the corpus.
        label: What people call it, and whether that is only suggested.
        density: Its density, as people read it.
        peak: Its largest activation in the corpus; 0 if it fires nowhere there.
        rows: The tokens of the text on which it fires.
        values: Its activation at each of them.
    """

    feature: int
    member: tuple[str, str]
    token: str
    label: tuple[str, bool]
    density: str
    peak: float
    rows: Sequence[int]
    values: Sequence[float]


_MOUNT = st.components.v2.component(
    "sae_ensemble_live_strip",
    html='<div class="live"></div>',
    # The colours of activation are those of every strip.
    css=(HERE / "live_strip.css").read_text(encoding="utf-8") + activation_css().replace(".sae ", ""),
    js=(HERE / "live_strip.js").read_text(encoding="utf-8"),
)


def live_strip(
    tokens: Sequence[str],
    features: Sequence[Firing],
    *,
    total: int,
    totals: Sequence[int],
    pinned: Sequence[int],
    member_word: str,
    key: str,
    on_act: Callable[[], None],
) -> None:
    """Draw the text and its features.

    What is done lies in ``st.session_state[key].act`` when ``on_act`` is called: a mapping of ``kind`` (open or pin)
    and ``value`` (a feature).

    Args:
        tokens: Texts of the tokens, as they are to be read.
        features: The features to show.
        total: How many fire on the text.
        totals: How many fire on each token.
        pinned: Which of them are pinned.
        member_word: What a member is called.
        key: Identity of the strip.
        on_act: Called when something is done.
    """
    data = {
        "tokens": list(tokens),
        "features": [asdict(feature) for feature in features],
        "total": total,
        "totals": list(totals),
        "pinned": list(pinned),
        "memberWord": member_word,
    }
    _MOUNT(key=key, data=data, on_act_change=on_act)
