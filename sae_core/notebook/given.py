"""Take activations as callers have them: arrays, tensors, memory maps, or batches that come one after another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from io import IOBase
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.activations.store.cache import SHARD_BYTES, ActivationCache, CacheWriter
from sae_core.activations.store.shuffle import permuted
from sae_core.foundation.errors import UserError, short
from sae_core.training.source import Source

Rows: TypeAlias = "NDArray[Any] | Tensor"
"""Activations [rows, D], one a row: a NumPy array or memory map, a tensor, or what NumPy makes an array of."""
Activations: TypeAlias = "Rows | Iterable[Rows]"
"""`Rows`, or batches of them one after another."""

_FEWEST = 2


class ArraySource:
    """The rows of an array in a shuffled order; they are read where they lie.

    Rows, their order and their statistics are those of an `ActivationCache` that holds the same rows in float32.

    Args:
        rows: Activations [rows, D].

    Raises:
        UserError: If they are not a table of finite numbers with at least two rows, or all are 0.
    """

    rows: int
    d_in: int

    def __init__(self, rows: Rows) -> None:
        self._array = as_rows(rows)
        self.rows, self.d_in = self._array.shape
        if self.rows < _FEWEST:
            raise UserError(f"acts has {self.rows} rows; give at least {_FEWEST}.")
        digest, sums = hashlib.sha256(), _Sums(self.d_in)
        step = max(1, SHARD_BYTES // (self.d_in * torch.float32.itemsize))
        for start in range(0, self.rows, step):
            acts_RD = checked(self.read(start, min(start + step, self.rows)), "acts", first=start)
            digest.update(acts_RD.numpy().tobytes())
            sums.add(acts_RD)
        self.mean_D, self.scale = sums.mean_D, sums.scale
        self.fingerprint = digest.hexdigest()[:16]

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` in float32 [stop − start, D]."""
        return as_float32(self._array[start:stop])

    def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
        """Endless batches [batch_size, D], each pass a new random permutation of all rows."""
        return permuted(self.take, self.rows, batch_size=batch_size, seed=seed, first_step=first_step)

    def take(self, numbers: NDArray[np.int64]) -> Tensor:
        """Rows by their numbers, in float32."""
        if isinstance(self._array, Tensor):
            return as_float32(self._array[torch.from_numpy(numbers).to(self._array.device)])
        return as_float32(self._array[numbers])


class BatchSource:
    """Batches that can be read again and again, in the order in which they come.

    The first reading measures their mean and scale. Later ones cut the rows anew to the batches of the training.

    Args:
        batches: Batches of activations, anew each time that it is iterated.
        most: Read at most this many rows in a pass.

    Raises:
        UserError: If a batch is not a table of finite numbers, or another one has another dimension.
    """

    def __init__(self, batches: Iterable[Rows], *, most: int) -> None:
        self._batches, self._most = batches, most
        sums: _Sums | None = None
        for acts_BD in limited(batches, most):
            sums = sums or _Sums(acts_BD.shape[1])
            sums.add(acts_BD)
        if sums is None or sums.rows < _FEWEST:
            raise UserError(f"The batches hold {sums.rows if sums else 0} rows; give at least {_FEWEST}.")
        self.rows, self.d_in, self.mean_D, self.scale = sums.rows, sums.d_in, sums.mean_D, sums.scale

    def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
        """Endless batches [batch_size, D], pass after pass; the seed has no influence."""
        return islice(self._cut(batch_size), first_step, None)

    def _cut(self, batch_size: int) -> Iterator[Tensor]:
        parts, count = list[Tensor](), 0
        while True:
            came = 0
            for acts_BD in limited(self._batches, self._most):
                came += len(acts_BD)
                parts.append(acts_BD)
                count += len(acts_BD)
                while count >= batch_size:
                    whole_RD = torch.cat(parts)
                    yield whole_RD[:batch_size]
                    parts, count = [whole_RD[batch_size:]], count - batch_size
            if not came:
                raise UserError("The batches hold no rows when they are read again; give a list of them, or an array.")


def source_of(acts: Activations, folder: Path, *, most: int) -> Source:
    """A source of activations for training.

    Args:
        acts: The activations. Batches that can be read only once are first written to disk.
        folder: Where they are then written.
        most: Read at most this many rows of batches.

    Raises:
        UserError: If the activations cannot be used.
    """
    if is_table(acts):
        return ArraySource(acts)  # type: ignore[arg-type]
    batches: Iterable[Rows] = acts  # type: ignore[assignment]
    if iter(batches) is not batches:
        return BatchSource(batches, most=most)
    return written(batches, folder, most=most)


def written(batches: Iterable[Rows], folder: Path, *, most: int | None = None) -> ActivationCache:
    """Batches as a cache of their rows in float32.

    Raises:
        UserError: If the batches cannot be used.
    """
    writer: CacheWriter | None = None
    for acts_BD in limited(batches, most):
        writer = writer or CacheWriter(folder, d_in=acts_BD.shape[1], dtype="float32", contents="batches")
        writer.append(acts_BD)
    if writer is None or writer.rows < _FEWEST:
        raise UserError(f"The batches hold {writer.rows if writer else 0} rows; give at least {_FEWEST}.")
    return writer.finish()


def is_table(acts: object) -> bool:
    """Whether activations are one table, and not batches of them.

    Raises:
        UserError: If they are neither.
    """
    if isinstance(acts, str | bytes | PathLike):
        raise UserError(
            f"acts is {short(repr(acts))}; give an array, such as numpy.load(path, mmap_mode='r') opens from a file."
        )
    if isinstance(acts, Tensor) or hasattr(acts, "__array__"):
        return True
    first = acts[0] if isinstance(acts, list | tuple) and acts else None
    if isinstance(first, int | float) or (isinstance(first, list | tuple) and isinstance(first[0], int | float)):
        return True
    if not isinstance(acts, Iterable) or isinstance(acts, Mapping | IOBase) or hasattr(acts, "toarray"):
        raise UserError(f"acts is a {type(acts).__name__}; give an array or tensor [rows, D], or batches of them.")
    return False


def as_rows(acts: Any, told: str = "acts") -> Rows:
    """A table of real numbers, as it lies in memory or on disk.

    Raises:
        UserError: If it has another number of axes, or does not hold real numbers.
    """
    if np.ma.isMaskedArray(acts):
        raise UserError(f"{told} is a masked array; fill in what is masked, or leave these rows out.")
    if not isinstance(acts, Tensor):
        try:
            acts = np.asarray(acts) if not isinstance(acts, np.ndarray) else acts
        except (ValueError, TypeError) as error:
            raise UserError(f"{told} cannot be read as an array ({short(str(error))}).") from None
    if isinstance(acts, Tensor) and (acts.layout != torch.strided or acts.is_quantized or acts.is_meta):
        raise UserError(f"{told} is a tensor whose numbers do not all lie in memory; give a dense one.")
    if acts.ndim == 2 and acts.shape[1] == 1:
        raise UserError(f"{told} has one column; activations have at least 2 dimensions.")
    if acts.ndim != 2 or not acts.shape[1]:
        remedy = "; reshape it to one row for each activation" if acts.ndim > 2 else ""
        raise UserError(f"{told} has the shape {list(acts.shape)}, but activations are [rows, D]{remedy}.")
    numeric = (
        acts.dtype.is_floating_point or acts.dtype in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
        if isinstance(acts, Tensor)
        else acts.dtype.kind in "fiu"
    )
    if not numeric:
        raise UserError(f"{told} holds {str(acts.dtype).removeprefix('torch.')} values; give real numbers.")
    rows: Rows = acts
    return rows


def checked(acts_RD: Tensor, told: str, *, first: int = 0) -> Tensor:
    """The same rows, if all numbers are finite in float32; ``first`` is the number of the first one for messages.

    Raises:
        UserError: If one is not.
    """
    if not bool(acts_RD.isfinite().all()):
        row = int((~acts_RD.isfinite()).any(dim=1).nonzero()[0])
        column = int((~acts_RD[row].isfinite()).nonzero()[0])
        raise UserError(
            f"{told} holds {float(acts_RD[row, column])} in row {first + row}, column {column} (counted from 0, in "
            "float32); leave such rows out, or fill them in."
        )
    return acts_RD


def limited(batches: Iterable[Any], most: int | None) -> Iterator[Tensor]:
    """The rows of some batches, at most so many, checked, in float32.

    Raises:
        UserError: If a batch is not a table of finite numbers, or has another dimension than the first one.
    """
    rows, d_in = 0, None
    for number, batch in enumerate(batches):
        told = f"Batch {number} of acts"
        if isinstance(batch, list | tuple) and len(batch) == 1:  # as a DataLoader of a TensorDataset gives them
            batch = batch[0]
        elif isinstance(batch, list | tuple | dict):
            raise UserError(f"{told} is a {type(batch).__name__} of {len(batch)} things; give the activations alone.")
        acts_BD = checked(as_float32(as_rows(batch, told)), told)
        if d_in is not None and acts_BD.shape[1] != d_in:
            raise UserError(f"{told} has {acts_BD.shape[1]} columns, but the batches before it have {d_in}.")
        d_in = acts_BD.shape[1]
        yield acts_BD if most is None else acts_BD[: most - rows]
        rows += len(acts_BD)
        if most is not None and rows >= most:
            return


class _Sums:
    """Mean and scale of rows, summed in float64 as `CacheWriter` sums them."""

    def __init__(self, d_in: int) -> None:
        self.rows, self.d_in = 0, d_in
        self._sum_D, self._squares = torch.zeros(d_in, dtype=torch.float64), 0.0

    def add(self, acts_RD: Tensor) -> None:
        exact_RD = acts_RD.double()
        self.rows += len(acts_RD)
        self._sum_D += exact_RD.sum(dim=0)
        self._squares += float(exact_RD.square().sum())

    @property
    def mean_D(self) -> Tensor:
        return self._sum_D / self.rows

    @property
    def scale(self) -> float:
        if not self._squares:
            raise UserError("All activations are 0, so there is nothing to learn.")
        return float((self.d_in / (self._squares / self.rows)) ** 0.5)


def as_float32(rows: Rows) -> Tensor:
    """Rows in float32 on the CPU, in memory of their own unless they are that already."""
    if isinstance(rows, Tensor):
        return rows.detach().to("cpu", torch.float32)
    with np.errstate(over="ignore"):  # what float32 does not hold is refused as infinite
        found = np.ascontiguousarray(rows, dtype=np.float32)
    return torch.from_numpy(found if found.flags.writeable else found.copy())
