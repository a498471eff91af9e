"""Batches are made by a thread while the step uses those before them: the same batches, in the same order."""

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
"""Batches kept ready. More would only help a source that is sometimes slow, and that one says so (`SlowBatches`)."""


@dataclass(slots=True)
class Waiting:
    """Adds up the seconds for which steps had to wait for their activations."""

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _End:
    """Stands in the queue behind the last batch; ``error`` is what ended the making of batches, if anything did."""

    error: BaseException | None = None


class Prefetched:
    """Iterates over batches that a thread makes in advance, and brings them to the device.

    What the source raises is raised here in the place of the batch that it could not give. Use it in a ``with`` block,
    at the end of which the thread is gone, however the block ends.

    Args:
        batches: Where the batches come from.
        count: How many of them are wanted at most.
        device: Where they are needed. Those for a GPU are put into pinned memory, so that the copy does not wait.
        waiting: Told for how long ``next`` had to wait.
        ahead: Batches to keep ready; 0 makes each one when it is asked for, without a thread.
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
            self._ready.put(batch)  # whoever asks again is told again
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
        except BaseException as error:  # also what is no Exception belongs to whoever waits for the batch
            end = _End(error)
        finally:
            self._ready.put(end)


def batches_ahead(batches: Iterator[Tensor], device: torch.device) -> int:
    """How many batches to make in advance."""
    if isinstance(batches, SlowBatches):
        # On a CPU model and step need the same cores. Side by side they were a tenth faster on a quiet machine, slower
        # on a busy one, and need memory for a second chunk.
        return batches.ahead if device.type == "cuda" else 0
    return AHEAD
