"""Rows of a cache that are left out of training and of the held-out figures, such as attention sinks.

The cache keeps all its rows, so that a position of the corpus still is a row, whichever rows are left out.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_core.activations.store.cache import LEFT_OUT, META, ActivationCache
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import map_tensors
from sae_core.foundation.files.whole_files import read_object, write_json, write_tensors

ROWS_AT_ONCE = 16_384
MARK = "left_out"
"""The field of a cache's manifest that describes the rows left out."""
_MEDIAN_OF = 65_536
"""The median norm is that of so many rows, the first ones."""


class KeptRows(ActivationCache):
    """A cache without the rows that are left out: row p is the p-th of those that are kept.

    Attributes:
        kept_R: int64 [rows], the number of each row in the whole cache, ascending.
    """

    def __init__(self, folder: Path, meta: dict[str, Any], kept_R: NDArray[np.int64]) -> None:
        super().__init__(folder, meta)
        own, self.kept_R = meta[MARK], kept_R
        self.rows, self.fingerprint = len(kept_R), f"{self.fingerprint}-{own['fingerprint']}"
        self.mean_D = torch.tensor(own["sum"], dtype=torch.float64) / self.rows
        self.scale = float((self.d_in * self.rows / own["sum_of_squares"]) ** 0.5) if own["sum_of_squares"] else 1.0

    def stored(self, start: int, stop: int) -> NDArray[Any]:
        """Kept rows ``start`` to ``stop`` in the cache's number format."""
        return self._take_stored(np.arange(start, stop))

    def _take_stored(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return super()._take_stored(self.kept_R[rows])


def without_left_out(cache: ActivationCache) -> ActivationCache:
    """The cache without the rows that are left out; the cache itself if there are none.

    Raises:
        UserError: If the file that lists the rows is missing or damaged.
    """
    left_R = left_out_rows(cache.folder)
    if not len(left_R):
        return cache
    kept_R = np.setdiff1d(np.arange(cache.rows), left_R, assume_unique=True)
    return KeptRows(cache.folder, read_object(cache.folder / META), kept_R)


def left_out_rows(folder: Path) -> NDArray[np.int64]:
    """The numbers of the rows of the cache in a folder that are left out, ascending.

    Raises:
        UserError: If the file that lists them is missing or damaged.
    """
    marked = read_object(folder / META).get(MARK) if (folder / META).exists() else None
    if not marked:
        return np.empty(0, np.int64)
    tensors, _ = map_tensors(folder / LEFT_OUT)
    rows_R = tensors.get("rows")
    if rows_R is None or _hash(rows_R) != marked["fingerprint"]:
        raise UserError(f"{folder / LEFT_OUT} is not the one that was written; delete {folder} and run train again.")
    return rows_R.astype(np.int64)


def median_norm(cache: ActivationCache) -> float:
    """The median norm of the first rows of a cache, at most 65,536."""
    rows = min(cache.rows, _MEDIAN_OF)
    blocks = range(0, rows, ROWS_AT_ONCE)
    return float(np.median(np.concatenate([norms(cache.read(at, min(at + ROWS_AT_ONCE, rows))) for at in blocks])))


def norms(acts_BD: torch.Tensor) -> NDArray[np.float32]:
    """‖a‖ of each row [B]."""
    found: NDArray[np.float32] = acts_BD.float().norm(dim=1).cpu().numpy()
    return found


def leave_out(cache: ActivationCache, left_R: NDArray[np.bool_]) -> dict[str, Any]:
    """Write which rows of a finished cache are left out, with the statistics of the others.

    Args:
        cache: The cache.
        left_R: Whether each row is left out [rows].

    Returns:
        ``rows`` left out, and ``energy``: their share of Σ‖a‖².

    Raises:
        UserError: If no row would be kept.
    """
    total_D, squares, left = torch.zeros(cache.d_in, dtype=torch.float64), 0.0, 0.0
    if left_R.all():
        raise UserError("data.leave_out and data.largest_norm leave out every token; name fewer tokens.")
    for start in range(0, cache.rows, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, cache.rows)
        acts_BD, out_B = cache.read(start, stop).double(), torch.from_numpy(left_R[start:stop])
        total_D += acts_BD[~out_B].sum(dim=0)
        squares += float(acts_BD[~out_B].square().sum())
        left += float(acts_BD[out_B].square().sum())
    rows_R = np.flatnonzero(left_R).astype(np.int64)
    meta = read_object(cache.folder / META)
    meta.pop(MARK, None)
    if len(rows_R):
        write_tensors(cache.folder / LEFT_OUT, {"rows": torch.from_numpy(rows_R)})
        meta[MARK] = {"sum": total_D.tolist(), "sum_of_squares": squares, "fingerprint": _hash(rows_R)}
    write_json(cache.folder / META, meta)
    return {"rows": len(rows_R), "energy": left / (left + squares) if left else 0.0}


def _hash(rows_R: NDArray[np.int64]) -> str:
    return hashlib.sha256(rows_R.astype("<i8").tobytes()).hexdigest()[:16]
