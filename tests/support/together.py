"""Training in several real processes that talk through gloo, as torchrun would start them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch
from small_runs import data
from sources import TensorSource
from torch import Tensor

from sae_core.foundation.run import Run
from sae_core.training.processes import joined
from sae_core.training.train import train_run

PATIENCE_SECONDS = 120.0


class Interrupted(TensorSource):
    """Rows that send their own process a signal before a batch is handed out, counted from 1."""

    def __init__(self, acts_RD: Tensor, batch: int, number: int) -> None:
        super().__init__(acts_RD)
        self.batch, self.number = batch, number
        # A source that can be read in order is read by every process; the first one alone reads any other.
        self.fingerprint = "interrupted"

    def read(self, start: int, stop: int) -> Tensor:
        return self.acts_RD[start:stop]

    def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
        for acts_BD in super().batches(batch_size=batch_size, seed=seed, first_step=first_step):
            if self.handed_out == self.batch:
                signal.raise_signal(self.number)
            yield acts_BD


def in_processes(size: int, work: Callable[..., object], *arguments: Any) -> dict[int, Any]:
    """Call ``work(rank, *arguments)`` in that many processes that have joined.

    Returns:
        By rank: what it returned, or the type and the message of what it raised; nothing from one that was killed.
    """
    context = multiprocessing.get_context("forkserver")
    results = context.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_run, args=(rank, size, port, results, work, arguments)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_SECONDS)
    late = [rank for rank, process in enumerate(processes) if process.exitcode is None]
    for rank in late:
        processes[rank].kill()
    assert not late, f"processes {late} did not end"
    found = {}
    while not results.empty():
        rank, result = results.get()
        found[rank] = result
    return found


def _run(
    rank: int, size: int, port: int, results: SimpleQueue, work: Callable[..., object], arguments: Sequence[Any]
) -> None:
    torch.set_num_threads(1)
    # The server that forks this process may have been started by those who parse docstrings, deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    places = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in places.items()} | {"MASTER_ADDR": "127.0.0.1"}
    try:
        result = work(rank, *arguments)
    except BaseException as error:
        result = (type(error).__name__, str(error))
    results.put((rank, result))


def train(rank: int, path: Path, interruption: tuple[int, int, int] | None = None) -> tuple[str, int]:
    """Train a run; an interruption is (rank, batch, signal).

    Returns:
        "trained" and the batches that this process has read.
    """
    source = TensorSource(data())
    if interruption:
        _, batch, number = interruption
        source = Interrupted(data(), batch if rank == interruption[0] else 0, number)
    with joined() as processes:
        train_run(Run.open(path), source=source, processes=processes, checkpoint_seconds=0.0)
    return "trained", source.handed_out
