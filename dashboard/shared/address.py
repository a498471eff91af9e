"""The address bar as state: which run, ensemble and feature a link names, checked before anything is read.

Names are only ever compared with the names that are there, so a query string cannot reach outside the runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from dashboard.shared.reads.opening import EnsembleInfo
from sae_core.activations.stages import CORPUS
from sae_core.foundation.errors import UserError
from sae_core.foundation.origin import Words
from sae_core.foundation.run import Run

RUN, ENSEMBLE, FEATURE, PINS = "run", "ensemble", "feature", "pins"
_HERE = "here"


@dataclass(frozen=True, slots=True)
class Here:
    """What the pages look at.

    Attributes:
        root: The path that the dashboard was started with.
        runs: All runs there, by name.
        run: The chosen run.
        ensembles: Its trained ensembles.
        ensemble: The chosen ensemble; None if nothing is trained.
        author: Who writes labels.
    """

    root: Path
    runs: Mapping[str, Path]
    run: Run
    ensembles: Mapping[str, EnsembleInfo]
    ensemble: EnsembleInfo | None
    author: str = "anonymous"

    @property
    def words(self) -> Words:
        """What the rows of this run are called."""
        return self.run.settings.origin.words(CORPUS.facts(self.run))

    def link(self, feature: int | None = None, *, ensemble: str | None = None) -> dict[str, str]:
        """The query string of a link to this run, an ensemble and a feature."""
        query = {RUN: self.run.path.name}
        name = ensemble or (self.ensemble.name if self.ensemble else None)
        if name:
            query[ENSEMBLE] = name
        if feature is not None:
            query[FEATURE] = str(feature)
        return query


def shown(requested: str | None, remembered: str | None, names: Sequence[str]) -> str | None:
    """What a picker shows: nothing while the address bar asks for a name that is not there."""
    if requested is not None:
        return requested if requested in names else None
    return remembered if remembered in names else names[0]


def choose(kind: str, requested: str | None, remembered: str | None, names: Sequence[str]) -> str:
    """The name that the address bar asks for, else the one chosen before, else the first.

    Raises:
        UserError: If the address bar asks for a name that is not there.
    """
    name = shown(requested, remembered, names)
    if name is None:
        raise UserError(
            f"There is no {kind} called “{(requested or '')[:80]}” here; choose one of: {', '.join(names)}."
        )
    return name


def requested_feature(text: str | None, features: int) -> int | None:
    """The feature that the address bar asks for, or None.

    Raises:
        UserError: If it is not the number of a feature of this ensemble.
    """
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) >= features:
        raise UserError(f"This ensemble has no feature “{text[:80]}”; its features are numbered 0 to {features - 1:,}.")
    return int(text)


def write(query: Mapping[str, str | None], *, always: bool = False) -> None:
    """Put values into the address bar, and take those out that are None: all at once.

    Every message to the browser is a step of its history, which Back would stop at.

    Args:
        query: The values.
        always: Whether the browser is told even if nothing changes: a link from a page to itself changes what the
            server knows of the address, and not the address bar.
    """
    before = st.query_params.to_dict()
    after = {key: value for key, value in {**before, **query}.items() if value is not None}
    if always or after != before:
        st.query_params.from_dict(after)


def remember(here: Here) -> None:
    """Keep what the pages look at, for this session."""
    st.session_state[_HERE] = here


def last() -> Here | None:
    """What the pages looked at last; None before they have looked at anything."""
    kept: Here | None = st.session_state.get(_HERE)
    return kept


def here() -> Here:
    """What the page that is running looks at."""
    kept: Here = st.session_state[_HERE]
    return kept
