"""Type a text: which features of the ensemble fire on it, and where, by the language model of the run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import streamlit as st

from dashboard.components.live_strip import live_strip
from dashboard.shared import address, pins
from dashboard.shared.address import Here, here
from dashboard.shared.common import needs_text, open_feature, trained_ensemble
from dashboard.shared.faults import fragment
from dashboard.shared.look.cards import notice
from dashboard.shared.pins import Pin
from dashboard.shared.reads import finding, typed_text
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.views.text.firing import firing
from sae_core.analysis.live_text import MAX_CHARS, MAX_TOKENS, LiveText
from sae_core.foundation.errors import UserError
from sae_core.foundation.numbers import percent, whole
from sae_core.report.pieces.cards import heading
from sae_core.report.pieces.tokens import show_in_context

TEXT, IN_ADDRESS = "text", 1000
"""Name of the text in the address bar, and how long it may be there."""
EXAMPLE = "The function returns a copy of the array, sorted along the last axis."
_TO_OPEN, _SEEN = "text-to-open", "text-address"


def show(here: Here) -> None:
    """The whole page."""
    info = trained_ensemble(here)
    needs_text(here)
    typed_text.import_reader()
    st.html(
        heading(
            "Type a text",
            f"The language model of this run reads it, and every {info.member_word} of {info.title} encodes what it "
            "reads: the activations are those that the index would have for the same text as a document.",
        )
    )
    _read(here, info)


@fragment
def _read(here: Here, info: EnsembleInfo) -> None:
    to_open = st.session_state.pop(_TO_OPEN, None)
    if to_open is not None:
        open_feature(here, to_open)
    text = _typed()
    if not text.strip():
        st.caption("Type a sentence, or take the example, and press Read.")
        return
    try:
        with st.spinner("Reading …", show_time=False):
            found = typed_text.live_text(here.run, info.name, text)
    except UserError as error:
        st.html(notice("This text cannot be read", str(error)))
        return
    st.caption(_summary(found))
    key = f"live-{info.name}-{here.run.path.name}"
    live_strip(
        [show_in_context(token) for token in found.texts],
        firing(found, finding.features(here.run, info), [info.feature(member, 0) for member in range(info.members)]),
        total=len(np.unique(found.features)),
        totals=np.bincount(found.rows, minlength=len(found)).tolist(),
        pinned=[pin.feature for pin in pins.pinned(here) if pin.ensemble == info.name],
        member_word=info.member_word,
        key=key,
        on_act=lambda: _act(here, info, key),
    )


def _typed() -> str:
    """The text that the address bar or the person gives."""
    asked = st.query_params.get(TEXT, "")[:MAX_CHARS]
    seen, version = st.session_state.get(_SEEN, ("", 0))
    if asked and asked != seen:  # a link, or Back
        version += 1
    key = f"text-{version}"
    if asked and key not in st.session_state:
        st.session_state[key] = asked
    text = (
        st.text_area(
            "Text",
            key=key,
            height=110,
            max_chars=MAX_CHARS,
            placeholder=EXAMPLE,
            label_visibility="collapsed",
            persist_state="session",
        )
        or ""
    )
    with st.container(horizontal=True, gap="small"):
        st.button("Read", type="primary", icon=":material/play_arrow:", key="text-read", help="Or press Ctrl and Enter")
        if not text.strip():
            st.button("Take the example", key="text-example", on_click=_take_example, args=(key,))
    # A long text stays out of the address, which not every program would take.
    in_address = text if len(text) <= IN_ADDRESS else ""
    address.write({TEXT: in_address or None})
    st.session_state[_SEEN] = (in_address, version)
    return text


def _take_example(key: str) -> None:
    st.session_state[key] = EXAMPLE


def _summary(found: LiveText) -> str:
    kept = 1 - float(found.left_JT[-1].sum()) / max(float(found.energy_T.sum()), 1e-12)
    parts = [
        f"{whole(len(found))} tokens",
        f"{whole(len(np.unique(found.features)))} features fire, {len(found.features) / len(found):.0f} on a token",
        f"the reconstruction leaves {percent(1 - kept)} of the energy (Σ‖a − â‖² / Σ‖a‖²)",
    ]
    if found.cut:
        parts.append(f"cut: at most {MAX_TOKENS} tokens and {whole(MAX_CHARS)} characters are read")
    return " · ".join(parts) + ". Point at a feature to see where it fires; click a token to see what fires on it."


def _act(here: Here, info: EnsembleInfo, key: str) -> None:
    """Do what was asked for in the list; it comes from the browser and is checked."""
    done = getattr(st.session_state.get(key), "act", None)
    kind, value = (done.get("kind"), done.get("value")) if isinstance(done, Mapping) else (None, None)
    if not isinstance(value, int) or not 0 <= value < info.features:
        return
    if kind == "pin":
        pins.toggle(here, Pin(info.name, value))
    elif kind == "open":
        st.session_state[_TO_OPEN] = value


show(here())
