"""Activations that raise or send a signal while a training reads them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

from small_runs import data
from sources import TensorSource
from torch import Tensor


class Eventful(TensorSource):
    """A source in which something happens before certain batches are handed out, counted from 1."""

    def __init__(self, happen: Callable[[int], None], acts_RD: Tensor | None = None) -> None:
        super().__init__(data() if acts_RD is None else acts_RD)
        self.happen = happen

    def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
        for acts_BD in super().batches(batch_size=batch_size, seed=seed, first_step=first_step):
            self.happen(self.handed_out)
            yield acts_BD


def failing_at(batch: int, error: type[BaseException]) -> Eventful:
    def happen(count: int) -> None:
        if count == batch:
            raise error

    return Eventful(happen)


def signalling_at(*batches: int) -> Eventful:
    def happen(count: int) -> None:
        if count in batches:
            signal.raise_signal(signal.SIGINT)

    return Eventful(happen)
