"""Pipelined boosting: stages learn each other's detached residuals, and training continues bit by bit."""

from __future__ import annotations

import contextlib
from itertools import islice
from pathlib import Path

import pytest
import torch
from random_saes import TRAINED
from small_runs import (
    BATCH,
    MEMBERS,
    STEPS,
    WIDTH,
    D,
    K,
    assert_same_training,
    curves,
    data,
    ensembles,
    new_run,
    trained,
    weights,
)
from sources import TensorSource, sparse_data

from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import Architecture, SAESettings, TrainingSettings
from sae_core.sae import make_sae
from sae_core.training import prefetch
from sae_core.training.pipelined import MOMENTUM, Pipeline
from sae_core.training.step import Trainer
from sae_core.training.train import train_run

SPARSE = {"sparsity": 0.1, "bandwidth": 0.1, "initial_threshold": 0.1}
METHODS = ["single", "boosted"]


@pytest.fixture(autouse=True)
def _batches_are_made_when_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is certain how many were made."""
    monkeypatch.setattr(prefetch, "AHEAD", 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("runs") / "run", methods=METHODS, boosting="pipelined")


def make_trainers(count: int) -> list[Trainer]:
    settings = SAESettings(width=WIDTH, k=K)
    return [Trainer(make_sae(settings, D, seed=seed), settings, TrainingSettings(), steps=20) for seed in range(count)]


@pytest.mark.parametrize("architecture", TRAINED)
def test_the_whole_explains_more_than_stage_1_which_is_the_single_sae(
    architecture: Architecture, tmp_path: Path
) -> None:
    """Bit by bit the single SAE; and what is left is the product of the shares that the stages leave."""
    sae, acts_RD = {"architecture": architecture, **SPARSE}, sparse_data(3000)
    run = trained(tmp_path, sae, acts_RD=acts_RD, methods=METHODS, boosting="pipelined", tokens=20_000)
    by_name = ensembles(run)
    assert (len(by_name["boosted"]), by_name["boosted"].wiring) == (MEMBERS, "residual")
    for name, tensor in by_name["single"][0].state_dict().items():
        assert torch.equal(tensor, by_name["boosted"][0].state_dict()[name]), name
    with torch.no_grad():
        spread = (acts_RD - acts_RD.mean(dim=0)).square().sum()
        explains = [
            1 - float((acts_RD - ensemble(acts_RD)).square().sum() / spread)
            for ensemble in (by_name["single"], *(by_name["boosted"].first(count) for count in (2, 3)))
        ]
        assert explains[0] + 0.02 < explains[1] < explains[2] < 1
        left_RD, product = acts_RD, 1.0
        for member in by_name["boosted"]:
            after_RD = left_RD - member(left_RD)
            product *= float(after_RD.square().sum() / left_RD.square().sum())
            left_RD = after_RD
        whole_RD = acts_RD - by_name["boosted"](acts_RD)
        assert float(whole_RD.square().sum()) == pytest.approx(product * float(acts_RD.square().sum()), rel=1e-4)
        coefs_RM = by_name["boosted"].encode(acts_RD)
        torch.testing.assert_close(acts_RD - by_name["boosted"].decode(coefs_RM), whole_RD, rtol=1e-4, atol=1e-4)
    last = curves(run, "boosted")["explained_variance_total"].iloc[-1]
    assert last == pytest.approx(explains[2], abs=0.05)


def test_no_gradient_reaches_an_earlier_stage() -> None:
    """The first two of three stages are bit by bit what they are without the third, and without a graph."""
    alone, together = make_trainers(2), make_trainers(3)
    pipelines = [Pipeline(0.2, count, moving_steps=10, device=torch.device("cpu")) for count in (2, 3)]
    for acts_BD in islice(TensorSource(data()).batches(batch_size=BATCH, seed=0), 20):
        pipelines[0].step(alone, acts_BD)
        targets, errors, outcomes = pipelines[1].step(together, acts_BD)
        assert not any(tensor.requires_grad for tensor in (*targets, *errors))
        assert len(outcomes) == 3
    for one, two in zip(alone, together, strict=False):
        for name, tensor in one.sae.state_dict().items():
            assert torch.equal(tensor, two.sae.state_dict()[name]), name


def test_targets_and_scales_are_those_computed_by_hand() -> None:
    trainers, twins = make_trainers(2), make_trainers(2)
    pipeline = Pipeline(0.2, 2, moving_steps=10, device=torch.device("cpu"))
    mean_square = 0.0
    for step, acts_BD in enumerate(islice(TensorSource(data()).batches(batch_size=BATCH, seed=0), 20)):
        targets, errors, _ = pipeline.step(trainers, acts_BD)
        left_BD = acts_BD - twins[0].step(0.2 * acts_BD).recon_BD.detach() / 0.2
        now = float(left_BD.double().square().mean())
        if step < 10:
            mean_square = MOMENTUM * mean_square + (1 - MOMENTUM) * now if step else now
        scale = mean_square**-0.5
        torch.testing.assert_close(targets[0], 0.2 * acts_BD)
        torch.testing.assert_close(targets[1], left_BD * scale, rtol=1e-4, atol=1e-4)
        assert float(errors[0]) == pytest.approx(float(left_BD.square().sum()), rel=1e-4)
        twins[1].step(targets[1])
        assert pipeline.scales() == pytest.approx([0.2, scale], rel=1e-4)


@pytest.mark.parametrize("kernels", ["plain", "fast"])
def test_a_run_that_is_stopped_after_every_report_is_the_same_run(kernels: str, tmp_path: Path) -> None:
    options = {"methods": ["boosted"], "boosting": "pipelined", "kernels": kernels}
    unbroken = trained(tmp_path / "whole", **options)
    run, source, stops = new_run(tmp_path / "run", **options), TensorSource(data()), []

    def stop(tick: Tick) -> None:
        stops.append(tick)
        raise KeyboardInterrupt

    while not run.is_finished("train/boosted"):
        with contextlib.suppress(KeyboardInterrupt):
            train_run(run, source=source, progress=stop, checkpoint_seconds=1e9)
    assert [(tick.stage, tick.done, tick.total) for tick in stops] == [
        ("train boosted", step * BATCH, STEPS * BATCH) for step in (25, 50, 60)
    ]
    assert source.handed_out == STEPS
    assert_same_training(run, unbroken)


def test_what_is_recorded_of_a_pipeline(run: Run) -> None:
    """A row for each stage; nothing but its own training is counted for a stage, and nothing is shared."""
    table, facts = curves(run, "boosted"), run.facts("train/boosted")
    assert table["step"].tolist() == [step for step in (25, 50, 60) for _ in range(MEMBERS)]
    for _, rows in table.groupby("step"):
        assert rows["explained_variance_total"].is_monotonic_increasing
    first = table[table["member"] == 0]
    assert first["explained_variance_total"].tolist() == pytest.approx(first["explained_variance"].tolist(), abs=1e-5)
    assert facts["flops"] == MEMBERS * STEPS * BATCH * (2 * D * WIDTH + 4 * 2 * D * K)
    assert facts["shared_seconds"] == 0
    assert facts["seconds"] == pytest.approx(table["seconds"].max(), abs=1e-3)


def test_the_scale_of_activations_does_not_matter(run: Run, tmp_path: Path) -> None:
    larger = trained(tmp_path, acts_RD=1024 * data(), methods=METHODS, boosting="pipelined")
    for name, tensor in weights(run).items():
        factor = 1 if name.endswith(("W_enc", "W_dec")) else 1024
        torch.testing.assert_close(weights(larger)[name], factor * tensor, rtol=1e-4, atol=1e-4 * factor)


def test_one_stage_is_the_single_sae(tmp_path: Path) -> None:
    run = trained(tmp_path, methods=METHODS, boosting="pipelined", members=1)
    for name, tensor in ensembles(run)["boosted"].state_dict().items():
        assert torch.equal(tensor, ensembles(run)["single"].state_dict()[name]), name
