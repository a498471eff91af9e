"""Tables, index and corpus of a run; what the run does not have yet is None."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.shared.reads.cached import ENTRIES, modified, optional, optional_file, optional_table
from sae_core.activations.corpus import Corpus
from sae_core.analysis.concepts.stage import CONCEPTS
from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.analysis.summary import summarize
from sae_core.foundation.files.whole_files import read_object
from sae_core.foundation.run import Run


def summary(run: Run) -> list[dict[str, Any]]:
    """One row of figures per ensemble; shared and never to be changed."""
    files = [run.manifest_path, *run.evaluations()]
    return _summary(str(run.path), tuple((file.name, modified(file)) for file in files))


@st.cache_resource(max_entries=ENTRIES, show_spinner=False)
def _summary(path: str, files: tuple[tuple[str, int], ...]) -> list[dict[str, Any]]:
    return summarize(Run.open(Path(path)))


def evaluation(run: Run, name: str) -> dict[str, Any] | None:
    """One evaluation's figures; shared and never to be changed."""
    return optional(run.evaluation(name), _figures)


@st.cache_resource(max_entries=2 * ENTRIES, show_spinner=False)
def _figures(path: str, modified: int) -> dict[str, Any]:
    return read_object(Path(path))


def concepts(run: Run) -> pd.DataFrame | None:
    """The concept detection table."""
    return optional_table(run.evaluation_table(CONCEPTS.name))


def curves(run: Run, ensemble: str) -> pd.DataFrame | None:
    """The training curves."""
    return optional_table(run.ensemble(ensemble).curves)


def atoms(run: Run, ensemble: str) -> pd.DataFrame | None:
    """One row a feature."""
    return optional_table(run.ensemble(ensemble).atoms)


def matches(run: Run, ensemble: str) -> pd.DataFrame | None:
    """Matches of features across members."""
    return optional_table(run.ensemble(ensemble).matches)


def match_summary(run: Run, ensemble: str) -> dict[str, Any] | None:
    """Figures of each pair of members, and of random dictionaries."""
    return optional(run.ensemble(ensemble).match_summary, _figures)


def promoted(run: Run, ensemble: str) -> pd.DataFrame | None:
    """Tokens that each feature promotes and suppresses, one row a feature; the row number is the feature."""
    return optional_table(run.ensemble(ensemble).promoted)


def suggestions(run: Run, ensemble: str) -> pd.DataFrame | None:
    """A label suggested for each feature, as `suggest_labels` gives it; the row number is the feature."""
    return optional_table(run.ensemble(ensemble).suggestions)


def index(run: Run, ensemble: str) -> ActivationIndex | None:
    """The activation index."""
    return optional_file(run.ensemble(ensemble).index, ActivationIndex)


def corpus(run: Run) -> Corpus | None:
    """The indexed corpus."""
    written = modified(run.corpus.tokens)
    return _corpus(str(run.path), written) if written else None


@st.cache_resource(max_entries=ENTRIES, show_spinner="Opening the corpus …")
def _corpus(path: str, modified: int) -> Corpus:
    return Corpus.open(Run.open(Path(path)))
