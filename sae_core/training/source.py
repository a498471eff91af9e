"""What training needs of a store of activations; the cache of a run is one, and so is a tensor in a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor


class Source(Protocol):
    """Activations that can be drawn in a shuffled order which depends on a seed and on nothing else."""

    @property
    def rows(self) -> int:
        """Number of different activations."""

    @property
    def d_in(self) -> int:
        """Dimension of the activations, D."""

    @property
    def mean_D(self) -> Tensor:
        """Mean activation [D]."""

    @property
    def scale(self) -> float:
        """√(D / E‖a‖²): activations times this have E‖a‖² = D."""

    def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
        """Shuffled activations [batch_size, D] without end, from batch ``first_step`` on."""


@runtime_checkable
class SlowBatches(Protocol):
    """Batches that a source makes many at a time, with long work in between, as a language model does."""

    @property
    def ahead(self) -> int:
        """Batches made at a time: with as many kept ready, the next ones are made while these are used."""

    def __next__(self) -> Tensor:
        """The next batch."""

    def stop(self) -> None:
        """Give up the work in progress; called by another thread than the one that waits for a batch."""


@runtime_checkable
class StoredSource(Source, Protocol):
    """A source whose rows also can be read one after another, in the order in which they are stored."""

    @property
    def fingerprint(self) -> str:
        """Hash of all rows."""

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` [stop − start, D]."""
