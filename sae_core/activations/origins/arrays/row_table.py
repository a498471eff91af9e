"""Read the table beside activations: one row an activation, and what each of its columns is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.activations.origins.arrays.settings import ArraySettings
from sae_core.foundation.errors import UserError, short
from sae_core.foundation.files.row_files import read_rows, require_columns

MOST_LABELS = 40
"""A column with more different values than this tells rows apart and does not label them."""
MISSING = "none"
"""What a label is called where a row has none."""


@dataclass(frozen=True, slots=True)
class RowTable:
    """The table beside activations.

    Attributes:
        path: The file.
        columns: All columns [rows each], by name.
        group: Column of the group: a document, a patient, a machine.
        position: Column of the time or place within the group; then rows are stretches of a series.
        id: Column of the name of each row.
        text: Column of a text.
        image: Column of the path of an image.
        signal: Column of what is drawn of a series: a number or a list of numbers a row.
        labels: Columns that label rows.
        places: Times or places as people read them [rows], if there is a position.
    """

    path: Path
    columns: dict[str, NDArray[Any]]
    group: str | None
    position: str | None
    id: str | None
    text: str | None
    image: str | None
    signal: str | None
    labels: tuple[str, ...]
    places: NDArray[np.object_] | None = None

    def column(self, name: str | None) -> NDArray[Any] | None:
        """A column, if there is one for that."""
        return None if name is None else self.columns[name]

    @property
    def roles(self) -> dict[str, str]:
        """What columns are for, as far as there are such columns."""
        named = {role: getattr(self, role) for role in (*_ROLES, "signal")}
        return {role: column for role, column in named.items() if column}

    @property
    def fields(self) -> list[str]:
        """Columns that are shown as they are: all but text, image and signal."""
        return [name for name in self.columns if name not in (self.text, self.image, self.signal)]


def read_table_of_rows(origin: ArraySettings, rows: int) -> RowTable | None:
    """The table of an origin, checked.

    Args:
        origin: The settings.
        rows: Number of activations.

    Raises:
        UserError: If it is missing or damaged, has another number of rows, or lacks a column that is named.
    """
    if origin.rows is None:
        named = next((role for role in _ROLES if getattr(origin, role) is not None), None)
        if named or origin.images or origin.labels:
            what = named or ("images" if origin.images else "labels")
            raise UserError(f"origin.{what} is set, but there is no table of rows; give one with --rows FILE.")
        return None
    path = Path(origin.rows)
    signal = (origin.signal,) if origin.signal else ()
    read = _columns(path, signal, rows)
    roles = {role: _role(read, path, role, getattr(origin, role)) for role in _ROLES}
    roles["signal"] = origin.signal
    if len(set(filter(None, roles.values()))) < len([name for name in roles.values() if name]):
        twice = next(name for name in roles.values() if name and list(roles.values()).count(name) > 1)
        raise UserError(f"Column {twice!r} of {path} is named for two things; give each a column of its own.")
    columns = {name: np.array(values, object) for name, values in read.items()}
    for role, check in (("position", _times), ("signal", _signal), ("group", _named)):
        if name := roles[role]:
            columns[name] = check(columns[name], f"Column {name!r} of {path}")
    labels = _labels(columns, path, roles, origin.labels)
    return RowTable(path, columns, labels=labels, places=_shown(read, roles["position"]), **roles)


_ROLES = {
    "id": ("id",),
    "group": ("group",),
    "position": ("position", "time"),
    "text": ("text",),
    "image": ("image",),
}
"""What columns are for, and what they are called where settings do not say."""


def _columns(path: Path, lists: Sequence[str], rows: int) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    count = 0
    for row in read_rows(path, lists):
        count += 1
        if count == 1:
            found = {name: [] for name in row}
        if count > rows:
            continue
        for name, values in found.items():
            values.append(row.get(name))
    if count != rows:
        raise UserError(
            f"{path} has {count:,} rows, but there are {rows:,} activations; give one row an activation, in the same "
            "order (where they seem exchanged, an array has its axes in the wrong order)."
        )
    return found


def _role(columns: dict[str, list[Any]], path: Path, role: str, named: str | None) -> str | None:
    if named is not None:
        require_columns(columns, (named,), str(path))
        return named
    return next((name for name in _ROLES[role] if name in columns), None)


def _times(values: NDArray[Any], told: str) -> NDArray[Any]:
    """Times or places as numbers; dates and times of day as seconds."""
    series = pd.Series(values)
    numbers = pd.to_numeric(series, errors="coerce")
    if numbers.isna().any():
        times = pd.to_datetime(series, errors="coerce", utc=True, format="ISO8601")
        if times.isna().any():
            row = int(np.flatnonzero((times.isna() if times.notna().any() else numbers.isna()).to_numpy())[0])
            raise UserError(
                f"{told} holds {short(repr(values[row]))} in row {row + 1}, which is neither a number nor a time; "
                "write numbers, or times such as 2026-11-29T12:00:00."
            )
        return times.astype("int64").to_numpy() / (1e6 if "us" in str(times.dtype) else 1e9)
    found = numbers.to_numpy(np.float64)
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found))[0])
        raise UserError(f"{told} holds {found[row]} in row {row + 1}; write a finite number.")
    return found


def _shown(read: dict[str, list[Any]], position: str | None) -> NDArray[np.object_] | None:
    """Places as they were given where these are times, else as short numbers."""
    if position is None:
        return None
    given = as_texts(np.array(read[position], object))
    try:
        return np.array([f"{float(text):.10g}" for text in given], object)
    except ValueError:
        return given


def _signal(values: NDArray[Any], told: str) -> NDArray[Any]:
    """Of each row the numbers of its stretch, as float32 arrays of one length."""
    try:
        found = [np.atleast_1d(np.asarray(value, np.float32)) for value in values]
    except (TypeError, ValueError):
        raise UserError(
            f"{told} holds something that is no number; give a number or a list of numbers a row."
        ) from None
    lengths = {array.shape for array in found}
    if len(lengths) > 1 or len(next(iter(lengths))) != 1:
        raise UserError(f"{told} holds lists of different lengths; give each row as many numbers.")
    stacked = np.stack(found)
    if not np.isfinite(stacked).all():
        row = int(np.flatnonzero(~np.isfinite(stacked).all(axis=1))[0])
        raise UserError(f"{told} holds a value that is not finite in row {row + 1}; fill it in.")
    return stacked


def _named(values: NDArray[Any], told: str) -> NDArray[Any]:
    """Names of groups, each of which must be there."""
    texts = as_texts(values)
    missing = np.flatnonzero(texts == "")
    if len(missing):
        raise UserError(f"{told} is empty in row {missing[0] + 1}; name the group of each row.")
    return texts


def as_texts(values: NDArray[Any]) -> NDArray[np.object_]:
    """Values as people read them; "" for none. Whole numbers that a gap made fractions are whole again."""
    return np.array([_as_text(value) for value in values], object)


def _as_text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _labels(
    columns: dict[str, NDArray[Any]], path: Path, roles: dict[str, str | None], named: tuple[str, ...] | None
) -> tuple[str, ...]:
    """The columns that label rows: those named, or all others with a few different values."""
    if named is not None:
        require_columns(columns, named, str(path))
        for name in named:
            if len(set(as_texts(columns[name])) - {""}) < 2:
                raise UserError(f"Column {name!r} of {path} has fewer than two different values, so it labels nothing.")
        return tuple(named)
    others = [name for name in columns if name not in roles.values()]
    counts = {name: len(set(as_texts(columns[name])) - {""}) for name in others}
    return tuple(name for name in others if 2 <= counts[name] <= min(MOST_LABELS, len(columns[name]) // 2))
