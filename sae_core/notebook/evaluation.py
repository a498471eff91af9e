"""Evaluate an ensemble on activations: how much it explains, how sparsely, and how well few features tell labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from sae_core.activations.store.cache import ActivationCache
from sae_core.analysis.concepts.detected import mean_accuracies
from sae_core.analysis.concepts.labelled_rows import RowBatch
from sae_core.analysis.concepts.probes import Problem, probe_rows
from sae_core.analysis.concepts.tasks import (
    MAX_CLASSES,
    MIN_TEST,
    MIN_TRAIN,
    TEST_SHARE,
    Task,
    build_problems,
    usable_concepts,
)
from sae_core.analysis.reconstruction import figures as declared
from sae_core.analysis.reconstruction.reconstruction import measure_reconstruction
from sae_core.analysis.shared.ensemble_codes import BLOCK
from sae_core.analysis.shared.names_in_tables import RAW, STANDARDISED
from sae_core.analysis.shared.pooling import pool
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.figures import Figure
from sae_core.foundation.numbers import decimal, percent, whole
from sae_core.foundation.progress import Progress
from sae_core.foundation.settings.run_settings import EvaluationSettings
from sae_core.notebook.given import Activations, ArraySource, is_table, written
from sae_core.notebook.look import shown
from sae_core.notebook.watching import of_rows, watched
from sae_core.report.html import Cell, Column, definitions, element, folded
from sae_core.report.pieces.cards import table

FEATURES = (1, 5)
"""Numbers of features with which labels are detected."""
_NAME = "ensemble"


class Shown(NamedTuple):
    """A figure as people read it: its name, its value, and its interval if it has one."""

    name: str
    text: str
    interval: str = ""
    definition: str = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of an ensemble on some activations; a figure that is not defined is NaN.

    Attributes:
        rows: Number of activations.
        explained_variance: 1 − E‖a − â‖² / (E‖a‖² − ‖E a‖²), over all dimensions together.
        explained_variance_interval: Its 95 % bootstrap interval; None if there are too few rows for one.
        explained_variance_per_dimension: Mean over the dimensions of each one's explained variance.
        mse: Mean over rows of ‖a − â‖².
        l0: Active features of an activation, all members together.
        dead_share: Share of the features that fire on none of the rows.
        detection: With labels: one row per label and number of features ``m`` (0: the raw activation, all dimensions),
            with accuracy (chance is 0.5) and its interval (low, high), auc, features (best first), signs, train_rows
            and test_rows.
        detection_accuracy: With labels: mean accuracy over labels with 5 features.
        detection_interval: Its 95 % bootstrap interval over rows, or over groups.
        note: What the figures were measured on, in a sentence.
    """

    rows: int
    explained_variance: float
    explained_variance_interval: tuple[float, float] | None
    explained_variance_per_dimension: float
    mse: float
    l0: float
    dead_share: float
    detection: pd.DataFrame | None = None
    detection_accuracy: float = math.nan
    detection_interval: tuple[float, float] | None = None
    note: str = ""

    def figures(self) -> list[Shown]:
        """The figures as people read them."""
        found = [
            _shown(declared.EXPLAINED_VARIANCE, self.explained_variance, self.explained_variance_interval),
            _shown(
                declared.PER_DIMENSION, self.explained_variance_per_dimension, name="Explained variance per dimension"
            ),
            _shown(declared.MSE, self.mse),
            _shown(declared.L0, self.l0),
            Shown("Dead features", percent(self.dead_share), definition="Features that fire on none of the rows"),
        ]
        if self.detection is not None:
            interval = _interval(self.detection_interval, percent)
            name = f"Detection accuracy, {FEATURES[-1]} features"
            found.append(Shown(name, percent(self.detection_accuracy), interval, "Mean over labels; chance is 50 %"))
        return found

    def __str__(self) -> str:
        """The figures, one a line."""
        width = max(len(each.name) for each in self.figures())
        lines = [
            f"{each.name:<{width}}  {each.text}" + f"  ({each.interval})" * bool(each.interval)
            for each in self.figures()
        ]
        return "\n".join([*lines, self.note])

    def _repr_html_(self) -> str:
        return _html(self)


def evaluate(
    ensemble: Ensemble,
    acts: Activations,
    *,
    labels: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    bootstrap: int = 200,
    seed: int = 0,
    progress: Progress | bool = True,
) -> Evaluation:
    """Measure an ensemble on activations, as a run measures its ensembles.

    Give activations that the ensemble was not trained on.

    Args:
        ensemble: The ensemble.
        acts: Activations [rows, D], or batches of them.
        labels: A label for each row, of any type; rows whose label is None or NaN are left out of detection. Each label
            is told from all others by logistic regression on its best features, chosen on seven tenths of the rows and
            measured on the others (sparse probing, Karvonen et al. 2025; coefficients are scaled to unit
            variance).
        groups: What each row belongs to (a document, a patient): a group is in either part, never in both, and
            intervals come from whole groups.
        bootstrap: Number of bootstrap samples for intervals.
        seed: Seed of the draws.
        progress: As in `train`.

    Raises:
        UserError: If activations, labels or groups cannot be used.
    """
    if not isinstance(ensemble, Ensemble):
        raise UserError(f"ensemble is a {type(ensemble).__name__}; give what train or load returns.")
    if isinstance(bootstrap, bool) or not isinstance(bootstrap, int) or bootstrap < 1:
        raise UserError(f"bootstrap is {bootstrap!r}; give a number of samples of at least 1.")
    with TemporaryDirectory(prefix="sae-ensemble-") as folder, watched(progress) as drawn:
        tell = of_rows(drawn)
        source = ArraySource(acts) if is_table(acts) else written(acts, Path(folder))  # type: ignore[arg-type]
        if source.d_in != ensemble.d_in:
            raise UserError(
                f"acts has {source.d_in} columns, but the ensemble is for activations of dimension {ensemble.d_in}."
            )
        group_R = None if groups is None else pd.factorize(_column(groups, source.rows, "groups"))[0].astype(np.int64)
        task = None if labels is None else _task(_column(labels, source.rows, "labels"), group_R, seed)
        found, _ = measure_reconstruction(
            {_NAME: ensemble},
            source.read,
            source.rows,
            document_T=group_R,
            bootstrap=bootstrap,
            seed=seed,
            device=str(ensemble.device),
            progress=tell,
        )
        evaluation = _of(found)
        if task is None:
            return evaluation
        detection = _detected(ensemble, source, task, bootstrap=bootstrap, seed=seed, progress=tell)
        return replace(evaluation, **detection, note=f"{evaluation.note} {_said(task, source.rows)}")


def _column(values: ArrayLike, rows: int, told: str) -> NDArray[np.object_]:
    """One value a row, with None for what is missing."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    shape = getattr(values, "shape", (0,))
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or len(shape) != 1:
        found = f"an array of shape {list(shape)}" if len(shape) != 1 else f"a {type(values).__name__}"
        raise UserError(f"{told} is {found}; give one value a row.")
    given = list(values)
    if len(given) != rows:
        raise UserError(f"{told} has {len(given)} values, but acts has {rows} rows; give one a row.")
    column = np.empty(rows, object)
    column[:] = [None if value is None or value != value else str(value) for value in given]
    if told == "groups" and any(value is None for value in column):
        raise UserError(
            f"groups has no value in row {list(column).index(None)} (counted from 0); name the group of each row."
        )
    return column


def _task(labels: NDArray[np.object_], group_R: NDArray[np.int64] | None, seed: int) -> Task:
    """The labelled rows, named by their numbers, in two parts; a group is in one of them."""
    units = np.arange(len(labels)) if group_R is None else group_R
    there = np.flatnonzero(labels != None)  # noqa: E711
    classes = sorted(set(labels[there]))
    if len(classes) < 2:
        raise UserError(f"labels holds {len(classes)} different values; give at least 2 to tell apart.")
    if len(classes) > MAX_CLASSES:
        raise UserError(f"labels holds {len(classes)} different values; give at most {MAX_CLASSES}.")
    tested = np.zeros(len(labels), np.bool_)
    chance = np.random.default_rng(seed)
    if group_R is None:
        for label in classes:  # as many of each as it has of all
            mine = chance.permutation(there[labels[there] == label])
            tested[mine[: round(TEST_SHARE * len(mine))]] = True
    else:
        names = chance.permutation(np.unique(units[there]))
        tested = np.isin(units, names[: max(1, round(TEST_SHARE * len(names)))])
    (train, train_labels), (test, test_labels) = (
        ([str(row) for row in rows], [str(label) for label in labels[rows]])
        for rows in (there[~tested[there]], there[tested[there]])
    )
    used = [str(units[int(row)]) for row in test]
    task = Task("labels", "Labels of rows.", train, train_labels, test, test_labels, used)
    if not usable_concepts(task):
        raise UserError(
            f"No two labels have at least {MIN_TRAIN} rows to choose features on and {MIN_TEST} to measure on; give "
            "more labelled rows."
        )
    return task


def _detected(
    ensemble: Ensemble,
    source: ArraySource | ActivationCache,
    task: Task,
    *,
    bootstrap: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Detection of every label: the fields of an `Evaluation`."""
    limits = EvaluationSettings()
    numbers = {text: int(text) for text in (*task.train_texts, *task.test_texts)}
    asked: dict[str, int] = {"train_texts": limits.train_texts, "test_texts": limits.test_texts}
    problems = build_problems([task], numbers, **asked, seed=seed)
    used = np.unique(np.concatenate([side for each in problems for side in (each.train, each.test)]))
    problems = [_renumbered(problem, used) for problem in problems]
    device = str(ensemble.device)
    pooled = pool({_NAME: ensemble}, _batches(source, used), len(used), device=device, progress=progress)
    chance = np.random.default_rng(seed)
    resamples = [problem.resamples(bootstrap, chance) for problem in problems]
    rows = []
    for name, features, counts in ((_NAME, pooled.codes[_NAME], FEATURES), (RAW, pooled.raw, (0,))):
        options: dict[str, Any] = {"counts": counts, "whole": name == RAW, "variants": (STANDARDISED,)}
        rows += [{"method": name, **row} for row in probe_rows(features, problems, resamples, **options)]
    table = pd.DataFrame(rows)
    means = mean_accuracies(table, samples=bootstrap, seed=seed)
    mean = means[(means["method"] == _NAME) & (means["m"] == FEATURES[-1]) & (means["task"] == task.name)].iloc[0]
    columns = {"concept": "label", "accuracy_low": "low", "accuracy_high": "high", "train_texts": "train_rows"}
    columns["test_texts"] = "test_rows"
    wanted = ["label", "m", "accuracy", "low", "high", "auc", "features", "signs", "train_rows", "test_rows"]
    return {
        "detection": table.rename(columns=columns)[wanted].sort_values(["label", "m"], ignore_index=True),
        "detection_accuracy": float(mean["accuracy"]),
        "detection_interval": _ends(mean["low"], mean["high"]),
    }


def _batches(source: ArraySource | ActivationCache, used: NDArray[np.int64]) -> Iterator[RowBatch]:
    """The rows with some numbers, which ascend; each is a text of its own."""
    for first in range(0, len(used), BLOCK):
        rows = used[first : first + BLOCK]
        yield RowBatch(source.take(rows), torch.arange(first, first + len(rows)))


def _renumbered(problem: Problem, used: NDArray[np.int64]) -> Problem:
    train, test = (np.searchsorted(used, side) for side in (problem.train, problem.test))
    return replace(problem, train=train, test=test)


def _of(found: dict[str, Any]) -> Evaluation:
    own = found["ensembles"][_NAME]
    names = ("explained_variance", "explained_variance_per_dimension")
    explained, per_dimension = (math.nan if own[name] is None else own[name] for name in names)
    drawn = found["drawn"].replace("tokens", "rows").replace("documents", "groups")
    return Evaluation(
        rows=found["tokens"],
        explained_variance=explained,
        explained_variance_interval=_ends(*own["explained_variance_interval"]),
        explained_variance_per_dimension=per_dimension,
        mse=own["mse"],
        l0=own["l0"],
        dead_share=own["dead_fraction"],
        note=f"Measured on {found['tokens']:,} rows; intervals from {found['bootstrap']} bootstrap samples of {drawn}.",
    )


def _said(task: Task, rows: int) -> str:
    left = rows - len(task.train_texts) - len(task.test_texts)
    without = f" {left:,} rows have no label." if left else ""
    out = sorted(set(task.classes) - set(usable_concepts(task))) if len(task.classes) > 2 else []
    few = f" Too few rows for {', '.join(out)}." if out else ""
    return (
        f"Labels are detected on {len(task.test_texts):,} rows, with features chosen on {len(task.train_texts):,} "
        f"others; each against as many rows of other labels.{without}{few}"
    )


def _ends(low: float | None, high: float | None) -> tuple[float, float] | None:
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return None
    return float(low), float(high)


def _shown(figure: Figure, value: float, ends: Sequence[float] | None = None, name: str = "") -> Shown:
    definition = figure.definition.replace("held-out tokens", "rows").replace("token", "row")
    return Shown(name or figure.title, figure.style(value), _interval(ends, figure.style), definition)


def _interval(ends: Sequence[float] | None, style: Any) -> str:
    return " – ".join(map(style, ends)) if ends else ""


def _html(found: Evaluation) -> str:
    """The figures of an evaluation; their definitions are folded below them."""
    figures = found.figures()
    rows = [[Cell(each.name), Cell(each.text, each.interval)] for each in figures]
    meanings = folded("What these are", definitions({each.name: each.definition for each in figures}))
    titles = [Column("Figure"), Column("Value", "Below it the 95 % interval, where there is one")]
    blocks = [table(titles, rows), element("div", element("p", found.note, kind="note"), meanings, kind="sae more")]
    if found.detection is not None:
        columns = [Column("Label"), *(Column(name) for name in ("Features", "Accuracy", "AUC", "Test rows"))]
        labels = [
            [
                Cell(str(row["label"])),
                Cell(whole(row["m"]) if row["m"] else "raw"),
                Cell(percent(row["accuracy"]), f"{percent(row['low'])} – {percent(row['high'])}"),
                Cell(decimal(row["auc"])),
                Cell(whole(row["test_rows"])),
            ]
            for row in found.detection.to_dict("records")
        ]
        blocks.append(table(columns, labels))
    return shown(*blocks)
