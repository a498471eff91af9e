"""Residuals on disk: exact, in the order of the activations, used if cheaper, continued bit by bit, counted."""

from __future__ import annotations

import contextlib
import shutil
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from breaking_off import broken_off_at_each_file
from random_saes import ALL, TRAINED, random_sae
from small_runs import BATCH, MEMBERS, STEPS, WIDTH, D, K, assert_same_training, curves, ensembles, new_run, weights
from sources import TensorSource, sparse_data
from torch import Tensor

from sae_core.activations.store.cache import ActivationCache, CacheWriter
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import Architecture, Kernels, RunSettings
from sae_core.sae import SAE
from sae_core.training import residuals as boosting
from sae_core.training.kernels.frozen import FrozenEncoder
from sae_core.training.residuals import Residuals
from sae_core.training.stage import Plan
from sae_core.training.train import train_run

ROWS = 1550
SPARSE = {"sparsity": 0.1, "bandwidth": 0.1, "initial_threshold": 0.1}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three shards of 700, 700 and 150 rows; a shard holds more than one block."""
    monkeypatch.setattr(boosting, "BLOCK_ROWS", 350)
    monkeypatch.setattr(boosting, "PASS_SHARDS", 2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ActivationCache:
    writer = CacheWriter(tmp_path_factory.mktemp("cache"), d_in=D, dtype="float16", contents="x", shard_rows=500)
    for piece in sparse_data(ROWS).split(100):
        writer.append(piece)
    return writer.finish()


def train(path: Path, cache: ActivationCache, sae: dict[str, Any] | None = None, **training: Any) -> Run:
    run = new_run(path, sae, **{"methods": ["boosted"], "residuals": "cached", **training})
    train_run(run, source=cache)
    return run


@pytest.fixture(scope="module")
def whole(cache: ActivationCache, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was never interrupted, in blocks and shards of the usual size were they not so small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosting, "BLOCK_ROWS", 350)
        patch.setattr(boosting, "PASS_SHARDS", 2)
        return train(tmp_path_factory.mktemp("runs") / "whole", cache)


def plan_of(*, steps: int = STEPS, stages: int = MEMBERS) -> Plan:
    return Plan("boosted", steps=steps, batch_size=BATCH, stages=stages, seed=4, device=torch.device("cpu"))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what is on disk


@torch.no_grad()
@pytest.mark.parametrize("kernels", ["plain", "auto"])
@pytest.mark.parametrize("architecture", ALL)
def test_a_kept_residual_has_the_rows_batches_mean_and_scale_of_what_is_left(
    cache: ActivationCache, architecture: Architecture, kernels: Kernels, tmp_path: Path
) -> None:
    members = [random_sae(architecture, d_in=D, seed=seed).eval() for seed in range(3)]
    kept = Residuals(cache, plan_of(), wanted="cached", folder=tmp_path, kernels=kernels)
    acts_RD = cache.read(0, ROWS)
    left_RD = acts_RD
    for stage in range(1, 4):
        target = kept.after(members[:stage])
        left_RD = left_RD - members[stage - 1](left_RD)
        assert isinstance(target.source, ActivationCache)
        assert (target.stage, target.frozen, target.source.dtype) == (stage, None, "float32")
        torch.testing.assert_close(target.source.read(0, ROWS), left_RD, rtol=1e-5, atol=1e-4)
        exact_RD = target.source.read(0, ROWS).double()
        torch.testing.assert_close(target.mean_D, exact_RD.mean(dim=0).float())
        assert target.scale == pytest.approx(float((D / exact_RD.square().sum(dim=1).mean()).sqrt()))
        variance = acts_RD.double().var(dim=0, correction=0).sum()
        assert target.variance == pytest.approx(float(variance), rel=1e-9)
        assert _names(tmp_path / "residual") == [f"after_{stage}"]
        batches = (each.batches(batch_size=BATCH, seed=4, first_step=9) for each in (cache, target.source))
        for acts_BD, batch_BD in islice(zip(*batches, strict=True), 20):
            expected_BD = acts_BD
            for member in members[:stage]:
                expected_BD = expected_BD - member(expected_BD)
            torch.testing.assert_close(batch_BD, expected_BD, rtol=1e-5, atol=1e-4)


def test_at_most_two_residuals_are_on_disk_and_each_row_runs_once_through_each_stage(
    cache: ActivationCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[str]]] = []
    run = new_run(tmp_path / "run", methods=["boosted"], residuals="cached", members=4)

    def watch(tick: Tick) -> None:
        seen.append((tick.stage, _names(run.ensemble("boosted").checkpoint / "residual")))

    forwards: list[int] = []
    reconstruct = FrozenEncoder.reconstruct

    def counted(self: FrozenEncoder, sae: SAE, acts_BD: Tensor) -> Tensor:
        forwards.append(len(acts_BD))
        return reconstruct(self, sae, acts_BD)

    with monkeypatch.context() as patched:
        patched.setattr(FrozenEncoder, "reconstruct", counted)
        patched.setattr(SAE, "forward", None)  # fast or not at all
        train_run(run, source=cache, progress=lambda tick: watch(tick) if "stage 1 " not in tick.stage else None)
    assert sum(forwards) == 3 * ROWS
    folders = {stage: names for stage, names in seen if stage.startswith("residual")}
    assert folders == {
        "residual after stage 1": ["after_1"],
        "residual after stage 2": ["after_1", "after_2"],
        "residual after stage 3": ["after_2", "after_3"],
    }
    assert not run.ensemble("boosted").checkpoint.exists()


@torch.no_grad()
@pytest.mark.parametrize("architecture", ALL)
def test_what_is_recomputed_for_a_batch_is_what_is_left(
    cache: ActivationCache, architecture: Architecture, tmp_path: Path
) -> None:
    """Without the disk finished stages run for every batch: as fast as they can, or plainly."""
    members, acts_BD = [random_sae(architecture, d_in=D, seed=seed).eval() for seed in range(3)], cache.read(0, 200)
    ensemble = Ensemble(members, wiring="residual")
    for kernels in ("plain", "auto"):
        residuals = Residuals(cache, plan_of(), wanted="recomputed", folder=tmp_path, kernels=kernels)
        target = residuals.after(members)
        assert target.frozen is not None
        torch.testing.assert_close(target.frozen(acts_BD), ensemble(acts_BD), rtol=1e-5, atol=1e-4)


def test_a_residual_of_other_members_or_activations_is_not_taken(cache: ActivationCache, tmp_path: Path) -> None:
    one, other = (random_sae("topk", d_in=D, seed=seed).eval() for seed in (1, 2))
    first = Residuals(cache, plan_of(), wanted="cached", folder=tmp_path).after([one]).mean_D
    second = Residuals(cache, plan_of(), wanted="cached", folder=tmp_path).after([other]).mean_D
    fresh = Residuals(cache, plan_of(), wanted="cached", folder=tmp_path / "fresh").after([other]).mean_D
    assert not torch.equal(first, second)
    assert torch.equal(second, fresh)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_written(cache: ActivationCache, value: float, tmp_path: Path) -> None:
    """In an activation of the second shard, by a source that does not look; the first shard is kept."""

    class Broken(TensorSource):
        fingerprint = "broken"

        def read(self, start: int, stop: int) -> Tensor:
            acts_BD = self.acts_RD[start:stop].clone()
            if start <= 900 < stop:
                acts_BD[900 - start, 3] = value
            return acts_BD

    source, member = Broken(cache.read(0, ROWS)), random_sae("topk", d_in=D, seed=1).eval()
    residuals = Residuals(source, plan_of(), wanted="cached", folder=tmp_path)
    with pytest.raises(UserError, match=r"The residual after stage 1 is not finite; look for activations .*\.$"):
        residuals.after([member])
    assert _names(tmp_path / "residual" / "after_1") == ["meta.json", "seconds.json", "shard_00000.safetensors"]


def test_a_damaged_or_lost_residual_is_made_again(cache: ActivationCache, tmp_path: Path) -> None:
    members = [random_sae("topk", d_in=D, seed=seed).eval() for seed in (1, 2)]
    kept = Residuals(cache, plan_of(), wanted="cached", folder=tmp_path)
    before = kept.after(members).source.read(0, ROWS)
    shard = tmp_path / "residual" / "after_2" / "shard_00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-8] + bytes(8))
    assert torch.equal(kept.after(members).source.read(0, ROWS), before)
    shutil.rmtree(tmp_path / "residual")
    assert torch.equal(kept.after(members).source.read(0, ROWS), before)


# --- training on it


@pytest.mark.parametrize("architecture", TRAINED)
def test_training_on_kept_residuals_is_training_on_recomputed_ones(
    cache: ActivationCache, architecture: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to rounding, if the recomputed ones had the exact scale and mean too; explained variance included."""
    sae = {"architecture": architecture, **SPARSE}
    kept = train(tmp_path / "kept", cache, sae, members=2)

    def exact(frozen: torch.nn.Module, source: ActivationCache, plan: Plan) -> tuple[Tensor, float]:
        left_RD = (source.read(0, ROWS) - frozen(source.read(0, ROWS))).double()
        return left_RD.mean(dim=0).float(), float((D / left_RD.square().sum(dim=1).mean()).sqrt())

    with monkeypatch.context() as patched:
        patched.setattr(boosting, "residual_statistics", torch.no_grad()(exact))
        recomputed = train(tmp_path / "recomputed", cache, sae, members=2, residuals="recomputed")
    for name, tensor in weights(recomputed).items():
        torch.testing.assert_close(weights(kept)[name], tensor, rtol=1e-2, atol=2e-3)
    one, two = (curves(run, "boosted") for run in (kept, recomputed))
    assert one["explained_variance"].tolist() == pytest.approx(two["explained_variance"].tolist(), abs=1e-3)
    # There the variance is that of the activations of some steps, here of all.
    totals = [table["explained_variance_total"].tolist() for table in (one, two)]
    assert totals[0] == pytest.approx(totals[1], abs=1e-2)
    assert totals[0][-1] > totals[0][2] + 0.02


@torch.no_grad()
def test_the_explained_variance_of_curves_is_that_of_the_ensemble(cache: ActivationCache, whole: Run) -> None:
    ensemble, acts_RD = ensembles(whole)["boosted"], cache.read(0, ROWS)
    error = (acts_RD - ensemble(acts_RD)).square().sum()
    explained = 1 - float(error / (acts_RD - acts_RD.mean(dim=0)).square().sum())
    table = curves(whole, "boosted")
    assert table["explained_variance_total"].iloc[-1] == pytest.approx(explained, abs=0.03)
    assert table.groupby("member")["explained_variance_total"].last().is_monotonic_increasing


# --- interruptions


def test_a_run_that_is_stopped_after_every_report_is_the_same_run(
    cache: ActivationCache, whole: Run, tmp_path: Path
) -> None:
    run, told = new_run(tmp_path / "run", methods=["boosted"], residuals="cached"), []

    def stop(tick: Tick) -> None:
        told.append((tick.stage, tick.done, tick.total))
        raise KeyboardInterrupt

    while not run.is_finished("train/boosted"):
        with contextlib.suppress(KeyboardInterrupt):
            train_run(run, source=cache, progress=stop, checkpoint_seconds=1e9)
    passes = [each for each in told if each[0].startswith("residual")]
    labels = ("residual after stage 1", "residual after stage 2")
    assert passes == [(label, done, ROWS) for label in labels for done in (700, 1400, 1550)]
    assert len(told) == len(passes) + 3 * MEMBERS, "a step was taken twice"
    assert_same_training(run, whole)


@pytest.mark.slow
def test_a_run_that_breaks_off_at_any_file_it_writes_is_the_same_run(
    cache: ActivationCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"tokens": 10 * BATCH, "members": 3}
    unbroken = train(tmp_path / "whole", cache, **options)
    seen: set[str] = set()

    def make(name: str) -> Run:
        return new_run(tmp_path / name, methods=["boosted"], residuals="cached", **options)

    def go_on(run: Run) -> None:
        train_run(run, source=cache, checkpoint_seconds=0.0)

    for run, written in broken_off_at_each_file(make, go_on, monkeypatch):
        seen.update(written)
        assert_same_training(run, unbroken)
        assert not run.ensemble("boosted").checkpoint.exists()
    assert {"residuals.json", "meta.json", "shard_00000.safetensors", "shard_00002.safetensors"} < seen


# --- the choice


class Streamed(TensorSource):
    """A tensor that cannot be read in storage order."""


def decide(source: Any, folder: Path, *, steps: int = STEPS, stages: int = MEMBERS) -> bool:
    plan = plan_of(steps=steps, stages=stages)
    return Residuals(source, plan, wanted="auto", folder=folder).cached


def test_residuals_are_kept_where_that_is_less_work(cache: ActivationCache, tmp_path: Path) -> None:
    """Two rows of work for each row and stage, against tokens through 1 + 2 stages before the last two of three."""
    limit = 2 * 2 * ROWS // (3 * BATCH)
    assert not decide(cache, tmp_path / "a", steps=limit)
    assert decide(cache, tmp_path / "b", steps=limit + 1)
    assert not decide(cache, tmp_path / "c", steps=limit + 1, stages=2)
    assert decide(cache, tmp_path / "d", steps=limit, stages=4)
    assert not decide(Streamed(sparse_data(100)), tmp_path / "e", steps=10_000)


def test_residuals_are_kept_where_the_disk_has_room_for_two_and_the_choice_stays(
    cache: ActivationCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, expected in ((2 * ROWS * D * 4, True), (2 * ROWS * D * 4 - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert decide(cache, tmp_path / str(free)) is expected
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    assert decide(cache, tmp_path / str(2 * ROWS * D * 4))


def test_a_stream_cannot_keep_residuals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.residuals is cached"):
        train_run(new_run(tmp_path, methods=["boosted"], residuals="cached"), source=Streamed(sparse_data(500)))
    with pytest.raises(ValueError, match=r"training\.residuals is cached.*data\.storage"):
        RunSettings.model_validate({"data": {"storage": "stream"}, "training": {"residuals": "cached"}})


# --- costs


def test_what_is_recorded_of_costs_is_what_was_done(cache: ActivationCache, whole: Run, tmp_path: Path) -> None:
    train_flops, run_flops = 2 * D * WIDTH + 4 * 2 * D * K, 2 * D * WIDTH + 2 * D * K
    tokens, facts = STEPS * BATCH, whole.facts("train/boosted")
    assert facts["flops"] == MEMBERS * tokens * train_flops + (MEMBERS - 1) * ROWS * run_flops
    alone = train(tmp_path / "alone", cache, members=1)
    assert alone.facts("train/boosted")["flops"] == tokens * train_flops


def test_seconds_of_residuals_count_also_across_interruptions(cache: ActivationCache, tmp_path: Path) -> None:
    members = [random_sae("topk", d_in=D, seed=1).eval()]

    def stop(tick: Tick) -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            Residuals(cache, plan_of(), wanted="cached", folder=tmp_path, progress=stop).after(members)
        (tmp_path / "residual/after_1/seconds.json").write_text("1000.0")
    target = Residuals(cache, plan_of(), wanted="cached", folder=tmp_path, progress=stop).after(members)
    assert target.seconds == 1000


def test_seconds_of_a_stage_begin_with_those_of_its_residual(cache: ActivationCache, tmp_path: Path) -> None:
    """Each pass over the rows is interrupted, and said to have taken long."""
    run = new_run(tmp_path / "run", methods=["boosted"], residuals="cached")

    def stop(tick: Tick) -> None:
        if tick.stage.startswith("residual") and tick.done == ROWS:
            raise KeyboardInterrupt

    for stage in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            train_run(run, source=cache, progress=stop)
        (run.ensemble("boosted").checkpoint / f"residual/after_{stage}/seconds.json").write_text("1000.0")
    train_run(run, source=cache)
    stages = curves(run, "boosted").groupby("member")["seconds"].max()
    assert (stages > 1000).tolist() == [False, True, True]
    assert run.facts("train/boosted")["seconds"] == pytest.approx(stages.sum(), abs=2e-3)
