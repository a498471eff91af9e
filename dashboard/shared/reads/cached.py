"""Tables of a run read once for all sessions: a key is a path and its modification time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self, TypeVar, cast

import pandas as pd
import streamlit as st

from sae_core.foundation.files.whole_files import read_table

ENTRIES = 24
_T = TypeVar("_T")
_O = TypeVar("_O", bound="Opened")


def optional(path: Path, opened: Callable[[str, int], _T]) -> _T | None:
    """What a cached function opens, given a path and its modification time; None where there is no file."""
    written = modified(path)
    return opened(str(path), written) if written else None


def optional_table(path: Path) -> pd.DataFrame | None:
    """The table at ``path``, shared and never to be changed; None where there is none."""
    return optional(path, _table)


class Opened(Protocol):
    """A class that maps a file of a run."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map the file."""


def optional_file(path: Path, kind: type[_O]) -> _O | None:
    """The file at ``path``, mapped; None where there is none."""
    return cast("_O | None", optional(path, lambda name, written: _opened(kind, kind.__name__, name, written)))


@st.cache_resource(max_entries=4 * ENTRIES, show_spinner=False)
def _opened(_kind: type[Opened], kind: str, path: str, modified: int) -> Opened:
    return _kind.open(Path(path))


@st.cache_resource(max_entries=ENTRIES, show_spinner=False)
def _table(path: str, modified: int) -> pd.DataFrame:
    return read_table(Path(path))


def modified(path: Path) -> int:
    """When a file was last written, in nanoseconds; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
