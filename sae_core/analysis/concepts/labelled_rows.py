"""Detect labels of rows that are no texts: tasks from the labels that an origin gives, and the rows' activations.

A label that all rows of a group share is detected by group, from the mean over its rows; any other label by row. Rows
of one group are never on both sides, and the groups that no SAE has seen are for testing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.activations.harvest import evaluation_cache, train_cache
from sae_core.analysis.concepts.tasks import MAX_CLASSES, TEST_SHARE, Task, usable_concepts
from sae_core.foundation.origin import GROUP, HELD_OUT
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import EvaluationSettings

_AT_ONCE = 4096
_ROW, _GROUP = "row", "group"


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Activations of some rows: ``acts_TD`` [T, D], and ``document_T`` [T], the number of what each belongs to."""

    acts_TD: Tensor
    document_T: Tensor


class LabelledRows:
    """Rows by name, in place of texts: ``row 17`` is one row, ``group M03`` all rows of a group.

    Args:
        run: A run whose origin labels rows.
        labels: What `Origin.labelled` gives.
    """

    def __init__(self, run: Run, labels: pd.DataFrame) -> None:
        self._run, self.labels = run, labels
        self._most = run.settings.evaluation.tokens_per_text
        groups = labels.groupby(GROUP, sort=False).indices
        self._by_group = {str(name): np.asarray(rows, np.int64) for name, rows in groups.items()}

    @property
    def columns(self) -> list[str]:
        """The labels that rows have."""
        return [str(name) for name in self.labels.columns if name not in (HELD_OUT, GROUP)]

    @property
    def is_test_R(self) -> NDArray[np.bool_]:
        """Whether each row is for testing: it is held out, or of a group that a hash of its name chooses."""
        chosen = {name for name in self._by_group if _hash(name) < TEST_SHARE * 2**32}
        held_out = self.labels[HELD_OUT].to_numpy(np.bool_)
        return np.asarray(held_out | self.labels[GROUP].isin(chosen).to_numpy(np.bool_))

    def __call__(self, names: Sequence[str]) -> Iterator[RowBatch]:
        """The activations of what is named, as `detection.ActivationsOf` has it; of a group at most so many rows."""
        if not names:
            return
        rows = [self._rows(name) for name in names]
        number_T = np.repeat(np.arange(len(names)), [len(each) for each in rows])
        row_T = np.concatenate(rows)
        train, held_out = train_cache(self._run), evaluation_cache(self._run)
        for start in range(0, len(row_T), _AT_ONCE):
            part_B = row_T[start : start + _AT_ONCE]
            acts_BD = torch.empty(len(part_B), train.d_in)
            seen_B = part_B < train.rows
            for cache, chosen_B, first in ((train, seen_B, 0), (held_out, ~seen_B, train.rows)):
                if chosen_B.any():
                    acts_BD[torch.from_numpy(chosen_B)] = cache.take(part_B[chosen_B] - first)
            yield RowBatch(acts_BD, torch.from_numpy(number_T[start : start + _AT_ONCE]))

    def _rows(self, name: str) -> NDArray[np.int64]:
        kind, _, what = name.partition(" ")
        if kind == _ROW:
            return np.array([int(what)])
        rows = self._by_group[what]
        if len(rows) <= self._most:
            return rows
        return np.asarray(rows[np.linspace(0, len(rows) - 1, self._most).astype(np.int64)])

    def described(self, name: str, names: Sequence[str]) -> dict[str, Any]:
        """Nothing: rows are read whole, unlike texts."""
        return {}

    def describe(self, facts: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, Any]:
        """The facts as they are."""
        return dict(facts)

    def tasks(self, settings: EvaluationSettings, *, seed: int) -> list[Task]:
        """A task for every label with enough rows or groups of two values on both sides."""
        made = (self._task(column, settings, seed) for column in self.columns)
        return [task for task in made if task is not None and usable_concepts(task)]

    def _task(self, column: str, settings: EvaluationSettings, seed: int) -> Task | None:
        table = pd.DataFrame({"label": self.labels[column], "unit": self.labels[GROUP], "test": self.is_test_R})
        table["name"] = [f"{_ROW} {number}" for number in range(len(table))]
        table = table[table["label"] != ""]
        pairs, units = len(table[["unit", "label"]].drop_duplicates()), table["unit"].nunique()
        by_group = pairs == units < len(table)
        what = f"each row; rows of one {_GROUP} are on one side"
        if by_group:
            table = table.drop_duplicates("unit").assign(name=lambda rows: f"{_GROUP} " + rows["unit"].astype(str))
            what = f"each {_GROUP}, from the mean over at most {self._most} of its rows"
        if not 2 <= table["label"].nunique() <= MAX_CLASSES:
            return None
        train, test = (
            _drawn(table[table["test"] == is_test], most // 2, seed)
            for is_test, most in ((False, settings.train_texts), (True, settings.test_texts))
        )
        (train_names, train_labels), (test_names, test_labels) = (
            (part["name"].tolist(), part["label"].tolist()) for part in (train, test)
        )
        about = f"The column {column} of the table of rows: the value of {what}."
        of_units = test["unit"].astype(str).tolist()
        return Task(column, about, train_names, train_labels, test_names, test_labels, of_units)


def labelled_rows(run: Run) -> LabelledRows | None:
    """The labelled rows of a run; None if its origin gives none."""
    labels = run.settings.origin.labelled(run)
    return None if labels is None else LabelledRows(run, labels)


def _drawn(table: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """At most so many rows of each label, drawn at random."""
    shuffled = table.iloc[np.random.default_rng(seed).permutation(len(table))]
    return shuffled.groupby("label", sort=True).head(most)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha1(name.encode("utf-8", "surrogatepass")).digest()[:4], "big")
