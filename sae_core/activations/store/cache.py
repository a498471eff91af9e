"""Activations on disk: safetensors shards that are written once, read memory-mapped and drawn in shuffled batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.activations.store.array_rows import ORDER, ArrayRows, open_rows
from sae_core.activations.store.checksums import Verified, verify
from sae_core.activations.store.shuffle import draw_piles, permuted
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import map_tensors
from sae_core.foundation.files.whole_files import read_object, write_json, write_tensors
from sae_core.foundation.progress import Progress, silent

Dtype = Literal["float32", "float16", "bfloat16"]

FORMAT = 1
SHARD_BYTES = 256 * 2**20
SERIAL_NUMBERS = 2**15 - 1
"""torch works on fewer numbers than 2**15 with one thread (at::internal::GRAIN_SIZE)."""
META = "meta.json"
TENSOR = "activations"
LEFT_OUT = "left_out.safetensors"
"""Which rows are left out of training; see `store.left_out`."""
_TORCH: dict[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class CacheWriter:
    """Writes a cache piece by piece. What was appended before an interruption is still there if its shard was full.

    Usage: append from row `rows` on, then `finish`.

    Args:
        folder: Where the cache lies. A cache of other contents there is overwritten, an unfinished one continued.
        d_in: Dimension of the activations, D.
        dtype: Number format on disk.
        contents: What the rows are (data, model, layer …); a cache of other contents is not continued.
        shard_rows: A shard is closed once it has this many rows.
        piles: Rows of each of the piles, if the rows lie in random piles; see `ActivationCache.piles`.
        refill: Keep the other shards where some are missing or damaged, for whoever fills the gaps by `refill`; without
            it such a cache is begun anew.

    Attributes:
        gaps: First and last row (exclusive) of shards that are missing or damaged, in order.
    """

    def __init__(
        self,
        folder: Path,
        *,
        d_in: int,
        dtype: Dtype,
        contents: str,
        shard_rows: int | None = None,
        piles: Sequence[int] | None = None,
        refill: bool = False,
    ) -> None:
        self.folder, self.d_in, self.dtype = folder, d_in, dtype
        self._shard_rows = shard_rows or max(1, SHARD_BYTES // (d_in * _TORCH[dtype].itemsize))
        self._pieces: list[Tensor] = []
        self._verified = Verified(folder)
        self.gaps: list[tuple[int, int]] = []
        self._empty: dict[str, Any] = {
            "format": FORMAT,
            "contents": contents,
            "d_in": d_in,
            "dtype": dtype,
            "rows": 0,
            "shards": [],
            "sum": [0.0] * d_in,
            "sum_of_squares": 0.0,
            "finished": False,
            **({"piles": list(piles)} if piles else {}),
        }
        self._meta = self._empty
        self._continue(refill)

    @property
    def rows(self) -> int:
        """Rows written or waiting to be."""
        return int(self._meta["rows"]) + sum(len(piece) for piece in self._pieces)

    def append(self, acts_BD: Tensor) -> None:
        """Add rows. A shard only ever ends where an appended piece ends.

        Raises:
            UserError: If a value is not finite in the cache's number format, or of another dimension.
        """
        self._pieces.append(self._checked(acts_BD))
        if sum(len(piece) for piece in self._pieces) >= self._shard_rows:
            self._write_shard()

    def refill(self, acts_RD: Tensor) -> bool:
        """Write the shard of the first gap again.

        Args:
            acts_RD: Its rows.

        Returns:
            Whether they are what they were. If not, as may be with another number of threads, the cache begins anew.

        Raises:
            UserError: As `append`.
        """
        starts = np.cumsum([0, *(shard["rows"] for shard in self._meta["shards"])])
        shard = self._meta["shards"][int(np.searchsorted(starts, self.gaps.pop(0)[0]))]
        write_tensors(self.folder / shard["file"], {TENSOR: self._checked(acts_RD)})
        if self._verified.is_right(shard["file"], shard["checksum"]):
            return True
        self._meta, self.gaps = self._empty, []
        return False

    def finish(self) -> ActivationCache:
        """Write what is left and the manifest.

        Raises:
            UserError: If there are no rows at all.
        """
        if self._pieces:
            self._write_shard()
        if not self._meta["rows"]:
            raise UserError(f"No activations were written to {self.folder}; give more text.")
        checksums = "".join(shard["checksum"] for shard in self._meta["shards"])
        self._meta |= {"finished": True, "fingerprint": hashlib.sha256(checksums.encode()).hexdigest()[:16]}
        write_json(self.folder / META, self._meta)
        self._verified.save()
        return ActivationCache.open(self.folder)

    def _checked(self, acts_BD: Tensor) -> Tensor:
        """The rows in the cache's number format."""
        if acts_BD.ndim != 2 or acts_BD.shape[1] != self.d_in:
            raise UserError(f"The cache {self.folder} takes rows of {self.d_in} numbers, not {list(acts_BD.shape)}.")
        piece = acts_BD.to("cpu", _TORCH[self.dtype])
        if not piece.isfinite().all():
            raise _not_finite(acts_BD, self.dtype)
        return piece

    def _continue(self, refill: bool) -> None:
        """Take over the shards of a cache with the same contents."""
        if not (self.folder / META).exists():
            return
        meta = read_object(self.folder / META)
        if any(meta.get(key) != self._meta[key] for key in ("format", "contents", "d_in", "dtype")):
            return
        starts = np.cumsum([0, *(shard["rows"] for shard in meta["shards"])]).tolist()
        gaps = [
            (start, start + shard["rows"])
            for shard, start in zip(meta["shards"], starts[:-1], strict=True)
            if not self._verified.is_right(shard["file"], shard["checksum"])
        ]
        if not gaps or refill:
            self._meta, self.gaps = {**meta, "finished": False}, gaps

    def _write_shard(self) -> None:
        acts_RD = torch.cat(self._pieces)
        self._pieces.clear()
        name = f"shard_{len(self._meta['shards']):05d}.safetensors"
        write_tensors(self.folder / name, {TENSOR: acts_RD})
        # Of the numbers as they are stored, in float64: float32 sums over millions of rows lose digits.
        exact_RD = acts_RD.double()
        total_D = torch.tensor(self._meta["sum"], dtype=torch.float64) + exact_RD.sum(dim=0)
        self._meta["sum"] = total_D.tolist()
        self._meta["sum_of_squares"] += float(exact_RD.square().sum())
        checksum = self._verified.record(name)
        self._meta["shards"].append({"file": name, "rows": len(acts_RD), "checksum": checksum})
        self._meta["rows"] += len(acts_RD)
        write_json(self.folder / META, self._meta)


class ActivationCache:
    """A finished cache. Rows are in the order in which they were written.

    Attributes:
        folder: Where it lies.
        rows: Number of activations.
        d_in: Their dimension, D.
        mean_D: Mean activation [D], float64.
        scale: sqrt(D / E‖a‖²): times this, activations have E‖a‖² = D.
        fingerprint: Hash of all that is stored.
        piles: Where rows were dealt to piles at random (`dealt.py`), the rows of each; then batches are drawn from a
            few piles at a time.

    The rows lie in shards, or in arrays of files elsewhere (``arrays`` of the manifest), which stay where they are.
    """

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder = folder
        self.rows, self.d_in, self.dtype = int(meta["rows"]), int(meta["d_in"]), str(meta["dtype"])
        self.mean_D = torch.tensor(meta["sum"], dtype=torch.float64) / self.rows
        mean_square = meta["sum_of_squares"] / self.rows
        self.scale = float((self.d_in / mean_square) ** 0.5) if mean_square else 1.0
        self.fingerprint = str(meta["fingerprint"])
        self.piles: list[int] | None = meta.get("piles")
        self._paths = [folder / shard["file"] for shard in meta["shards"]]
        self._shards: list[NDArray[Any]] = [_map_shard(path) for path in self._paths]
        self._arrays: ArrayRows | None = None
        parts: list[Any] = self._shards
        if "arrays" in meta:
            self._arrays = open_rows(folder, meta["arrays"])
            self._paths, parts = [folder / ORDER], [self._arrays]
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        if self._starts[-1] != self.rows or any(part.shape[1] != self.d_in for part in parts):
            raise UserError(f"The activation cache {folder} is damaged; delete it and run the command again.")

    @property
    def files(self) -> list[Path]:
        """All files without which it is not whole."""
        marks = [path] if (path := self.folder / LEFT_OUT).exists() else []
        return [self.folder / META, *marks, *self._paths]

    @classmethod
    def open(cls, folder: Path, *, progress: Progress = silent) -> ActivationCache:
        """Open a cache. Shards that were not checked since they were last changed are read once, to check them.

        Args:
            folder: Where it lies.
            progress: Told the shards that are checked.

        Raises:
            UserError: If it is missing, unfinished or damaged.
        """
        if not (folder / META).exists():
            raise UserError(f"There are no activations in {folder}; gather them again with sae-ensemble train.")
        meta = read_object(folder / META)
        try:
            if meta["format"] != FORMAT:
                raise UserError(f"The activation cache {folder} is of another version; delete it and gather it again.")
            if not meta["finished"]:
                raise UserError(f"The activation cache {folder} is not finished; run the command again to go on.")
            cache = cls(folder, meta)
            verify(folder, {shard["file"]: shard["checksum"] for shard in meta["shards"]}, progress=progress)
            return cache
        except (KeyError, TypeError):
            raise UserError(f"{folder / META} is damaged; delete {folder} and run the command again.") from None

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` as float32 [stop − start, D].

        Raises:
            UserError: If there are no such rows.
        """
        if not 0 <= start <= stop <= self.rows:
            raise UserError(f"Rows {start} to {stop} were asked for; {self.folder} holds {self.rows}.")
        return self._as_float32(self.stored(start, stop))

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Rows by number, in any order, as float32 [rows, D].

        Raises:
            UserError: If there are no such rows.
        """
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.rows:
            raise UserError(f"Rows {rows.min()} to {rows.max()} were asked for; {self.folder} holds {self.rows}.")
        order = np.argsort(rows, kind="stable")
        acts_RD = torch.empty(len(rows), self.d_in)
        acts_RD[torch.from_numpy(order)] = self._take(rows[order])
        return acts_RD

    def stored(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop`` in the cache's number format, bfloat16 as integers [stop − start, D]."""
        if self._arrays is not None:
            return self._arrays.stored(start, stop)
        parts = [
            shard[max(0, start - first) : max(0, stop - first)]
            for shard, first in zip(self._shards, self._starts[:-1], strict=True)
        ]
        return np.concatenate(parts)

    def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
        """Endless float32 batches [batch_size, D], each pass a new random permutation of all rows.

        The rows that do not fill a batch at the end of a pass are left out of that pass.

        Args:
            batch_size: Rows in a batch, B.
            seed: Decides the order.
            first_step: Begin with the batch that has this number; the same as passing over those before it.

        Raises:
            UserError: If the cache holds fewer rows than a batch.
        """
        per_pass = self.rows // batch_size
        if not per_pass:
            raise UserError(
                f"The cache holds {self.rows} activations, fewer than training.batch_size ({batch_size}); give more "
                "text or a smaller batch."
            )
        if self.piles:
            drawn = draw_piles(self.stored, self.piles, batch_size=batch_size, seed=seed, first_step=first_step)
            yield from map(self._as_float32, drawn)
        yield from permuted(self._take, self.rows, batch_size=batch_size, seed=seed, first_step=first_step)

    def _take(self, rows: NDArray[np.int64]) -> Tensor:
        return self._as_float32(self._take_stored(rows))

    def _take_stored(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows by number, ascending, in the cache's number format."""
        if self._arrays is not None:
            return self._arrays.take(rows)
        cuts = np.searchsorted(rows, self._starts)
        stored_RD = np.empty((len(rows), self.d_in), self._shards[0].dtype)
        for shard, start, first, end in zip(self._shards, self._starts[:-1], cuts[:-1], cuts[1:], strict=True):
            if end > first:
                # Clipped only because numpy then writes to its place at once; all numbers are in range.
                np.take(shard, rows[first:end] - start, axis=0, out=stored_RD[first:end], mode="clip")
        return stored_RD

    def _as_float32(self, stored_RD: NDArray[Any]) -> Tensor:
        stored = torch.from_numpy(stored_RD)
        return _float32(stored.view(torch.bfloat16) if self.dtype == "bfloat16" else stored)


def _float32(stored_RD: Tensor) -> Tensor:
    """The same numbers as float32, made by one thread.

    torch hands longer tensors to its pool of threads. That would save a fraction of a millisecond and costs up to 15,
    as long as other jobs use the cores and each thread waits for the others.
    """
    if stored_RD.dtype == torch.float32:
        return stored_RD
    acts_RD = torch.empty(stored_RD.shape, dtype=torch.float32)
    rows = max(1, SERIAL_NUMBERS // max(1, stored_RD.shape[1]))
    for start in range(0, len(stored_RD), rows):
        acts_RD[start : start + rows] = stored_RD[start : start + rows]
    return acts_RD


def _map_shard(path: Path) -> NDArray[Any]:
    arrays, _ = map_tensors(path)
    if TENSOR not in arrays or arrays[TENSOR].ndim != 2:
        raise UserError(f"{path} holds no activations; delete its folder and run the command again.")
    return arrays[TENSOR]


def _not_finite(acts_BD: Tensor, dtype: str) -> UserError:
    if acts_BD.isfinite().all():
        largest = float(acts_BD.abs().max())
        return UserError(f"An activation of {largest:.3g} does not fit {dtype}; set data.dtype to bfloat16 or float32.")
    return UserError("The model gave an activation that is not a number; choose another layer, or run it in float32.")
