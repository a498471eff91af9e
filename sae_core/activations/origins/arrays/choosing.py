"""Which rows a run works on: held out by group, in the order of their series, cut into stretches."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_core.activations.origins.arrays.row_table import RowTable, as_texts
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import DataSettings

HELD_OUT_SHARE = 0.1
"""Share of the rows that are held out, at most."""
STRETCH = 32
"""Rows of a series that count as one stretch, of which an example is shown."""
_BLOCKS = 200
"""Where no group is named, rows are held out in about so many blocks, since neighbours are often alike."""
_MOST_ROWS = 4096

Integers = NDArray[np.int64]


class Side(NamedTuple):
    """The rows for training or for evaluation.

    Attributes:
        rows: Their numbers in the arrays, in the order of the run [T].
        group: The number of the group of each [T].
        offsets: Where stretches begin: stretch i has the places offsets[i] to offsets[i + 1].
        runs: Where what may be shown together begins: a series as far as it is of one group, else one row.
    """

    rows: Integers
    group: Integers
    offsets: Integers
    runs: Integers


class Chosen(NamedTuple):
    """What a run works on.

    Attributes:
        train: The rows for training.
        held_out: Those for evaluation.
        held_out_by: ``group`` or ``block``.
        group_names: What each group is called.
    """

    train: Side
    held_out: Side
    held_out_by: str
    group_names: list[str]


def choose_rows(rows: int, table: RowTable | None, data: DataSettings, told: str) -> Chosen:
    """Divide rows into those for training and those for evaluation, such that no group is on both sides.

    Which groups are held out depends on their names alone. Where there are more rows than are asked for, groups are
    taken until there are enough, in an order that depends on their names.

    Args:
        rows: How many there are.
        table: The table beside them.
        data: How many are wanted.
        told: What they are of, for messages.

    Raises:
        UserError: If there is only one row, or one group.
    """
    group_R, names, by = _groups(rows, table)
    counts_G = np.bincount(group_R, minlength=len(names))
    if len(names) < 2:
        raise UserError(f"{told} has {rows} rows, too few to hold some out; give more activations.")
    order = sorted(range(len(names)), key=lambda number: hashlib.sha1(names[number].encode()).digest())
    wanted = max(1, min(data.evaluation_tokens, int(rows * HELD_OUT_SHARE)))
    held = [order[0]]
    for number in order[1:-1]:
        if counts_G[held].sum() >= wanted:
            break
        # A group that is far too large is left for training, as long as there is another one.
        if counts_G[held].sum() + counts_G[number] <= 2 * wanted:
            held.append(number)
    gone = set(held)
    rest = [number for number in order if number not in gone]
    indexed, enough = (
        int(np.searchsorted(counts_G[rest].cumsum(), wanted)) + 1 for wanted in (data.index_tokens, data.train_tokens)
    )
    position_R = table.column(table.position) if table else None
    labels = [as_texts(table.columns[name]) for name in table.labels] if table else []

    def side(groups: list[int], most: int) -> Side:
        chosen_R = np.isin(group_R, groups)
        return _side(chosen_R, group_R, position_R, labels, most)

    # What is indexed comes first. It is of groups from all over the arrays, which are often sorted.
    first = side(rest[: min(indexed, enough)], data.train_tokens)
    more = side(rest[indexed:enough], data.train_tokens - len(first.rows)) if indexed < enough else None
    return Chosen(_joined(first, more), side(held, data.evaluation_tokens), by, names)


def _joined(first: Side, more: Side | None) -> Side:
    if more is None or not len(more.rows):
        return first
    size = len(first.rows)
    return Side(
        np.concatenate([first.rows, more.rows]),
        np.concatenate([first.group, more.group]),
        np.concatenate([first.offsets, more.offsets[1:] + size]),
        np.concatenate([first.runs, more.runs[1:] + size]),
    )


def _groups(rows: int, table: RowTable | None) -> tuple[Integers, list[str], str]:
    """(the group of each row, the groups' names, what they are: ``group`` or ``block``)."""
    if table is not None and table.group is not None:
        names, group_R = np.unique(table.columns[table.group].astype(str), return_inverse=True)
        if len(names) > 1:
            return group_R.astype(np.int64), names.tolist(), "group"
    size = min(_MOST_ROWS, max(1, rows // _BLOCKS))
    place_R = np.arange(rows)
    if table is not None and table.position is not None:
        place_R = np.argsort(np.argsort(table.columns[table.position], kind="stable"), kind="stable")
    group_R = place_R // size
    return group_R, [f"block {number}" for number in range(int(group_R.max()) + 1)], "block"


def _side(
    chosen_R: NDArray[np.bool_],
    group_R: Integers,
    position_R: NDArray[np.float64] | None,
    labels: list[NDArray[np.object_]],
    most: int,
) -> Side:
    rows = np.flatnonzero(chosen_R)
    if position_R is None:
        rows = rows[:most]
        each = np.arange(len(rows) + 1)
        return Side(rows, group_R[rows], each, each)
    rows = rows[np.lexsort((position_R[rows], group_R[rows]))][:most]
    group_T = group_R[rows]
    new_T = np.diff(group_T, prepend=-1) != 0
    runs = np.append(np.flatnonzero(new_T), len(rows))
    for label_R in labels:
        label_T = label_R[rows]
        new_T[1:] |= label_T[1:] != label_T[:-1]
    starts = np.flatnonzero(new_T)
    lengths = np.diff(np.append(starts, len(rows)))
    cut = [np.arange(start, start + length, STRETCH) for start, length in zip(starts, lengths, strict=True)]
    return Side(rows, group_T, np.append(np.concatenate(cut), len(rows)), runs)
