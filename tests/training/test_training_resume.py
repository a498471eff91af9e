"""Interrupted training continues bit by bit; if it cannot, one sentence says why, and nothing is lost."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Any

import pytest
import torch
from breaking_off import broken_off_at_each_file
from eventful import failing_at, signalling_at
from random_saes import TRAINED
from small_runs import BATCH, MEMBERS, STEPS, assert_same_training, data, new_run, trained, weights
from sources import TensorSource
from torch import Tensor

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_tensors
from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import Architecture
from sae_core.sae import ARCHITECTURES
from sae_core.training import prefetch
from sae_core.training.interrupt import noting_interrupts
from sae_core.training.residuals import SAMPLED_BATCHES
from sae_core.training.train import train_run

NEVER, ALWAYS = 1e9, 0.0
"""Values of checkpoint_seconds."""
STOPS_OF_A_STAGE = 3
"""After steps 25, 50 and 60."""


@pytest.fixture(autouse=True)
def _batches_are_made_when_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is certain how many were made."""
    monkeypatch.setattr(prefetch, "AHEAD", 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was never interrupted."""
    return trained(tmp_path_factory.mktemp("runs") / "whole")


def one_sentence(message: str) -> bool:
    return message.endswith(".") and "\n" not in message and ". " not in message


# --- interruptions


@pytest.mark.parametrize("kernels", ["plain", "fast"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError])
def test_a_run_that_is_stopped_after_every_report_is_the_same_run(
    error: type[BaseException], kernels: str, tmp_path: Path
) -> None:
    """Whatever the progress callback raises is saved first, so that no step is taken twice."""
    run, source, stops = new_run(tmp_path / "run", kernels=kernels), TensorSource(data()), 0

    def stop(tick: Tick) -> None:
        raise error

    while True:
        try:
            train_run(run, source=source, progress=stop, checkpoint_seconds=NEVER)
            break
        except error:
            stops += 1
    stages = 1 + (MEMBERS - 1) + 1  # bagged, boosted without the shared first one, expanded
    assert stops == stages * STOPS_OF_A_STAGE
    measured = (MEMBERS - 1) * (STOPS_OF_A_STAGE + 1) * SAMPLED_BATCHES
    assert source.handed_out == stages * STEPS + measured
    assert_same_training(run, trained(tmp_path / "whole", kernels=kernels))
    assert not list(run.path.rglob("checkpoint"))


@pytest.mark.parametrize("kernels", ["plain", "fast"])
@pytest.mark.parametrize("architecture", TRAINED)
def test_every_architecture_goes_on_bit_by_bit(architecture: Architecture, kernels: str, tmp_path: Path) -> None:
    """Interrupted in the bagged ensemble, in stage 2 and in stage 3, which sees what members on disk leave."""
    sae = {"architecture": architecture, "sparsity": 0.1, "bandwidth": 0.1, "initial_threshold": 0.1}
    if not ARCHITECTURES[architecture].has_compiled_step():
        kernels = "auto"
    unbroken = trained(tmp_path / "whole", sae, methods=["bagged", "boosted"], kernels=kernels)
    run = new_run(tmp_path / "run", sae, methods=["bagged", "boosted"], kernels=kernels)
    for batch in (40, STEPS - 25 + SAMPLED_BATCHES + 30, STEPS - 25 + 2 * SAMPLED_BATCHES + 30):
        with pytest.raises(KeyboardInterrupt):
            train_run(run, source=failing_at(batch, KeyboardInterrupt), checkpoint_seconds=ALWAYS)
    assert (run.ensemble("boosted").checkpoint / "stage_02.safetensors").exists()
    train_run(run, source=TensorSource(data()))
    assert_same_training(run, unbroken)


# Batches 1 to 60 are the bagged members', then come 16 for the residual's scale and 60 for each stage of the boosted.
@pytest.mark.parametrize("batch", [1, 25, 26, 59, 60, 70, 77, 110, 136, 150, 205, 220, 272])
@pytest.mark.parametrize("checkpoint_seconds", [NEVER, ALWAYS])
def test_a_run_that_breaks_off_within_a_step_is_the_same_run(
    whole: Run, batch: int, checkpoint_seconds: float, tmp_path: Path
) -> None:
    run = new_run(tmp_path / "run")
    with pytest.raises(ZeroDivisionError):
        train_run(run, source=failing_at(batch, ZeroDivisionError), checkpoint_seconds=checkpoint_seconds)
    source = TensorSource(data())
    train_run(run, source=source, checkpoint_seconds=checkpoint_seconds)
    assert_same_training(run, whole)
    if checkpoint_seconds == ALWAYS:
        assert batch + source.handed_out <= 4 * STEPS + 4 * SAMPLED_BATCHES + 25, "more than 25 steps were taken twice"


@pytest.mark.slow
def test_a_run_that_breaks_off_at_any_file_it_writes_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"tokens": 30 * BATCH, "members": 2}
    unbroken = trained(tmp_path / "whole", **options)
    seen: set[str] = set()

    def make(name: str) -> Run:
        return new_run(tmp_path / name, **options)

    def go_on(run: Run) -> None:
        train_run(run, source=TensorSource(data()), checkpoint_seconds=ALWAYS)

    for run, written in broken_off_at_each_file(make, go_on, monkeypatch):
        seen.update(written)
        assert_same_training(run, unbroken)
        assert not list(run.path.rglob("checkpoint"))
    names = {"run.json", "ensemble.json", "training.parquet", "cfg.json", "stage_00.safetensors", "stage_01.parquet"}
    assert names < seen


def test_what_a_killed_writing_left_is_no_part_of_a_finished_ensemble(whole: Run, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    left_over = run.ensemble("single").member(0) / ".sae_weights.safetensors.1.partial"
    left_over.parent.mkdir(parents=True)
    left_over.write_bytes(b"half")
    train_run(run, source=TensorSource(data()))
    left_over.unlink()
    assert run.is_finished("train/single")
    assert_same_training(run, whole)


def test_a_member_that_was_lost_is_trained_again(whole: Run, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", whole.settings)
    shutil.copytree(whole.path, run.path)
    shutil.rmtree(run.ensemble("boosted").member(1))
    source = TensorSource(data())
    train_run(run, source=source)
    assert source.handed_out == (MEMBERS - 1) * (STEPS + SAMPLED_BATCHES)
    assert_same_training(run, whole)


@pytest.mark.parametrize(("batch", "saved"), [(1, 25), (30, 50), (50, 50), (55, 60)])
def test_ctrl_c_saves_first(whole: Run, batch: int, saved: int, tmp_path: Path) -> None:
    run, source = new_run(tmp_path / "run"), signalling_at(batch)
    with pytest.raises(KeyboardInterrupt):
        train_run(run, source=source, checkpoint_seconds=NEVER)
    assert source.handed_out == saved
    checkpoint = read_tensors(run.ensemble("bagged").checkpoint / "stage_00.safetensors")
    assert {int(checkpoint[f"{member}.done"]) for member in range(MEMBERS)} == {saved}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = TensorSource(data())
    train_run(run, source=again)
    assert again.handed_out == 4 * STEPS - saved + (MEMBERS - 1) * SAMPLED_BATCHES
    assert_same_training(run, whole)


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    run, source = new_run(tmp_path / "run"), signalling_at(30, 31)
    with pytest.raises(KeyboardInterrupt):
        train_run(run, source=source, checkpoint_seconds=ALWAYS)
    assert source.handed_out == 31
    checkpoint = read_tensors(run.ensemble("bagged").checkpoint / "stage_00.safetensors")
    assert int(checkpoint["0.done"]) == 25
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signal_handlers_of_others_and_threads_are_left_alone(tmp_path: Path) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with noting_interrupts() as asked:
            signal.raise_signal(signal.SIGINT)
        assert seen == [signal.SIGINT]
        assert not asked.is_set()
    finally:
        signal.signal(signal.SIGINT, before)
    run = new_run(tmp_path / "run", methods=["single"])
    thread = threading.Thread(target=train_run, args=(run,), kwargs={"source": TensorSource(data())})
    thread.start()
    thread.join()
    assert run.is_finished("train/single")


def _train_in_a_process(path: Path, reports: Semaphore) -> None:
    torch.set_num_threads(1)
    train_run(
        Run.open(path),
        source=TensorSource(data()),
        progress=lambda tick: reports.release(),
        checkpoint_seconds=ALWAYS,
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_is_killed_again_and_again_is_the_same_run(whole: Run, seed: int, tmp_path: Path) -> None:
    """SIGKILL at random moments after one or two reports: within steps, checkpoints, the writing of members."""
    run, draw = new_run(tmp_path / "run"), random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    found: list[int] = []
    while True:
        found.append(sum(1 for path in run.path.rglob("*.safetensors")))
        reports = context.Semaphore(0)
        process = context.Process(target=_train_in_a_process, args=(run.path, reports))
        process.start()
        for _ in range(draw.choice((1, 2, 2))):
            while process.is_alive() and not reports.acquire(timeout=0.02):
                pass
        time.sleep(draw.uniform(0.0, 0.03))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert len(found) > 2
    assert found[-1] > 0, "it was always killed before there was anything to go on with"
    assert_same_training(run, whole)


# --- what cannot go on


def stopped(path: Path) -> Run:
    """A run whose bagged ensemble is finished and whose boosted one has a checkpoint of stage 2 after 25 steps."""
    run = new_run(path)
    with pytest.raises(ZeroDivisionError):
        train_run(run, source=failing_at(STEPS + SAMPLED_BATCHES + 30, ZeroDivisionError), checkpoint_seconds=ALWAYS)
    assert run.is_finished("train/bagged")
    assert run.is_finished("train/single")
    assert (run.ensemble("boosted").checkpoint / "stage_01.safetensors").exists()
    return run


def files(run: Run) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [0, 5, 2000, -1])
def test_a_damaged_checkpoint_is_named_and_nothing_is_lost(whole: Run, size: int, tmp_path: Path) -> None:
    run = stopped(tmp_path / "run")
    checkpoint = run.ensemble("boosted").checkpoint / "stage_01.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:size])
    before = files(run)
    with pytest.raises(UserError, match=r"stage_01\.safetensors is damaged.*delete it") as caught:
        train_run(run, source=TensorSource(data()))
    assert one_sentence(str(caught.value).replace(str(tmp_path), ""))
    assert files(run) == before
    checkpoint.unlink()
    train_run(run, source=TensorSource(data()))
    assert_same_training(run, whole)


@pytest.mark.parametrize(
    ("sae", "training"),
    [
        ({"k": 4}, {}),
        ({"width": 72}, {}),
        ({"architecture": "batchtopk"}, {}),
        ({"architecture": "relu"}, {}),
        ({}, {"tokens": STEPS * BATCH + BATCH}),
        ({}, {"learning_rate": 1e-3}),
        ({}, {"seed": 3}),
        ({}, {"members": 2, "methods": ["bagged"]}),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    sae: dict[str, object], training: dict[str, object], tmp_path: Path
) -> None:
    run, other = new_run(tmp_path / "run"), new_run(tmp_path / "other", sae, **training)
    with pytest.raises(ZeroDivisionError):
        train_run(run, source=failing_at(30, ZeroDivisionError), checkpoint_seconds=ALWAYS)
    run.ensemble("bagged").checkpoint.parent.parent.rename(other.path / "ensembles")
    before = files(other)
    with pytest.raises(UserError, match=r"stage_00\.safetensors.*other settings.*delete it") as caught:
        train_run(other, source=TensorSource(data()))
    assert one_sentence(str(caught.value).replace(str(tmp_path), ""))
    assert files(other) == before


def test_a_checkpoint_goes_on_with_other_methods_on_another_device(whole: Run, tmp_path: Path) -> None:
    """Settings that do not touch the trained member may change while it is interrupted."""
    run = new_run(tmp_path / "run", methods=["single"])
    with pytest.raises(ZeroDivisionError):
        train_run(run, source=failing_at(30, ZeroDivisionError), checkpoint_seconds=ALWAYS)
    other = new_run(tmp_path / "other", methods=["single", "expanded"], device="auto", members=2)
    (run.path / "ensembles").rename(other.path / "ensembles")
    source = TensorSource(data())
    train_run(other, source=source, device="cpu")
    assert source.handed_out == STEPS - 25 + STEPS
    for name, tensor in weights(other).items():
        if name.startswith("single"):
            assert torch.equal(tensor, weights(whole)[name]), name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_stop_it_and_nothing_is_lost(whole: Run, value: float, tmp_path: Path) -> None:
    """From batch 30 of stage 2 on; the checkpoint of step 25 stays, and with good activations training goes on."""
    run, first = new_run(tmp_path / "run"), STEPS + SAMPLED_BATCHES + 30

    class Broken(TensorSource):
        def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
            for acts_BD in super().batches(batch_size=batch_size, seed=seed, first_step=first_step):
                if self.handed_out >= first:
                    acts_BD[0, 0] = value
                yield acts_BD

    with pytest.raises(UserError, match=r"loss of train boosted, stage 2 of 3 is \w+ at step 50.*not finite") as caught:
        train_run(run, source=Broken(data()), checkpoint_seconds=ALWAYS)
    assert one_sentence(str(caught.value))
    assert run.is_finished("train/bagged")
    assert not run.is_finished("train/boosted")
    source = TensorSource(data())
    train_run(run, source=source)
    assert source.handed_out == 3 * STEPS - 25 + 2 * SAMPLED_BATCHES
    assert_same_training(run, whole)


def test_a_diverging_loss_names_the_setting(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", methods=["single"], learning_rate=1e30)
    with pytest.raises(UserError, match=r"lower training\.learning_rate") as caught:
        train_run(run, source=TensorSource(data()))
    assert one_sentence(str(caught.value).replace("training.learning_rate", ""))
    assert not run.is_finished("train/single")
    assert run.ensembles() == []


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    class Empty(TensorSource):
        rows = 0

        def __init__(self) -> None:
            self.d_in, self.mean_D, self.scale = 4, torch.zeros(4), 1.0

    with pytest.raises(UserError, match="no activations to train on"):
        train_run(new_run(tmp_path / "run"), source=Empty())


def test_an_unknown_device_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    source = TensorSource(data())
    with pytest.raises(UserError, match="cuda:99"):
        train_run(new_run(tmp_path / "run"), source=source, device="cuda:99")
    assert source.handed_out == 0


def test_a_program_started_without_ctrl_c_keeps_to_that_and_the_tests_do_not() -> None:
    """`nohup … &` leaves SIGINT ignored: a run then goes on under it, as other programs do; the tests restore it."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # in this process, see conftest.py
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noting_interrupts() as asked:
            signal.raise_signal(signal.SIGINT)
        assert not asked.is_set()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
