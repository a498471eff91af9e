"""What the page on spurious correlations reads: measured tasks, benches to ablate on, and the evidence for features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from dashboard.shared.reads.cached import modified
from sae_core.analysis.shared.names_in_tables import SPURIOUS
from sae_core.foundation.files.whole_files import read_object
from sae_core.foundation.run import Run

if TYPE_CHECKING:  # What computes needs scikit-learn and torch, which pages of other things are not to wait for.
    from sae_core.analysis.concepts.evidence import Telling, Words
    from sae_core.analysis.spurious.ablation import Outcome, Workbench
    from sae_core.analysis.spurious.removal import PooledTask

BENCHES = 12
"""Benches that are kept; one takes some ten megabytes."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One ensemble's features on the texts of one seed, ready to be ablated.

    Attributes:
        work: Answers for any features, in less than a millisecond.
        pooled: The texts with their labels.
        order: Features by falling |score|.
        words: Which words occur in the balanced training texts.
        before: The biased probe with nothing ablated.
        best: The oracle.
    """

    work: Workbench
    pooled: PooledTask
    order: NDArray[np.int64]
    words: Words
    before: Outcome
    best: Outcome


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for and against a feature.

    Attributes:
        feature: Its number.
        score: (f̄₊ − f̄₋)·(w·d): how much of the probe's lean on S goes through it.
        difference: f̄₊ − f̄₋, how much larger its mean coefficient is where S is present.
        effect: w·d, by how much the probe's value changes with it.
        marked: Share of its activation on the tokens that are known to say S; None where that is not known.
        words: Words of the training texts that go with it.
    """

    feature: int
    score: float
    difference: float
    effect: float
    marked: float | None
    words: Sequence[Telling]


def spurious(run: Run) -> list[dict[str, Any]]:
    """The measured tasks, as evaluation/spurious.json has them; none where nothing was measured."""
    path = run.evaluation(SPURIOUS)
    if not path.exists() or not run.evaluation_table(SPURIOUS).exists():
        return []
    return _tasks(str(path), modified(path))


@st.cache_resource(max_entries=BENCHES, show_spinner=False)
def _tasks(path: str, modified: int) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = read_object(Path(path), tasks=list)["tasks"]
    return tasks


def bench(run: Run, task: str, method: str, seed: int) -> Bench:
    """The bench of one ensemble (or of the random dictionary) on the texts of one seed, shared between sessions.

    Raises:
        UserError: If the task was not measured for it, or its file is damaged.
    """
    stamps = (modified(run.spurious(task)), modified(run.ensemble(method).manifest), modified(run.evaluation(SPURIOUS)))
    return _bench(str(run.path), task, method, seed, stamps)


@st.cache_resource(max_entries=BENCHES, show_spinner="Fitting the probes …")
def _bench(path: str, task: str, method: str, seed: int, stamps: tuple[int, ...]) -> Bench:
    from sae_core.analysis.concepts.evidence import Words
    from sae_core.analysis.spurious.files import open_workbench

    with threadpool_limits(limits=1):
        work, pooled = open_workbench(Run.open(Path(path)), task, method, seed=seed)
        order = work.rank()  # also computes what the bench keeps, so that sessions only read it
    words = Words([pooled.task.texts[row] for row in work.texts.balanced])
    return Bench(work, pooled, order, words, work.before(), work.best())


def evidence(bench: Bench, method: str, features: Sequence[int]) -> list[Evidence]:
    """What is known of features, in their order.

    Args:
        bench: The bench.
        method: The ensemble that it is of.
        features: Their numbers.
    """
    chosen = np.asarray(features, dtype=np.int64)
    if not len(chosen):
        return []
    work = bench.work
    coefs_XF = bench.pooled.codes[method][work.texts.balanced][:, chosen].toarray().astype(np.float64)
    words = bench.words.telling(coefs_XF)
    marked_M = bench.pooled.marked.get(method)
    return [
        Evidence(
            feature=int(feature),
            score=float(work.scores_M[feature]),
            difference=float(work.difference_M[feature]),
            effect=float(work.effect_M[feature]),
            marked=None if marked_M is None else float(marked_M[feature]),
            words=found,
        )
        for feature, found in zip(chosen, words, strict=True)
    ]


def strongest_texts(bench: Bench, method: str, feature: int, *, count: int = 3) -> pd.DataFrame:
    """Training texts on which a feature is strongest, some with and some without S: text, target, spurious, mean."""
    from sae_core.analysis.concepts.evidence import strongest

    task, rows = bench.pooled.task, bench.work.texts.balanced
    coefs_X = np.asarray(bench.pooled.codes[method][:, [feature]].toarray(), dtype=np.float64).ravel()
    found = [
        strongest(coefs_X, rows[task.spurious_X[rows] == with_it], count=count)  # with it first
        for with_it in (True, False)
    ]
    places = np.concatenate(found)
    return pd.DataFrame(
        {
            "text": [task.texts[row] for row in places],
            "target": task.target_X[places],
            "spurious": task.spurious_X[places],
            "mean": coefs_X[places],
        }
    )
