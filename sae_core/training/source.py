"""Define the interface of a source of activations for training, such as the cache of a run or a tensor in a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor


class Source(Protocol):
    """Activations to draw in a shuffled order that depends on a seed alone."""

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
        """Yield shuffled activations [batch_size, D] without end, from batch ``first_step`` on."""


@runtime_checkable
class SlowBatches(Protocol):
    """Batches of a source that makes many at a time, with long work in between, such as a language model."""

    @property
    def ahead(self) -> int:
        """Number of batches made at a time. With this many ready, the source makes the next ones during training."""

    def __next__(self) -> Tensor:
        """The next batch."""

    def stop(self) -> None:
        """Stop the work in progress; called by another thread than the one that waits for a batch."""


@runtime_checkable
class StoredSource(Source, Protocol):
    """A source whose rows can also be read one after another, in stored order."""

    @property
    def fingerprint(self) -> str:
        """Hash of all rows."""

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` [stop − start, D]."""
