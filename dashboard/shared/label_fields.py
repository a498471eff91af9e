"""The fields that people fill in, as Streamlit draws them: in a form, and as columns of a table to edit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import streamlit as st

from sae_core.labels import EMPTY, WRITTEN, Label
from sae_core.labels.fields import Value, Whole


def room_for(name: str, *texts: str) -> int:
    """How many characters a field takes: the limit, or as many as an older version has let in, so that none is cut."""
    return max(WRITTEN[name].longest, *map(len, texts))


def entry(name: str, key: str, label: Label | None) -> None:
    """Draw a field of a form, at first with what is saved."""
    kind, saved = WRITTEN[name], values_of(label)[name]
    if isinstance(kind, Whole):
        number: Any = saved
        st.number_input(kind.title, kind.least, kind.most, number, 1, key=_key(name, key), placeholder=kind.hint)
        return
    text = kind.text(saved)
    room = room_for(name, text, typed(name, key))
    st.text_input(kind.title, value=text, key=_key(name, key), max_chars=room, placeholder=kind.hint)


def column(name: str, shown: Iterable[Label]) -> Any:
    """The column of a table to edit."""
    kind = WRITTEN[name]
    if isinstance(kind, Whole):
        return st.column_config.NumberColumn(
            kind.title, width=110, min_value=kind.least, max_value=kind.most, step=1, format="%d"
        )
    room = room_for(name, *(kind.text(getattr(one, name)) for one in shown))
    return st.column_config.TextColumn(kind.title, width="medium", max_chars=room)


def values_of(label: Label | None) -> dict[str, Value]:
    """What is saved, by name of the field."""
    return label.values if label else dict(EMPTY)


def texts_of(label: Label | None) -> dict[str, str]:
    """The same as people type it."""
    return {name: WRITTEN[name].text(value) for name, value in values_of(label).items()}


def typed(name: str, key: str) -> str:
    """What the server knows of a field's text, as that of a draft."""
    return WRITTEN[name].text(st.session_state.get(_key(name, key)))


def put(key: str, texts: Mapping[str, str]) -> None:
    """Put texts into the fields of a form; a text that a field does not take is left out."""
    for name, text in texts.items():
        kind = WRITTEN[name]
        try:
            st.session_state[_key(name, key)] = kind.parse(text)
        except ValueError:
            st.session_state[_key(name, key)] = kind.empty


def _key(name: str, key: str) -> str:
    return f"{name}-{key}"
