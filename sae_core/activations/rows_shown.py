"""What people look at of rows that are no tokens: a text, an image, a stretch of a series, or plain fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.activations.stages import CORPUS
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import map_tensors
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run

FILE, ROW = "_file", "_row"
"""Columns of `CorpusFolder.rows`: the file in which a row lies, and its number there, from 1."""
_OWN = (FILE, ROW, "_held_out", "_group", "source", "row", "document", "passage")


def own_name(name: str) -> str:
    """What a column of a table of rows is called in files of the run, which have columns of their own beside it."""
    return f"{name} (column)" if name in _OWN else name


@dataclass(frozen=True, slots=True)
class RowShown:
    """What people look at of one row, as far as it has it.

    Attributes:
        name: What the row is called: its id, or its place in its file.
        source: Where it comes from: its file, and its number there.
        text: The text that it is of.
        image: A thumbnail: the bytes of a PNG or JPEG file.
        fields: Its other columns.
        places: The times or places of the rows around it, where it is one of a series.
        signal: What is drawn of the rows around it [rows, S], where there is something.
    """

    name: str
    source: str
    text: str | None = None
    image: bytes | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    places: tuple[str, ...] | None = None
    signal: NDArray[np.float32] | None = None


class RowsShown:
    """What people look at of the indexed rows of a run.

    Args:
        table: One row a row.
        roles: Which of its columns is the id, the group, the position, the text or the image.
        signal: What is drawn of each row [T, S], or None.
        images: (the bytes of all thumbnails, where each begins [T + 1]), or None.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        roles: Mapping[str, str],
        signal: NDArray[np.float32] | None = None,
        images: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None,
    ) -> None:
        self._columns = {str(name): table[name].to_numpy() for name in table.columns}
        self._rows, self._signal, self._images = len(table), signal, images
        named = {role: own_name(name) for role, name in roles.items()}
        self._roles = {role: name for role, name in named.items() if name in self._columns}
        hidden = {FILE, ROW, *(self._roles.get(role) for role in ("text", "image"))}
        self._fields = [name for name in self._columns if name not in hidden]

    @classmethod
    def open(cls, run: Run) -> RowsShown:
        """Open what a run keeps of its rows.

        Raises:
            UserError: If a file is damaged, or does not fit the others.
        """
        folder, roles = run.corpus, CORPUS.facts(run).get("roles", {})
        table = read_table(folder.rows)
        if not {FILE, ROW} <= {*table.columns}:
            raise UserError(f"{folder.rows} holds no rows; delete the run and train again.")
        signal = images = None
        if folder.signal.exists():
            signal = map_tensors(folder.signal)[0].get("signal")
            if signal is None or signal.ndim != 2 or len(signal) != len(table):
                raise UserError(f"{folder.signal} does not fit {folder.rows}; delete the run and train again.")
        if folder.images.exists():
            arrays, _ = map_tensors(folder.images)
            images = arrays.get("bytes", np.empty(0, np.uint8)), arrays.get("offsets", np.empty(0, np.int64))
            fits = len(images[1]) == len(table) + 1 and images[1][-1] == len(images[0])
            if not fits or np.any(np.diff(images[1]) < 0):
                raise UserError(f"{folder.images} does not fit {folder.rows}; delete the run and train again.")
        return cls(table, roles, signal, images)

    def __len__(self) -> int:
        return self._rows

    def at(self, position: int, around: range) -> RowShown:
        """What people look at of the row at a position, with the rows around it that are shown with it."""
        place = self._value("position", position)
        file, number = self._columns[FILE][position], self._columns[ROW][position]
        where = f"{file} · row {number}"
        image = None
        if self._images is not None:
            content, offsets = self._images
            image = content[offsets[position] : offsets[position + 1]].tobytes()
        span = slice(around.start, around.stop)
        return RowShown(
            name=str(self._value("id", position) or where),
            source=where,
            text=self._value("text", position),
            image=image,
            fields={name: text for name in self._fields if (text := str(self._columns[name][position]))},
            places=None if place is None else tuple(map(str, self._columns[self._roles["position"]][span].tolist())),
            signal=None if self._signal is None else np.asarray(self._signal[span]),
        )

    def _value(self, role: str, position: int) -> Any:
        return self._columns[self._roles[role]][position] if role in self._roles else None
