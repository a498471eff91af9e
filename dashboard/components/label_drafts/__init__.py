"""What is typed into the form of a label and not saved: a Streamlit component (v2) that keeps it in the browser.

It writes every letter down as it is typed, so a step to another feature, a link, Back and a reload lose none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from sae_core.foundation.run import Run
from sae_core.labels import WRITTEN

_MOUNT = st.components.v2.component(
    "sae_ensemble_label_drafts",
    html='<div class="said"></div>',
    css=".said{font-size:.85rem;color:light-dark(#a3341f,#ff9d8a)}",
    js=(Path(__file__).parent / "label_drafts.js").read_text(encoding="utf-8"),
)
KEY = "label-drafts"
_GONE = "label-drafts-gone"
MOST = 20_000
"""Characters of a text that a browser is believed; the limits of labels are far below, and saving names them."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What somebody has typed and not saved.

    Attributes:
        texts: The texts, by name of the field.
        seen: The version that the form showed when they were typed.
    """

    texts: Mapping[str, str]
    seen: int


def place_of(run: Run, ensemble: str, feature: int) -> str:
    """Under which name the browser keeps a feature's draft; a run that is moved or renamed keeps its drafts."""
    return f"{run.identity}/{ensemble}/{feature}"


def label_drafts(
    place: str,
    form: str,
    saved: Mapping[str, str],
    *,
    seen: int,
    reload: int,
    shown: bool,
    on_found: Callable[[], None],
) -> None:
    """Watch a form's fields, and offer what the browser keeps for them; that is `found` when ``on_found`` is called.

    Args:
        place: What `place_of` says.
        form: The key of a field is its name, ``-`` and this.
        saved: What is saved, by name of the field.
        seen: The version that the form shows.
        reload: Changes whenever forms have been filled with what is saved.
        shown: Whether the form shows the draft already.
        on_found: Called when the browser has a draft.
    """
    data = {
        "place": place,
        "form": re.sub(r"[^a-zA-Z0-9_-]", "-", form),  # as Streamlit makes a class of a key
        "saved": saved,
        "seen": seen,
        "reload": reload,
        "shown": shown,
        "gone": _gone().get(place, 0),
    }
    _MOUNT(key=KEY, data=data, on_draft_change=on_found, height="content")


def found(place: str) -> Draft | None:
    """The draft that the browser offers for a feature."""
    return read((st.session_state.get(KEY) or {}).get("draft"), place)


def read(value: object, place: str) -> Draft | None:
    """What a browser sent, checked; it is not trusted. None if it belongs to another feature or makes no sense."""
    if not isinstance(value, Mapping) or value.get("place") != place:
        return None
    texts, seen = value.get("texts"), value.get("seen")
    if not isinstance(texts, Mapping) or type(seen) is not int or seen < 0:
        return None
    known = {name: texts[name] for name in WRITTEN if isinstance(texts.get(name), str) and len(texts[name]) <= MOST}
    return Draft(known, seen) if len(known) == len(WRITTEN) else None


def forget(place: str) -> None:
    """Let the browser forget a feature's draft, which was saved or given up."""
    gone = _gone()
    gone[place] = gone.get(place, 0) + 1


def _gone() -> dict[str, int]:
    kept: dict[str, int] = st.session_state.setdefault(_GONE, {})
    return kept
