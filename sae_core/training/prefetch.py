"""Make batches in a thread while the step uses earlier ones: the same batches, in the same order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from sae_core.training.source import SlowBatches

AHEAD = 3
"""Number of batches to keep ready. More would help only a source that is sometimes slow (see `SlowBatches`)."""


@dataclass(slots=True)
class Waiting:
    """Sum the seconds that steps wait for their activations."""

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _End:
    """The end mark in the queue after the last batch; ``error`` is the exception that ended the thread, if any."""

    error: BaseException | None = None


class Prefetched:
    """Iterate over batches that a thread makes in advance, and move them to the device.

    An exception of the source is raised here in place of the failed batch. Use this class in a ``with`` block; the
    thread ends with the block, whether or not the block raises.

    Args:
        batches: The batches of the source.
        count: Largest number of batches to make.
        device: The device of the training. Batches for a GPU use pinned memory, so that the copy does not wait.
        waiting: Told how long ``next`` had to wait.
        ahead: Number of batches to keep ready; with 0, each batch is made on request, without a thread.
    """

    def __init__(
        self, batches: Iterator[Tensor], *, count: int, device: torch.device, waiting: Waiting, ahead: int | None = None
    ) -> None:
        self._batches, self._count, self._device, self._waiting = batches, count, device, waiting
        self._ahead = batches_ahead(batches, device) if ahead is None else ahead
        self._ready: SimpleQueue[Tensor | _End] = SimpleQueue()
        self._free = threading.Semaphore(self._ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="sae-batches", daemon=True)

    def __enter__(self) -> Self:
        if self._ahead:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        if not self._ahead:
            return
        if isinstance(self._batches, SlowBatches):
            self._batches.stop()
        self._free.release()
        self._thread.join()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        began = time.perf_counter()
        batch = self._ready.get() if self._ahead else next(self._batches)
        self._waiting.seconds += time.perf_counter() - began
        if isinstance(batch, _End):
            self._ready.put(batch)  # raise again on every further call
            raise batch.error or StopIteration
        self._free.release()
        return batch.to(self._device, non_blocking=True)

    def _fill(self) -> None:
        end = _End()
        try:
            for _ in range(self._count):
                self._free.acquire()
                if self._closed.is_set():
                    return
                batch = next(self._batches)
                self._ready.put(batch.pin_memory() if self._device.type == "cuda" else batch)
        except StopIteration:
            pass
        except BaseException as error:  # also pass on exceptions that are no Exception
            end = _End(error)
        finally:
            self._ready.put(end)


def batches_ahead(batches: Iterator[Tensor], device: torch.device) -> int:
    """Number of batches to make in advance."""
    if isinstance(batches, SlowBatches):
        # On a CPU, model and step need the same cores. Running both at once was a tenth faster on a quiet machine, was
        # slower on a busy one, and needs memory for a second chunk.
        return batches.ahead if device.type == "cuda" else 0
    return AHEAD
