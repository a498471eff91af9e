"""The activation index: every activation of every feature over the indexed corpus, by feature, memory-mapped.

A sparse matrix tokens × features in CSC order, as one safetensors file: ``pointers`` int64 [F + 1], ``positions``
int32 [E] (ascending within a feature) and ``values`` float32 [E]. One slice answers everything about a feature.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.ensemble import Ensemble
from sae_core.errors import UserError
from sae_core.files import naming_faults_of
from sae_core.mapped import map_tensors, writing_tensors
from sae_core.progress import Progress, Tick, silent

FORMAT = "sae-ensemble-index-1"
ENTRIES_IN_MEMORY = 4_000_000
"""Entries that building holds at a time; sorting them takes some 50 bytes each."""
DENSE_CELLS = 16_000_000
"""Cells of one member's dense code that exist at a time (64 MB)."""

Positions = NDArray[np.int32]
Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ActivationIndex:
    """An open index; its arrays are maps of the file, so opening and keeping it costs next to no memory.

    Attributes:
        tokens: Tokens indexed, T.
        pointers: int64 [F + 1]; feature f owns entries pointers[f] to pointers[f + 1].
        positions: int32 [E], row of the indexed corpus of each entry.
        values: float32 [E], the coefficient there, α folded in.
    """

    tokens: int
    pointers: NDArray[np.int64]
    positions: Positions
    values: Values

    @classmethod
    def open(cls, path: Path) -> ActivationIndex:
        """Open an index.

        Raises:
            UserError: If the file is missing, cut off or not an index.
        """
        arrays, metadata = map_tensors(path)
        try:
            if metadata["format"] != FORMAT:
                raise ValueError(f"format {metadata['format']!r} instead of {FORMAT!r}")
            index = cls(int(metadata["tokens"]), arrays["pointers"], arrays["positions"], arrays["values"])
            index._check()
        except (KeyError, ValueError) as error:
            raise UserError(f"{path} is not an activation index ({error}); delete it and index again.") from None
        return index

    def _check(self) -> None:
        types = [array.dtype.name for array in (self.pointers, self.positions, self.values)]
        if types != ["int64", "int32", "float32"] or self.pointers.ndim != 1 or not len(self.pointers):
            raise ValueError("an array has the wrong type")
        if self.pointers[0] != 0 or np.any(np.diff(self.pointers) < 0):
            raise ValueError("the pointers do not ascend")
        if self.positions.shape != (self.pointers[-1],) or self.values.shape != (self.pointers[-1],):
            raise ValueError("the pointers do not fit the entries")

    @property
    def features(self) -> int:
        """Features indexed, F: all members', in the ensemble's numbering."""
        return len(self.pointers) - 1

    @property
    def entries(self) -> int:
        """Activations stored, E."""
        return len(self.positions)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Tokens on which each feature is active [F]."""
        return np.diff(self.pointers)

    def count(self, feature: int) -> int:
        """Tokens on which a feature is active."""
        first, end = self._bounds(feature)
        return end - first

    def feature(self, feature: int) -> tuple[Positions, Values]:
        """(positions, ascending; values) of all activations of a feature: views of the file, not copies.

        Raises:
            UserError: If there is no such feature.
        """
        first, end = self._bounds(feature)
        return self.positions[first:end], self.values[first:end]

    def _bounds(self, feature: int) -> tuple[int, int]:
        if not 0 <= feature < self.features:
            raise UserError(f"There is no feature {feature}; the ensemble has features 0 to {self.features - 1}.")
        return int(self.pointers[feature]), int(self.pointers[feature + 1])


def build_index(
    ensemble: Ensemble,
    read: Callable[[int, int], Tensor],
    tokens: int,
    path: Path,
    *,
    entries_in_memory: int = ENTRIES_IN_MEMORY,
    progress: Progress = silent,
) -> None:
    """Encode the first ``tokens`` activations once and write the index of all that is not zero.

    Memory is bounded whatever the corpus: entries are sorted by feature in runs that fit, kept in a temporary folder
    beside ``path``, and merged a range of features at a time.

    Args:
        ensemble: Whose coefficients are indexed, as `Ensemble.encode` gives them.
        read: Gives the activations [stop − start, D] of rows start to stop.
        tokens: Rows to index, T.
        path: The index file.
        entries_in_memory: Entries held at a time; a feature with more of them than this is held whole.
        progress: Told the tokens done.

    Raises:
        UserError: If there are more tokens than the format can number.
    """
    if tokens > np.iinfo(np.int32).max:
        raise UserError(f"{tokens:,} tokens are too many for one index; set data.index_tokens below 2³¹.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_faults_of(path), tempfile.TemporaryDirectory(prefix=".index-", dir=path.parent) as folder:
        sorter = _Sorter(Path(folder), ensemble.offsets[-1], entries_in_memory)
        rows = max(1, DENSE_CELLS // max(ensemble.widths))
        for start in range(0, tokens, rows):
            stop = min(start + rows, tokens)
            for features, positions, values in sparse_codes(ensemble, read(start, stop)):
                sorter.add(features.cpu().numpy(), (positions + start).cpu().numpy(), values.cpu().numpy())
            progress(Tick(f"index {ensemble.method}", stop, tokens))
        sorter.write(path, tokens)


@torch.no_grad()
def sparse_codes(ensemble: Ensemble, acts_BD: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The entries of `Ensemble.encode(acts_BD)` that are not zero, member by member.

    TopK codes never become dense, and nothing is decoded that no later member needs.

    Yields:
        For each member (features int64 [E], in the ensemble's numbering; rows int64 [E], ascending; values [E]).
    """
    input_BD = acts_BD.to(ensemble[0].W_dec.device, torch.float32)
    for number, (weight, member) in enumerate(zip(ensemble.weights, ensemble, strict=True)):
        code = member.encode_sparse(input_BD)
        values_E = weight * code.values_E
        active_E = values_E != 0
        yield code.features_E[active_E] + ensemble.offsets[number], code.rows_E[active_E], values_E[active_E]
        if ensemble.wiring == "residual" and number + 1 < len(ensemble):
            input_BD = input_BD - weight * member.decode_sparse(code)


class _Sorter:
    """An external sort of entries by feature, stable, so that positions added in order stay in order."""

    def __init__(self, folder: Path, features: int, capacity: int) -> None:
        self._folder, self._features, self._capacity = folder, features, capacity
        self._waiting: list[tuple[NDArray[np.int32], Positions, Values]] = []
        self._held = 0
        self._runs: list[tuple[Path, NDArray[np.int64]]] = []

    def add(self, features: NDArray[np.int64], positions: NDArray[np.int64], values: Values) -> None:
        """Take entries; for one feature, positions must not fall below those of earlier calls."""
        self._waiting.append((features.astype(np.int32), positions.astype(np.int32), values))
        self._held += len(features)
        if self._held >= self._capacity:
            self._flush()

    def _flush(self) -> None:
        """Sort what waits and put it into a run file: all positions, then all values."""
        if not self._held:
            return
        features, positions, values = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
        self._waiting, self._held = [], 0
        order = np.argsort(features, kind="stable")
        pointers = np.zeros(self._features + 1, np.int64)
        np.cumsum(np.bincount(features, minlength=self._features), out=pointers[1:])
        run = self._folder / f"run_{len(self._runs):05d}"
        with run.open("wb") as file:
            file.write(positions[order].data)
            file.write(values[order].data)
        self._runs.append((run, pointers))

    def write(self, path: Path, tokens: int) -> None:
        """Merge the runs into the index file."""
        self._flush()
        pointers = sum((run_pointers for _, run_pointers in self._runs), start=np.zeros(self._features + 1, np.int64))
        entries = int(pointers[-1])
        layout = {
            "pointers": (np.int64, (self._features + 1,)),
            "positions": (np.int32, (entries,)),
            "values": (np.float32, (entries,)),
        }
        with writing_tensors(path, layout, {"format": FORMAT, "tokens": str(tokens)}) as writer:
            writer.write("pointers", 0, pointers)
            first = 0
            while first < self._features:
                within = int(np.searchsorted(pointers, pointers[first] + self._capacity, side="right")) - 1
                end = min(max(within, first + 1), self._features)
                positions, values = self._merge(pointers, first, end)
                writer.write("positions", int(pointers[first]), positions)
                writer.write("values", int(pointers[first]), values)
                first = end

    def _merge(self, pointers: NDArray[np.int64], first: int, end: int) -> tuple[Positions, Values]:
        """All entries of features first to end, by feature and then in the order in which they came."""
        size = int(pointers[end] - pointers[first])
        positions, values = np.empty(size, np.int32), np.empty(size, np.float32)
        free = pointers[first:end] - pointers[first]
        for run, run_pointers in self._runs:
            start, stop = int(run_pointers[first]), int(run_pointers[end])
            counts = np.diff(run_pointers[first : end + 1])
            # Entry i of the run's slice goes where its feature has got to, plus its rank among its feature's.
            places = np.repeat(free - (run_pointers[first:end] - start), counts) + np.arange(stop - start)
            with run.open("rb") as file:
                file.seek(4 * start)
                positions[places] = np.fromfile(file, np.int32, stop - start)
                file.seek(4 * (int(run_pointers[-1]) + start))
                values[places] = np.fromfile(file, np.float32, stop - start)
            free = free + counts
        return positions, values
