"""Write what the rows of a run are: what each reads like, its stretch and group, its labels, its image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from sae_core.activations.origins.arrays.choosing import Chosen, Side
from sae_core.activations.origins.arrays.pictures import image_paths, write_thumbnails
from sae_core.activations.origins.arrays.row_table import MISSING, RowTable, as_texts
from sae_core.activations.origins.arrays.settings import ArraySettings
from sae_core.activations.rows_shown import FILE, ROW, own_name
from sae_core.activations.store.array_rows import RowArray
from sae_core.foundation.files.whole_files import write_table, write_tensors
from sae_core.foundation.origin import GROUP, HELD_OUT
from sae_core.foundation.progress import Progress, Tick
from sae_core.foundation.run import Run

_LONGEST = 60
"""Characters of what stands for a row, at most."""


def write_rows(
    run: Run,
    origin: ArraySettings,
    table: RowTable | None,
    chosen: Chosen,
    arrays: Sequence[RowArray],
    progress: Progress,
) -> list[Path]:
    """Write the corpus of a run; returns its files."""
    corpus, side = run.corpus, chosen.train
    indexed = min(len(side.rows), run.settings.data.index_tokens)
    rows_T = side.rows[:indexed]
    offsets = _cut(side.offsets, indexed)
    places = _places(arrays, rows_T, origin)
    tokens_T, names = _names(table, rows_T)
    files = [corpus.tokens, corpus.documents, corpus.texts, corpus.rows]
    write_tensors(
        corpus.tokens,
        {
            "tokens": torch.from_numpy(tokens_T),
            "offsets": torch.from_numpy(offsets),
            "runs": torch.from_numpy(_cut(side.runs, indexed)),
            "alike": torch.from_numpy(_alike(table, rows_T)),
        },
    )
    if names is not None:
        content = [name.encode() for name in names]
        vocabulary = pd.DataFrame({"token": np.arange(len(names)), "bytes": content, "special": False})
        write_table(corpus.vocabulary, vocabulary)
        files.append(corpus.vocabulary)
    write_table(corpus.texts, pd.concat([_stretches(chosen.train, False), _stretches(chosen.held_out, True)]))
    shown = pd.DataFrame(places)
    if table is not None:
        for name in table.fields + ([table.text] if table.text else []) + ([table.image] if table.image else []):
            values = table.places if name == table.position else None
            shown[own_name(name)] = as_texts(table.columns[name][rows_T]) if values is None else values[rows_T]
    write_table(corpus.rows, shown)
    write_table(corpus.documents, _documents(table, shown, side.group[:indexed], offsets))
    if table is not None:
        files += _write_more(run, origin, table, chosen, rows_T, progress)
    return files


def _write_more(
    run: Run, origin: ArraySettings, table: RowTable, chosen: Chosen, rows_T: NDArray[np.int64], progress: Progress
) -> list[Path]:
    """Labels, images and signals, as far as there are any."""
    corpus, files = run.corpus, [run.corpus.row_labels]
    write_table(corpus.row_labels, _labels(table, chosen))
    if table.signal is not None:
        write_tensors(corpus.signal, {"signal": torch.from_numpy(table.columns[table.signal][rows_T].copy())})
        files.append(corpus.signal)
    if table.image is not None:
        told = f"Column {table.image!r} of {table.path}"
        paths = image_paths(origin.images, table.columns[table.image], told)
        wanted = [paths[row] for row in rows_T.tolist()]

        def tell(done: int) -> None:
            if done % 100 == 0 or done == len(wanted):
                progress(Tick("make thumbnails", done, len(wanted), "images"))

        write_thumbnails(wanted, corpus.images, tell)
        files.append(corpus.images)
    return files


def _cut(offsets: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Offsets as far as the first ``most`` places."""
    return np.append(offsets[: np.searchsorted(offsets, most)], most)


def _places(arrays: Sequence[RowArray], rows_T: NDArray[np.int64], origin: ArraySettings) -> dict[str, Any]:
    """The file of each row, and its number there, from 1."""
    starts = np.cumsum([0, *(array.rows for array in arrays)])
    array_T = np.searchsorted(starts, rows_T, side="right") - 1
    # Where arrays were unpacked, their files are the run's own; people know those that they gave.
    names = [Path(array.file).name for array in arrays]
    if len(arrays) == len(origin.files):
        names = [
            Path(name).name if not Path(name).is_dir() else names[number] for number, name in enumerate(origin.files)
        ]
    return {FILE: np.array(names, object)[array_T], ROW: rows_T - starts[array_T] + 1}


def _names(table: RowTable | None, rows_T: NDArray[np.int64]) -> tuple[NDArray[np.int32], list[str] | None]:
    """(What each row reads like, as a number; the readable names, if there are any)."""
    column = next(filter(None, (*table.labels[:1], table.text, table.id)), None) if table is not None else None
    if table is None or column is None:
        return np.arange(len(rows_T), dtype=np.int32), None
    texts = [text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…" for text in as_texts(table.columns[column])]
    codes_R, names = pd.factorize(np.array([text or MISSING for text in texts], object))
    return codes_R[rows_T].astype(np.int32), [str(name) for name in names]


def _alike(table: RowTable | None, rows_T: NDArray[np.int64]) -> NDArray[np.int32]:
    """Numbers that are equal for rows that look the same to people: those of one text or one image."""
    column = (table.text or table.image) if table is not None and table.position is None else None
    if table is None or column is None:
        return np.arange(len(rows_T), dtype=np.int32)
    return pd.factorize(as_texts(table.columns[column][rows_T]))[0].astype(np.int32)


def _stretches(side: Side, held_out: bool) -> pd.DataFrame:
    groups = side.group[side.offsets[:-1]]
    passage = pd.Series(groups).groupby(groups).cumcount().to_numpy() + 1
    return pd.DataFrame(
        {"tokens": np.diff(side.offsets), "held_out": held_out, "document": groups + 1, "passage": passage}
    )


def _documents(
    table: RowTable | None, shown: pd.DataFrame, group_T: NDArray[np.int64], offsets: NDArray[np.int64]
) -> pd.DataFrame:
    """One row a stretch: where it begins, its group and its labels, which are the same in all of it."""
    firsts = shown.iloc[offsets[:-1]].reset_index(drop=True)
    found = pd.DataFrame({"source": firsts[FILE], "row": firsts[ROW].astype(str)})
    if table is not None:
        for name in filter(None, (table.group, *table.labels)):
            found[own_name(name)] = firsts[own_name(name)]
    groups = group_T[offsets[:-1]]
    found["document"] = groups + 1
    found["passage"] = pd.Series(groups).groupby(groups).cumcount().to_numpy() + 1
    return found


def _labels(table: RowTable, chosen: Chosen) -> pd.DataFrame:
    rows = np.concatenate([chosen.train.rows, chosen.held_out.rows])
    groups = np.concatenate([chosen.train.group, chosen.held_out.group])
    found = pd.DataFrame({HELD_OUT: np.arange(len(rows)) >= len(chosen.train.rows)})
    found[GROUP] = np.array(chosen.group_names, object)[groups]
    for name in table.labels:
        found[own_name(name)] = as_texts(table.columns[name][rows])
    return found
