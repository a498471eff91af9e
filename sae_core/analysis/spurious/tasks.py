"""Make texts with a target label T and a spurious label S: docstrings, biographies, Bias in Bios, or any file.

In the confounded training texts T = S. The balanced training texts and the test texts have equally many texts of all
four groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.activations.origins.text import hub
from sae_core.activations.origins.text.documents import Document
from sae_core.analysis.concepts.task_names import identity_of
from sae_core.analysis.concepts.tasks import KINDS, passages_by_cell
from sae_core.analysis.spurious.biographies import make_biographies
from sae_core.foundation.errors import UserError
from sae_core.foundation.files import row_files as tables

Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
Spans = tuple[tuple[int, int], ...]

DOCSTRINGS, BIOGRAPHIES, BIAS_IN_BIOS = "docstrings", "biographies", "bias_in_bios"
BIAS_IN_BIOS_ID = "LabHC/bias_in_bios"
PROFESSOR, NURSE, MALE, FEMALE = "21", "13", "0", "1"
"""Labels of Bias in Bios (Ravfogel et al. 2020)."""
POOL = 5
"""How many times the texts of a seed to read per group, so that this many seeds have their own texts."""
TEST_PERCENT = 30
LEAST = 5
"""The least number of texts per group."""

GROUPS = tuple((target, spurious) for target in (False, True) for spurious in (False, True))


@dataclass(frozen=True, slots=True)
class SpuriousTask:
    """Texts with two labels.

    Attributes:
        name: Short name.
        description: What the labels are and where they come from.
        target: The names of T = false and of T = true.
        spurious: The same for S.
        texts: All texts, each once.
        target_X: T of each text.
        spurious_X: S of each text.
        test_X: Whether a text is for testing.
        marked: The stretches of each text that show S, as first and last (exclusive) characters, if known.
        file: The identity of the file, if the task comes from a file.
        dealt: Whether seeds share out the texts, as `draw_split` says; older runs drew the texts again for each seed.
    """

    name: str
    description: str
    target: tuple[str, str]
    spurious: tuple[str, str]
    texts: list[str]
    target_X: Bools
    spurious_X: Bools
    test_X: Bools
    marked: list[Spans] | None = field(default=None)
    file: str | None = None
    dealt: bool = True

    def group(self, target: bool, spurious: bool, *, test: bool) -> Integers:
        """Numbers of the texts of one group, for training or for testing."""
        return np.flatnonzero((self.target_X == target) & (self.spurious_X == spurious) & (self.test_X == test))


class Split(NamedTuple):
    """Numbers of texts: confounded and balanced ones for training, and balanced ones for testing."""

    confounded: Integers
    balanced: Integers
    test: Integers


def draw_split(task: SpuriousTask, texts: int, *, seed: int) -> Split:
    """Draw the texts of one seed.

    The texts of each group are shuffled and dealt to `POOL` seeds in turn. These seeds share no texts if there are
    enough, and as few as possible otherwise; further seeds shuffle the texts again. `shared_texts` measures how many
    texts two seeds share.

    Args:
        task: The task.
        texts: Largest number of confounded texts, and also of balanced texts and of test texts.
        seed: The same seed gives the same texts.

    Raises:
        UserError: If a group has too few texts.
    """
    if texts // 4 < LEAST:
        raise UserError(f"evaluation.spurious_texts is {texts}, but a task needs at least {4 * LEAST}; raise it.")
    chance = np.random.default_rng([seed // POOL if task.dealt else seed, *task.name.encode()])
    train, test = (
        {group: _dealt(task, chance.permutation(task.group(*group, test=is_test)), seed) for group in GROUPS}
        for is_test in (False, True)
    )
    agreeing = [group for group in GROUPS if group[0] == group[1]]
    # A third of the groups with T = S is balanced, so that there are as many balanced as confounded texts.
    balanced = min(texts // 4, *(len(rows) for rows in train.values()), *(len(train[g]) // 3 for g in agreeing))
    confounded = min(texts // 2, *(len(train[group]) - balanced for group in agreeing))
    tested = min(texts // 4, *(len(rows) for rows in test.values()))
    if min(balanced, confounded, tested) < LEAST:
        sizes = ", ".join(f"{len(train[group])} and {len(test[group])}" for group in GROUPS)
        raise UserError(
            f"Task {task.name} has too few texts: its four groups have {sizes} for training and testing; "
            f"{LEAST} and {LEAST} are the least, and {3 * LEAST} for training where both labels agree."
        )
    return Split(
        np.concatenate([train[group][balanced : balanced + confounded] for group in agreeing]),
        np.concatenate([train[group][:balanced] for group in GROUPS]),
        np.concatenate([test[group][:tested] for group in GROUPS]),
    )


def _dealt(task: SpuriousTask, shuffled: Integers, seed: int) -> Integers:
    """The texts of a group, the seed's own texts first."""
    return np.roll(shuffled, -(seed % POOL * len(shuffled) // POOL)) if task.dealt else shuffled


def shared_texts(splits: Sequence[Split]) -> dict[str, float | None]:
    """The mean share of a seed's texts that another seed has too, for ``train`` and for ``test`` texts.

    The shares are None if there is one seed.
    """
    parts = {
        "train": [{*split.confounded.tolist(), *split.balanced.tolist()} for split in splits],
        "test": [set(split.test.tolist()) for split in splits],
    }
    found: dict[str, float | None] = {}
    for name, sets in parts.items():
        shares = [len(one & other) / len(one) for one, other in combinations(sets, 2)]
        found[name] = sum(shares) / len(shares) if shares else None
    return found


def docstring_task(documents: Sequence[Document], texts: int) -> SpuriousTask | None:
    """Make a task of two libraries (T) and two kinds of passage (S); None if no two libraries have enough.

    Args:
        documents: Passages with the metadata package, module and kind; passages that the SAEs never saw come first.
        texts: As in `draw_split`.
    """
    train, test = passages_by_cell(documents)
    listed, told = KINDS

    def scarcest(pair: tuple[str, str]) -> int:
        # Tests need fewer texts.
        sizes = [
            (len(train.get((one, kind), ())), 2 * len(test.get((one, kind), ()))) for one in pair for kind in KINDS
        ]
        return min(min(size) for size in sizes)

    pairs = list(combinations(sorted({library for library, _ in train}), 2))
    best = max(pairs, key=scarcest, default=None)
    if best is None or scarcest(best) < 3 * LEAST:
        return None
    rows = [
        _Row(text, library == best[1], kind == listed, is_test)
        for is_test, side in ((False, train), (True, test))
        for library in best
        for kind in KINDS
        for text in side[library, kind]
    ]
    return _task(
        DOCSTRINGS,
        f"{best[1]} or {best[0]}, where in training all {best[1]} passages are parameter lists and all {best[0]} "
        "passages prose. Labels come from where a passage was found and how it is laid out.",
        best,
        (told, listed),
        _limited(rows, texts),
    )


def biography_task(texts: int, *, professions: tuple[str, str] = ("nurse", "professor"), seed: int = 0) -> SpuriousTask:
    """Make a task of generated biographies: a profession (T) and a gender (S), with every name and pronoun marked."""
    each = _needed(texts, test=False) + _needed(texts, test=True)
    made = make_biographies(professions, each, seed=seed)
    rows = []
    for number, one in enumerate(made):
        is_test = number % each >= _needed(texts, test=False)
        rows.append(_Row(one.text, one.profession == professions[1], not one.woman, is_test, one.gendered))
    return _task(
        BIOGRAPHIES,
        f"{professions[1]} or {professions[0]}, where in training every {professions[1]} is a man and every "
        f"{professions[0]} a woman. Generated; only names and pronouns say the gender.",
        professions,
        ("woman", "man"),
        rows,
    )


def bias_in_bios_task(texts: int) -> SpuriousTask:
    """Make a task of professors and nurses of the hub data set LabHC/bias_in_bios, with their gender.

    Raises:
        UserError: If the hub or the package datasets is missing.
    """

    def rows(split: str, is_test: bool) -> Iterator[_Row]:
        found = hub.stream_rows(
            BIAS_IN_BIOS_ID,
            ("hard_text", "profession", "gender"),
            split=split,
            instead="give a local copy of it with --file",
            check="try again later, or give a local copy of it with --file",
        )
        wanted = {PROFESSOR: True, NURSE: False}
        for row in found:
            if str(row["profession"]) in wanted:
                yield _Row(row["hard_text"], wanted[str(row["profession"])], str(row["gender"]) == MALE, is_test)

    return _task(
        BIAS_IN_BIOS,
        "Professor or nurse, where in training every professor is a man and every nurse a woman (De-Arteaga et al. "
        "2019).",
        ("nurse", "professor"),
        ("female", "male"),
        [*_limited(rows("train", False), texts), *_limited(rows("test", True), texts)],
    )


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of texts and labels in a file; the defaults are those of Bias in Bios.

    Attributes:
        text: Column of the text.
        target: Column of T.
        target_values: The values for T = false and for T = true; rows with other values are skipped.
        spurious: Column of S.
        spurious_values: The same for S.
    """

    text: str = "hard_text"
    target: str = "profession"
    target_values: tuple[str, str] = (NURSE, PROFESSOR)
    spurious: str = "gender"
    spurious_values: tuple[str, str] = (FEMALE, MALE)


def file_task(path: Path, columns: Columns, texts: int, *, name: str | None = None) -> SpuriousTask:
    """Make a task from a CSV, JSONL or Parquet file; a hash of each text decides whether it is for testing.

    The task has the file's name by default.

    Raises:
        UserError: If the file or a column is missing, or a label never occurs.
    """

    def rows() -> Iterator[_Row]:
        seen_target: set[str] = set()
        seen_spurious: set[str] = set()
        for row in tables.read_rows(path, (columns.text, columns.target, columns.spurious)):
            target, spurious = _plain(row[columns.target]), _plain(row[columns.spurious])
            seen_target.add(target)
            seen_spurious.add(spurious)
            known = target in columns.target_values and spurious in columns.spurious_values
            if known and isinstance(row[columns.text], str) and row[columns.text].strip():
                digest = hashlib.sha1(row[columns.text].encode("utf-8", "surrogatepass")).digest()
                is_test = int.from_bytes(digest[:4], "big") % 100 < TEST_PERCENT
                labels = target == columns.target_values[1], spurious == columns.spurious_values[1]
                yield _Row(row[columns.text], *labels, is_test)
        _require(columns.target, columns.target_values, seen_target, path)
        _require(columns.spurious, columns.spurious_values, seen_spurious, path)

    task = _task(
        name or path.name,
        f"{columns.target} of {path.name}, where in training it goes together with {columns.spurious}.",
        columns.target_values,
        columns.spurious_values,
        _limited(rows(), texts),
    )
    return replace(task, file=identity_of(path))


def row_task(labels: pd.DataFrame, is_test_R: Bools, columns: Columns, texts: int) -> SpuriousTask:
    """Make a task from two labels of rows, which stand in it by their names in place of texts.

    Args:
        labels: One row a row of activations, one column a label.
        is_test_R: Whether each is for testing.
        columns: The two labels, and the two values of each.
        texts: Largest number of confounded rows, as for texts.

    Raises:
        UserError: If a column is missing, or a label never occurs.
    """
    there = dict.fromkeys(map(str, labels.columns))
    tables.require_columns(there, (columns.target, columns.spurious), "The table of rows")
    if columns.target == columns.spurious:
        raise UserError(f"Target and attribute are both {columns.target}; name two labels.")
    _require(columns.target, columns.target_values, {*labels[columns.target]}, "the table of rows")
    _require(columns.spurious, columns.spurious_values, {*labels[columns.spurious]}, "the table of rows")
    values = zip(labels[columns.target], labels[columns.spurious], is_test_R.tolist(), strict=True)
    rows = (
        _Row(f"row {number}", target == columns.target_values[1], spurious == columns.spurious_values[1], is_test)
        for number, (target, spurious, is_test) in enumerate(values)
        if target in columns.target_values and spurious in columns.spurious_values
    )
    return _task(
        f"{columns.target} and {columns.spurious}",
        f"{columns.target} of the rows, where in training it goes together with {columns.spurious}.",
        columns.target_values,
        columns.spurious_values,
        _limited(rows, texts),
    )


class _Row(NamedTuple):
    text: str
    target: bool
    spurious: bool
    is_test: bool
    marked: Spans | None = None


def _require(column: str, wanted: Iterable[str], there: set[str], where: Path | str) -> None:
    for value in wanted:
        if value not in there:
            some = ", ".join(sorted(there)[:10])
            raise UserError(f"Column {column!r} of {where} never is {value!r}; it is, for example, {some}.")


def _plain(value: Any) -> str:
    """A label as people write it: 21 for 21.0, which is how a column of whole numbers with gaps is read."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _needed(texts: int, *, test: bool) -> int:
    """Number of texts to read per group: the most that `draw_split` takes, for `POOL` seeds."""
    return POOL * (texts // 4 if test else texts // 2 + texts // 4)


def _limited(rows: Iterable[_Row], texts: int) -> list[_Row]:
    """Keep the first rows of each group that are needed, each text once; all rows are read."""
    kept: dict[str, _Row] = {}
    counts: dict[tuple[bool, bool, bool], int] = {}
    for row in rows:
        group = (row.target, row.spurious, row.is_test)
        if row.text not in kept and counts.get(group, 0) < _needed(texts, test=row.is_test):
            kept[row.text] = row
            counts[group] = counts.get(group, 0) + 1
    return list(kept.values())


def _task(
    name: str, description: str, target: tuple[str, str], spurious: tuple[str, str], rows: Sequence[_Row]
) -> SpuriousTask:
    marked = [row.marked for row in rows if row.marked is not None]
    return SpuriousTask(
        name,
        description,
        target,
        spurious,
        [row.text for row in rows],
        np.array([row.target for row in rows], dtype=np.bool_),
        np.array([row.spurious for row in rows], dtype=np.bool_),
        np.array([row.is_test for row in rows], dtype=np.bool_),
        marked if rows and len(marked) == len(rows) else None,
    )
