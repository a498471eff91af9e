"""Who looks: the name that a person's browser keeps, and a number by which the server knows the browser again.

Both are cookies, since the server reads a cookie before it draws anything, and so a page that is loaded anew shows the
name at once. Nothing that comes out of a cookie is trusted.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import OrderedDict
from threading import Lock
from urllib.parse import quote, unquote

import streamlit as st

from sae_core.foundation.machine import environment as variables
from sae_core.labels import AUTHOR
from sae_core.labels.fields import clean

NOBODY = "anonymous"
FIELD = "author"
_NAME, _NUMBER = "sae_ensemble_author", "sae_ensemble_browser"
"""Names of the cookies."""
_GIVEN, _MADE = "visitor-name-given", "visitor-number-made"
_YEAR = 365 * 24 * 3600
_MOST = 1000
"""As many lists of steps are kept: one for each browser and run."""

Place = tuple[str, str]
"""Where labels are kept, and the run's identity: a copy of a run has the same, and steps of its own."""

_steps: OrderedDict[tuple[str, Place], list[int]] = OrderedDict()
_lock = Lock()


def name_field() -> str:
    """The field for the name in the sidebar, and the name; the browser keeps one that was typed."""
    kept = clean(unquote(_cookie(_NAME)))[: AUTHOR.longest].strip()
    author = st.sidebar.text_input(
        "Your name",
        value=kept or os.environ.get(variables.AUTHOR) or NOBODY,
        key=FIELD,
        max_chars=AUTHOR.longest,
        help="Written beside every label that you save; your browser keeps it.",
        on_change=_named,
        persist_state="session",
    )
    return (author or "").strip() or NOBODY


def _named() -> None:
    st.session_state[_GIVEN] = str(st.session_state[FIELD] or "").strip()


def script() -> str:
    """What tells the browser to keep what it does not keep yet, as HTML; empty if it keeps everything."""
    told = []
    if _known() is None:
        told.append((_NUMBER, _number(), _YEAR))
    given = st.session_state.get(_GIVEN)
    if given is not None:
        told.append((_NAME, quote(given, safe=""), _YEAR if given else 0))
    if not told:
        return ""
    # `quote` and the number leave nothing that could end the string or the script.
    lines = (f"document.cookie='{key}={value};path=/;max-age={age};samesite=strict'" for key, value, age in told)
    return f"<script>{';'.join(lines)}</script>"


def _cookie(name: str) -> str:
    value: object = st.context.cookies.get(name)
    return value if isinstance(value, str) else ""


def _known() -> str | None:
    """The number that the browser brought when it connected."""
    number = _cookie(_NUMBER)
    return number if re.fullmatch("[0-9a-f]{32}", number) else None


def _number() -> str:
    known = _known()
    if known is None:
        known = str(st.session_state.setdefault(_MADE, secrets.token_hex(16)))
    return known


def steps(where: Place) -> list[int]:
    """Numbers of the steps that this browser has made there, since the server was started."""
    with _lock:
        return list(_steps.get((_number(), where), ()))


def remember(where: Place, step: int | None) -> None:
    """Keep a step's number, if there is one, so that people without a name take back only what they did themselves."""
    if step is None:
        return
    key = (_number(), where)
    with _lock:
        _steps.setdefault(key, []).append(step)
        _steps.move_to_end(key)
        while len(_steps) > _MOST:
            _steps.popitem(last=False)
