"""What the page on concepts reads besides the figures: each detector's ROC curve, and means."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard.shared.reads.cached import ENTRIES, modified, optional_table
from sae_core.analysis.concepts.detected import mean_accuracies as mean_of
from sae_core.analysis.concepts.detected import read_means
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import DETECTION, DETECTORS, Run


def detectors(run: Run) -> pd.DataFrame | None:
    """ROC curves, one row a detector; None for runs that were evaluated before they were kept."""
    return optional_table(run.evaluation_table(DETECTORS))


def mean_accuracies(run: Run) -> pd.DataFrame:
    """Mean accuracies by task, and the paired differences between methods; see `detected.read_means`."""
    names = ("concepts", DETECTORS, DETECTION)
    return _means(str(run.path), tuple(modified(run.evaluation_table(name)) for name in names))


@st.cache_resource(max_entries=ENTRIES, show_spinner=False)
def _means(path: str, stamps: tuple[int, ...]) -> pd.DataFrame:
    return read_means(Run.open(Path(path)))


@st.cache_resource(max_entries=ENTRIES, show_spinner=False)
def _concept_means(path: str, stamp: int, task: str, concept: str) -> pd.DataFrame:
    run = Run.open(Path(path))
    table = read_table(run.evaluation_table(DETECTORS))
    own = table[(table["task"] == task) & (table["concept"] == concept)]
    settings = run.settings
    return mean_of(own, samples=settings.evaluation.bootstrap, seed=settings.training.seed)


def concept_accuracies(run: Run, task: str, concept: str) -> pd.DataFrame | None:
    """The same of one concept; None for runs that were evaluated before it was kept which texts were called rightly."""
    stamp = modified(run.evaluation_table(DETECTORS))
    return _concept_means(str(run.path), stamp, task, concept) if stamp else None
