"""Full memory during a step: two halves with the same result and one note; a second time, one sentence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fast_and_plain import ALL, moments, noise, sparse_sae, trainer
from small_runs import BATCH, STEPS, assert_same_training, data, new_run, trained, weights
from sources import TensorSource
from together import in_processes

from sae_core.cli.console import drawn_progress
from sae_core.foundation.errors import UserError
from sae_core.foundation.machine.device import is_out_of_memory, naming_full_memory
from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import Architecture
from sae_core.sae import BatchTopKSAE
from sae_core.training import halves, step
from sae_core.training.gradients import compute
from sae_core.training.halves import compute_in_halves
from sae_core.training.kernels.cpu import update_loops
from sae_core.training.processes import joined
from sae_core.training.step import Trainer
from sae_core.training.train import train_run

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."


class Full:
    """Wraps a function: the calls with these numbers, from 1, do all their work and then find the memory full."""

    def __init__(self, function: Callable[..., Any], *calls: int) -> None:
        self.function, self.calls, self.count = function, calls, 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        result = self.function(*arguments, **options)
        if self.count in self.calls:
            raise torch.OutOfMemoryError(FULL)
        return result


def assert_near(one: Trainer, other: Trainer) -> None:
    """Moments of all gradients to 1e-5 of their largest, buffers and counters too."""
    for name in ("exp_avg", "exp_avg_sq"):
        ours, theirs = moments(one, name), moments(other, name)
        assert ours.keys() == theirs.keys() != set()
        for key, moment in ours.items():
            atol = max(1e-5 * float(theirs[key].abs().max()), 1e-30)
            torch.testing.assert_close(
                moment, theirs[key], rtol=0, atol=atol, msg=lambda text, key=key: f"{key}: {text}"
            )
    for key, buffer in one.sae.named_buffers():
        torch.testing.assert_close(buffer, dict(other.sae.named_buffers())[key], rtol=1e-5, atol=1e-6)
    assert torch.equal(one.idle_N, other.idle_N)
    assert one.done == other.done


@pytest.mark.parametrize("rows", [61, 2, 1])
@pytest.mark.parametrize("architecture", ALL)
def test_halves_give_what_the_whole_gives(architecture: Architecture, rows: int) -> None:
    one, other = (sparse_sae(architecture).train() for _ in range(2))
    dead_M = torch.arange(10, 60)
    options: dict[str, Any] = {"sparsity": 0.3, "aux_coefficient": 0.5}
    for seed in range(2):
        x_BD = noise(rows, 40, seed=seed)
        if isinstance(one, BatchTopKSAE):  # nearly all that the batch keeps lies in its second half
            x_BD[: rows // 2] *= 0.2
        expected, outcome = compute(one, x_BD, dead_M, **options), compute_in_halves(other, x_BD, dead_M, **options)
        assert expected.gradients.keys() == outcome.gradients.keys()
        for name, gradient in expected.gradients.items():
            atol = 1e-5 * float(gradient.abs().max())
            torch.testing.assert_close(outcome.gradients[name], gradient, rtol=0, atol=atol)
        torch.testing.assert_close(outcome.recon_BD, expected.recon_BD, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(outcome.loss, expected.loss, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(outcome.squared_error, expected.squared_error)
        assert int(outcome.active) == int(expected.active)
        assert torch.equal(outcome.fired_N, expected.fired_N)
        if isinstance(one, BatchTopKSAE) and isinstance(other, BatchTopKSAE):
            torch.testing.assert_close(other.threshold, one.threshold)
            assert other.others is None


@pytest.mark.parametrize("architecture", ALL)
def test_in_bfloat16_halves_give_what_the_whole_gives_but_for_its_rounding(architecture: Architecture) -> None:
    """Where autograd adds up in bfloat16, and where BatchTopK chooses among equal numbers."""
    one, other = (sparse_sae(architecture).train() for _ in range(2))
    x_BD, dead_M = noise(61, 40), torch.arange(10, 60)
    options: dict[str, Any] = {"sparsity": 0.3, "aux_coefficient": 0.5, "low_precision": True}
    expected, outcome = compute(one, x_BD, dead_M, **options), compute_in_halves(other, x_BD, dead_M, **options)
    assert int(outcome.active) == int(expected.active)
    for name, gradient in expected.gradients.items():
        assert float((outcome.gradients[name] - gradient).norm() / gradient.norm()) < 0.02, name


def test_halves_never_make_a_table_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for architecture in ALL:
        seen: list[int] = []

        def watched(sae: Any, x_BD: torch.Tensor, *rest: Any, seen: list[int] = seen, **options: Any) -> Any:
            seen.append(len(x_BD))
            return compute(sae, x_BD, *rest, **options)

        monkeypatch.setattr(halves, "compute", watched)
        compute_in_halves(
            sparse_sae(architecture).train(), noise(61, 40), torch.arange(0), sparsity=1, aux_coefficient=0
        )
        assert seen == [31, 30]


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("architecture", ALL)
def test_a_plain_step_that_finds_the_memory_full_once_is_done_in_halves(
    architecture: Architecture, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    untroubled, troubled = (trainer(sparse_sae(architecture), fast=False) for _ in range(2))
    batches = [noise(60, 40, seed=seed) for seed in range(3)]
    for x_BD in batches:
        untroubled.step(x_BD)
    full = Full(step.compute, call)
    monkeypatch.setattr(step, "compute", full)
    for x_BD in batches:
        troubled.step(x_BD)
    assert (untroubled.halved, troubled.halved) == (False, True)
    assert full.count == call  # whole batches are not tried again
    assert_near(troubled, untroubled)


@pytest.mark.parametrize("low_precision", [False, True])
@pytest.mark.parametrize("architecture", ALL)
def test_a_fast_step_that_finds_the_memory_full_once_is_done_in_halves(
    architecture: Architecture, low_precision: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it makes room for the first of Adam's moments, and when a later batch needs more than there is."""
    batches = [noise(60, 40, seed=seed) for seed in range(3)]
    untroubled = trainer(sparse_sae(architecture), fast=False)
    for x_BD in batches:
        untroubled.step(x_BD)

    zeros_like = torch.zeros_like

    def no_room_for(last: torch.Tensor, tensor: torch.Tensor, **options: Any) -> torch.Tensor:
        if tensor is last and not options:  # torch's own Adam gives options
            raise torch.OutOfMemoryError(FULL)
        return zeros_like(tensor, **options)

    for number in (0, 1):
        troubled = trainer(sparse_sae(architecture), fast=True, low_precision=low_precision)
        for x_BD in batches[:number]:
            troubled.step(x_BD)
        assert not troubled.halved
        with monkeypatch.context() as patched:
            if number:
                patched.setattr(update_loops, "sort_by_feature", Full(update_loops.sort_by_feature, 1))
            else:  # the moments of the other parameters are there by then
                patched.setattr(torch, "zeros_like", partial(no_room_for, troubled.sae.b_dec))
            troubled.step(batches[number])
        for x_BD in batches[number + 1 :]:
            troubled.step(x_BD)
        assert troubled.halved
        assert_near(troubled, untroubled)


def test_a_step_that_has_changed_weights_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    troubled = trainer(sparse_sae("topk"), fast=True)
    monkeypatch.setattr(update_loops, "update_vector", Full(update_loops.update_vector, 1))
    with pytest.raises(
        UserError, match=r"memory of cpu does not hold a step of 60 activations; lower training\.batch_size"
    ):
        troubled.step(noise(60, 40))


def told(run: Any) -> list[Tick]:
    ticks: list[Tick] = []
    train_run(run, source=TensorSource(data()), progress=ticks.append)
    return ticks


def test_a_run_says_once_that_it_goes_on_in_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"methods": ["bagged"], "members": 2, "kernels": "plain"}
    alone = trained(tmp_path / "alone", **options)
    # The second member in step 30: told with step 50.
    monkeypatch.setattr(step, "compute", Full(step.compute, 60))
    ticks = told(new_run(run := tmp_path / "run", **options))
    notes = [(tick.done, tick.note) for tick in ticks if tick.note]
    assert [done for done, _ in notes] == [50 * BATCH]
    assert "two halves" in notes[0][1]
    assert "training.batch_size" in notes[0][1]
    one, two = (weights(Run.open(path)) for path in (alone.path, run))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-3, msg=name)


def _short_of_memory(rank: int, path: Path) -> list[str]:
    """Train a run; the second process finds its memory full in step 10. The notes that were told."""
    notes: list[str] = []
    if rank == 1:
        step.compute = Full(step.compute, 10)
    with joined() as processes:
        tell = lambda tick: notes.append(tick.note)  # noqa: E731
        train_run(Run.open(path), source=TensorSource(data()), processes=processes, progress=tell)
    return [note for note in notes if note]


@pytest.mark.slow
def test_one_of_several_processes_goes_on_in_halves_and_all_know_it(tmp_path: Path) -> None:
    """Batches are split over the processes, and what each has of one is split again."""
    options: dict[str, Any] = {"methods": ["expanded"], "tokens": 30 * BATCH}
    alone, run = trained(tmp_path / "alone", kernels="plain", **options), new_run(tmp_path / "run", **options)
    results = in_processes(2, _short_of_memory, run.path)
    assert results[0] == results[1]
    assert len(results[0]) == 1
    two = weights(alone)
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, two[name], rtol=0, atol=1e-3, msg=name)


def test_halves_that_do_not_fit_either_end_in_one_sentence_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"methods": ["single"], "kernels": "plain"}
    run = new_run(tmp_path / "run", **options)
    with monkeypatch.context() as patched:
        patched.setattr(step, "compute", Full(step.compute, 40))
        patched.setattr(step, "compute_in_halves", Full(step.compute_in_halves, 2))
        with pytest.raises(
            UserError, match=r"activations, not even in two halves; lower training\.batch_size"
        ) as caught:
            train_run(run, source=TensorSource(data()), checkpoint_seconds=0.0)
    assert str(caught.value).count(". ") == 0
    source = TensorSource(data())
    train_run(run, source=source)
    assert source.handed_out == STEPS - 25
    assert_same_training(run, trained(tmp_path / "whole", **options))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(FULL), MemoryError()])
def test_memory_that_is_full_elsewhere_is_one_sentence_too(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", fail)
    run = new_run(tmp_path / "run", methods=["single"], kernels="plain")
    with pytest.raises(UserError, match=r"The memory of cpu is full; lower training\.batch_size, training\.group"):
        train_run(run, source=TensorSource(data()))


def test_what_says_that_memory_is_full() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"), naming_full_memory("cpu", "lower it"):
        raise RuntimeError("shapes do not fit")


def test_a_note_stands_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with drawn_progress() as progress:
        progress(Tick("train", 1, 10))
        progress(Tick("train", 2, 10, note="Steps are done in halves."))
        progress(Tick("train", 3, 10))
    assert capsys.readouterr().err.splitlines().count("Steps are done in halves.") == 1
