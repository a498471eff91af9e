"""Prefetching: the same batches in the same order, exceptions in their place, and no thread left behind."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_runs import BATCH, STEPS, assert_same_training, data, new_run, trained
from sources import TensorSource
from torch import Tensor

from sae_core.foundation.errors import UserError
from sae_core.training import prefetch
from sae_core.training.prefetch import Prefetched, Waiting, batches_ahead
from sae_core.training.train import train_run

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert {thread.name for thread in set(threading.enumerate()) - before} == set()


def prefetched(batches: Iterator[Tensor], *, count: int = 1000, ahead: int = 3) -> Prefetched:
    return Prefetched(batches, count=count, device=CPU, waiting=Waiting(), ahead=ahead)


def numbers() -> Iterator[Tensor]:
    return map(torch.tensor, itertools.count())


@pytest.mark.parametrize("ahead", [0, 1, 3, 50])
def test_the_same_batches_come_in_the_same_order(ahead: int) -> None:
    source = TensorSource(data())
    plain = source.batches(batch_size=BATCH, seed=4, first_step=7)
    batches = source.batches(batch_size=BATCH, seed=4, first_step=7)
    with prefetched(batches, count=40, ahead=ahead) as ready:
        for _ in range(40):
            assert torch.equal(next(ready), next(plain))


@pytest.mark.parametrize("ahead", [1, 4])
def test_no_more_batches_are_made_than_are_wanted_and_kept_ready(ahead: int) -> None:
    source = TensorSource(data())
    with prefetched(source.batches(batch_size=BATCH, seed=0), count=20, ahead=ahead) as ready:
        for taken in range(1, 6):
            next(ready)
            deadline = time.monotonic() + 10
            while source.handed_out < taken + ahead and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.01)
            assert source.handed_out == taken + ahead
        for _ in range(15):
            next(ready)
        assert list(ready) == []
    assert source.handed_out == 20


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("error", [UserError("The disk is gone."), KeyboardInterrupt(), ZeroDivisionError()])
def test_a_fault_comes_in_the_place_of_the_batch_that_failed(error: BaseException, ahead: int) -> None:
    def failing() -> Iterator[Tensor]:
        yield from itertools.islice(numbers(), 5)
        raise error

    with prefetched(failing(), ahead=ahead) as ready:
        assert [int(next(ready)) for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(type(error)) as raised:
            next(ready)
        assert raised.value is error
        if ahead:
            with pytest.raises(type(error)):
                next(ready)


def test_a_source_that_ends_ends_the_batches() -> None:
    with prefetched(itertools.islice(numbers(), 3)) as ready:
        assert [int(batch) for batch in ready] == [0, 1, 2]


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_whoever_leaves_early_leaves_no_thread(taken: int) -> None:
    with prefetched(numbers()) as ready:
        for _ in range(taken):
            next(ready)


class Slow:
    """Batches of which the second is never finished unless somebody stops it."""

    ahead = 7

    def __init__(self) -> None:
        self.given, self.working, self.stopped = 0, threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        self.given += 1
        if self.given == 2:
            self.working.set()
            assert self.stopped.wait(60)
        return torch.tensor(self.given)

    def stop(self) -> None:
        self.stopped.set()


def test_long_work_is_given_up_at_the_end() -> None:
    slow = Slow()
    with prefetched(slow) as ready:
        next(ready)
        assert slow.working.wait(60)
    assert slow.given == 2


def test_a_slow_source_decides_how_much_is_kept_ready() -> None:
    assert batches_ahead(Slow(), torch.device("cuda")) == 7
    assert batches_ahead(Slow(), CPU) == 0


def test_the_seconds_waited_are_added_up() -> None:
    """Without a thread every batch is waited for from its beginning."""

    def sleepy() -> Iterator[Tensor]:
        for batch in numbers():
            time.sleep(0.02)
            yield batch

    waiting = Waiting(seconds=100)
    with Prefetched(sleepy(), count=3, device=CPU, waiting=waiting, ahead=0) as ready:
        for _ in range(3):
            next(ready)
    assert waiting.seconds >= 100.06


@pytest.mark.parametrize("kernels", ["plain", "fast"])
def test_training_is_the_same_with_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: str) -> None:
    runs = []
    for ahead in (0, 2):
        monkeypatch.setattr(prefetch, "batches_ahead", lambda *_, ahead=ahead: ahead)
        runs.append(trained(tmp_path / str(ahead), kernels=kernels, methods=["bagged", "boosted"]))
    assert_same_training(*runs)
    assert runs[0].facts("train/bagged")["wait_seconds"] >= 0


def test_a_training_that_is_stopped_goes_on_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that were made in advance and not trained on are made again."""
    monkeypatch.setattr(prefetch, "batches_ahead", lambda *_: 4)

    class Interrupting(TensorSource):
        def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
            for batch in super().batches(batch_size=batch_size, seed=seed, first_step=first_step):
                if self.handed_out == STEPS // 2:
                    signal.raise_signal(signal.SIGINT)
                yield batch

    run = new_run(tmp_path / "run", methods=["bagged"])
    with pytest.raises(KeyboardInterrupt):
        train_run(run, source=Interrupting(data()), checkpoint_seconds=1e9)
    assert run.ensemble("bagged").checkpoint.exists()
    train_run(run, source=TensorSource(data()))
    assert_same_training(run, trained(tmp_path / "whole", methods=["bagged"]))
