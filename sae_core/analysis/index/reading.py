"""Read the activation index: every activation of every feature over the indexed corpus, by feature, memory-mapped.

The index is a sparse matrix tokens × features in CSC order, in one safetensors file: ``pointers`` int64 [F + 1],
``positions`` int32 [E] (ascending within a feature) and ``values`` float32 [E]. One slice has all activations of a
feature. `building` makes the index.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import opened_table

FORMAT = "sae-ensemble-index-1"

Positions = NDArray[np.int32]
Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ActivationIndex:
    """An open index; its arrays are maps of the file, so an open index takes almost no memory.

    Attributes:
        tokens: Number of indexed tokens, T.
        pointers: int64 [F + 1]; feature f owns entries pointers[f] to pointers[f + 1].
        positions: int32 [E], the row of each entry in the indexed corpus.
        values: float32 [E], the coefficient of each entry, α folded in.
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
        with opened_table(path, FORMAT, "an activation index") as (arrays, metadata):
            index = cls(int(metadata["tokens"]), arrays["pointers"], arrays["positions"], arrays["values"])
            index._check()
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
        """Number of indexed features, F: those of all members, in the ensemble's numbering."""
        return len(self.pointers) - 1

    @property
    def entries(self) -> int:
        """Number of stored activations, E."""
        return len(self.positions)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of tokens on which each feature is active [F]."""
        return np.diff(self.pointers)

    def count(self, feature: int) -> int:
        """Number of tokens on which a feature is active."""
        first, end = self._bounds(feature)
        return end - first

    def feature(self, feature: int) -> tuple[Positions, Values]:
        """(positions, ascending; values) of all activations of a feature, as views of the file without copies.

        Raises:
            UserError: If there is no such feature.
        """
        first, end = self._bounds(feature)
        return self.positions[first:end], self.values[first:end]

    def _bounds(self, feature: int) -> tuple[int, int]:
        if not 0 <= feature < self.features:
            raise UserError(f"There is no feature {feature}; the ensemble has features 0 to {self.features - 1}.")
        return int(self.pointers[feature]), int(self.pointers[feature + 1])
