"""Faults as sentences: what every fragment and callback is wrapped in, so that none of them ends in a traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec

import streamlit as st

from dashboard.shared import address
from dashboard.shared.look.cards import notice, plain
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import is_run

_SAID = "fault-said"
_P = ParamSpec("_P")


@contextmanager
def in_a_sentence(then: Callable[[], None] | None = None) -> Iterator[None]:
    """Within this, a `UserError` ends in its sentence, and so does whatever fails because the run was deleted.

    Args:
        then: Called after the sentence, to draw a way on.
    """
    waiting = st.session_state.pop(_SAID, None)
    if waiting:
        st.error(plain(waiting))
    try:
        yield
    except Exception as error:
        st.html(notice("This cannot be shown", _sentence(error)))
        if then:
            then()


def fragment(function: Callable[_P, None]) -> Callable[_P, None]:
    """A fragment of a page, in place of `st.fragment`: it runs alone, where nobody else would catch its faults."""

    @wraps(function)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with in_a_sentence():
            function(*args, **kwargs)

    return st.fragment(guarded)


def callback(function: Callable[_P, None]) -> Callable[_P, None]:
    """What a widget calls and what reads or writes the run: its fault is said at the next run of the page."""

    @wraps(function)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception as error:
            st.session_state[_SAID] = _sentence(error)

    return guarded


def _sentence(error: Exception) -> str:
    """The sentence of a fault; what is no fault of people or of their files is raised again.

    Raises:
        Exception: The same error, if it has no sentence.
    """
    if isinstance(error, UserError):
        return str(error)
    here = address.last()
    if here is None or is_run(here.run.path):
        raise error
    return f"The run {here.run.path} is gone: there is no run.json in it any more. Restore it, or open another run."
