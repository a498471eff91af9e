"""Several processes train the same as one: bit by bit with spread members, up to rounding with split batches."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from random_saes import TRAINED
from small_runs import BATCH, STEPS, WIDTH, D, curves, data, new_run, trained, weights
from sources import TensorSource
from together import in_processes, train

from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import Architecture, RunSettings
from sae_core.sae import BatchTopKSAE, make_sae
from sae_core.training.distribution import Split, part_of
from sae_core.training.gradients import compute
from sae_core.training.processes import joined, share
from sae_core.training.train import train_run

KILLED, STOPPED = signal.SIGKILL, signal.SIGINT


def assert_spread_as_alone(run: Run, alone: Run) -> None:
    """Check that weights are equal bit by bit, and curves too, but for the seconds and what all explain together."""
    one, two = weights(run), weights(alone)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
    free = ["seconds", "explained_variance_total"]
    tables = [curves(each, "bagged") for each in (run, alone)]
    pd.testing.assert_frame_equal(*(table.drop(columns=free) for table in tables), check_exact=True)
    totals = [table["explained_variance_total"].tolist() for table in tables]
    assert totals[0] == pytest.approx(totals[1], abs=1e-5, nan_ok=True)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (2, {"members": 3, "kernels": "fast", "member_k": (3, 5, 2)}),
        pytest.param(2, {"members": 3, "kernels": "plain"}, marks=pytest.mark.slow),
        pytest.param(2, {"members": 4, "group": 2}, marks=pytest.mark.slow),
        pytest.param(4, {"members": 5}, marks=pytest.mark.slow),
    ],
)
def test_spread_members_are_those_of_one_process(size: int, options: dict[str, Any], tmp_path: Path) -> None:
    alone = trained(tmp_path / "alone", methods=["bagged"], **options)
    run = new_run(tmp_path / "run", methods=["bagged"], **options)
    passes = 2 if "group" in options else 1
    # The first one reads the batches for all.
    assert in_processes(size, train, run.path) == {
        rank: ("trained", 0 if rank else passes * STEPS) for rank in range(size)
    }
    assert_spread_as_alone(run, alone)
    facts = run.facts("train/bagged")
    assert facts["processes"] == size
    assert facts["side_by_side"] == -(-options.get("group", options["members"]) // size)
    assert alone.facts("train/bagged")["flops"] == facts["flops"]
    assert not run.ensemble("bagged").checkpoint.exists()


def _differences(rank: int, architecture: Architecture) -> dict[str, float]:
    """How far gradients of split batches are from those of whole ones, beside the largest entry, over five steps."""
    settings = RunSettings.model_validate(
        {"sae": {"architecture": architecture, "k": 3, "sparsity": 0.1, "bandwidth": 0.1, "initial_threshold": 0.1}}
    ).sae
    options = {"sparsity": 0.1, "aux_coefficient": 1 / 32}
    split_sae, whole_sae = (make_sae(settings, D, width=WIDTH, seed=1).train() for _ in range(2))
    acts, dead_M, worst = data() * 0.2, torch.arange(5, 25), dict[str, float]()
    with joined() as processes:
        processes.place("cpu")
        part = part_of(range(1), processes, batch_size=101)
        if isinstance(split_sae, BatchTopKSAE):
            assert isinstance(part, Split)
            split_sae.others = part
        for start in range(0, 505, 101):
            x_BD = acts[start : start + 101]
            split = part.combine(compute(split_sae, part.rows(x_BD), dead_M, **options))
            whole = compute(whole_sae, x_BD, dead_M, **options)
            for name, gradient in whole.gradients.items():
                far = float((gradient - split.gradients[name]).abs().max() / gradient.abs().max().clamp_min(1e-30))
                worst[name] = max(worst.get(name, 0.0), far)
            assert torch.equal(split.fired_N, whole.fired_N)
            for name in ("loss", "squared_error", "active"):
                total, expected = part.sum_rows(getattr(split, name)), getattr(whole, name)
                torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-6)
            if isinstance(split_sae, BatchTopKSAE) and isinstance(whole_sae, BatchTopKSAE):
                torch.testing.assert_close(split_sae.threshold, whole_sae.threshold)
    return worst


def _kept_among_ties(rank: int) -> list[list[int]]:
    """What of a batch with few different preactivations, 101 rows of 8 features, the rows of this process keep."""
    sae = BatchTopKSAE(4, 8, k=3).train()
    pre_BN = torch.randint(0, 4, (101, 8), generator=torch.Generator().manual_seed(3)).float()
    with joined() as processes:
        processes.place("cpu")
        part = part_of(range(1), processes, batch_size=101)
        assert isinstance(part, Split)
        sae.others = part
        code = sae.sparse_code(part.rows(pre_BN))
    assert torch.equal(code.values_E, part.rows(pre_BN)[code.rows_E, code.features_E])
    kept = torch.bincount(code.values_E.long(), minlength=4)
    return [kept.tolist(), torch.bincount(pre_BN.flatten().long(), minlength=4).tolist()]


def test_a_split_batch_keeps_as_many_as_a_whole_one_where_values_are_equal() -> None:
    """All of the largest, and of those that equal the smallest kept as many as fill the number."""
    results = in_processes(3, _kept_among_ties)
    there = results[0][1]
    wanted = 3 * 101
    kept = [sum(results[rank][0][value] for rank in range(3)) for value in range(4)]
    assert there[3] < wanted < there[2] + there[3]
    assert kept == [0, 0, wanted - there[3], there[3]]


@pytest.mark.parametrize("architecture", TRAINED)
def test_gradients_of_split_batches_are_those_of_whole_ones(architecture: Architecture) -> None:
    """Of 101 rows one process has 50 and the other 51; some features are dead and helped."""
    results = in_processes(2, _differences, architecture)
    for rank in (0, 1):
        assert {"W_enc", "W_dec", "b_enc", "b_dec"} <= set(results[rank]), results[rank]
        assert max(results[rank].values()) < 1e-5, results[rank]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TRAINED)
def test_split_batches_train_what_whole_ones_do(architecture: Architecture, tmp_path: Path) -> None:
    """Rows are shared out unevenly; from step 25 on features are dead and helped."""
    sae = {"architecture": architecture, "sparsity": 0.1, "bandwidth": 0.1, "initial_threshold": 0.1}
    options: dict[str, Any] = {"methods": ["expanded"], "batch_size": 101, "tokens": 40 * 101}
    alone = trained(tmp_path / "alone", sae, kernels="plain", **options)
    run = new_run(tmp_path / "run", sae, **options)
    assert set(in_processes(2, train, run.path)) == {0, 1}
    _assert_close(run, alone)


def _assert_close(run: Run, alone: Run, *, atol: float = 1e-3) -> None:
    """Over 30 or 40 steps of 3e-3 each. A rounding error may decide which of two near features is kept."""
    two = weights(alone)
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, two[name], rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
    for folder in run.ensembles():
        tables = [curves(each, folder.name).drop(columns="seconds") for each in (run, alone)]
        pd.testing.assert_frame_equal(*tables, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("boosting", ["sequential", "pipelined"])
def test_every_method_trains_in_more_processes_than_it_has_members(boosting: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"boosting": boosting, "members": 3, "tokens": 30 * BATCH}
    alone = trained(tmp_path / "alone", kernels="plain", **options)
    run = new_run(tmp_path / "run", **options)
    assert set(in_processes(4, train, run.path)) == {0, 1, 2, 3}
    _assert_close(run, alone)
    assert {run.facts(f"train/{name}")["processes"] for name in ("single", "bagged", "boosted", "expanded")} == {4}


@pytest.mark.slow
def test_kept_residuals_are_made_once_and_read_by_all(tmp_path: Path) -> None:
    options: dict[str, Any] = {"methods": ["boosted"], "residuals": "cached", "members": 2, "tokens": 30 * BATCH}
    alone, run = (new_run(tmp_path / name, kernels="plain", **options) for name in ("alone", "run"))
    assert train(0, alone.path, (0, 0, STOPPED))[0] == "trained"
    results = in_processes(2, train, run.path, (0, 0, STOPPED))
    assert results == {0: ("trained", 30), 1: ("trained", 30)}  # stage 2 reads the residual
    _assert_close(run, alone)


# --- interruptions


@pytest.mark.slow
def test_what_was_killed_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """Two processes, one killed in step 40; four, one killed in step 55; then one that finishes."""
    options: dict[str, Any] = {"methods": ["bagged"], "members": 4}
    run = new_run(tmp_path / "run", **options)
    checkpoint = run.ensemble("bagged").checkpoint
    survivors = in_processes(2, train, run.path, (1, 40, KILLED))
    assert set(survivors) == {0}
    assert survivors[0][0] not in ("trained", "UserError")
    assert len(list(checkpoint.glob("stage_00-000000025-*.safetensors"))) == 2
    assert 3 not in in_processes(4, train, run.path, (3, 30, KILLED))
    assert sorted(file.name for file in checkpoint.glob("stage_00*")) == [
        *(f"stage_00-000000050-{rank:03d}.safetensors" for rank in range(4)),
        "stage_00.json",
    ]
    source = TensorSource(data())
    train_run(run, source=source)
    assert source.handed_out == STEPS - 50
    assert_spread_as_alone(run, trained(tmp_path / "whole", **options))


@pytest.mark.slow
def test_ctrl_c_in_one_process_stops_all_after_a_checkpoint(tmp_path: Path) -> None:
    options: dict[str, Any] = {"methods": ["bagged"], "members": 3}
    run = new_run(tmp_path / "run", **options)
    results = in_processes(2, train, run.path, (1, 30, STOPPED))
    assert {result[0] for result in results.values()} == {"KeyboardInterrupt"}
    assert len(list(run.ensemble("bagged").checkpoint.glob("stage_00-000000050-*.safetensors"))) == 2
    assert set(in_processes(3, train, run.path).values()) == {("trained", STEPS - 50), ("trained", 0)}
    assert_spread_as_alone(run, trained(tmp_path / "whole", **options))


@pytest.mark.slow
def test_a_checkpoint_of_one_process_is_gone_on_with_by_two(tmp_path: Path) -> None:
    options: dict[str, Any] = {"methods": ["bagged"], "members": 3}
    run = new_run(tmp_path / "run", **options)
    with pytest.raises(KeyboardInterrupt):
        train(0, run.path, (0, 20, STOPPED))
    assert (run.ensemble("bagged").checkpoint / "stage_00.safetensors").exists()
    assert in_processes(2, train, run.path)[0] == ("trained", STEPS - 25)
    assert_spread_as_alone(run, trained(tmp_path / "whole", **options))


@pytest.mark.slow
def test_split_training_goes_on_in_one_process(tmp_path: Path) -> None:
    """All processes have the same state, so that there is one file; the counts of dead features are in it."""
    options: dict[str, Any] = {"methods": ["expanded"], "kernels": "plain"}
    run = new_run(tmp_path / "run", **options)
    results = in_processes(2, train, run.path, (0, 30, STOPPED))
    assert {result[0] for result in results.values()} == {"KeyboardInterrupt"}
    assert [file.name for file in run.ensemble("expanded").checkpoint.iterdir()] == ["stage_00.safetensors"]
    assert train(0, run.path) == ("trained", STEPS - 50)
    _assert_close(run, trained(tmp_path / "whole", **options))


# --- refusals


def _refused(rank: int, paths: list[Path]) -> None:
    with joined() as processes:
        processes.require_same_folder(paths[rank], seconds=0.3)


def test_processes_that_do_not_see_the_same_folder_refuse(tmp_path: Path) -> None:
    """The first one says it, the other is silent; no file stays behind."""
    paths = [tmp_path / "here", tmp_path / "there"]
    for path in paths:
        path.mkdir()
    results = in_processes(2, _refused, paths)
    assert (results[0][0], results[1][0]) == ("UserError", "ElsewhereError")
    assert results[0][1].startswith(f"{paths[0]} is not the same folder for all processes; ")
    assert in_processes(2, _refused, [paths[0]] * 2) == {0: None, 1: None}
    assert not any(file for path in paths for file in path.iterdir())


@pytest.mark.slow
def test_what_fails_in_one_process_stops_all_and_is_said_once(tmp_path: Path) -> None:
    """The checkpoint is damaged where the second process reads it."""
    run = new_run(tmp_path / "run", methods=["bagged"], members=2)
    in_processes(2, train, run.path, (1, 30, STOPPED))
    (damaged,) = run.ensemble("bagged").checkpoint.glob("*-001.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:100])
    results = in_processes(2, train, run.path)
    assert results[1][0] == "UserError"
    assert f"{damaged} is damaged" in results[1][1]
    assert results[0] == ("ElsewhereError", "Process 1 could not go on.")
    damaged.unlink()
    assert in_processes(2, train, run.path)[0] == ("trained", STEPS)
    assert run.is_finished("train/bagged")


def test_a_batch_smaller_than_the_processes_is_refused(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", methods=["expanded"], batch_size=1, tokens=30)
    results = in_processes(2, train, run.path)
    assert results[0][0] == "UserError"
    assert "batch of 1 cannot be split over 2 processes" in results[0][1]
    assert results[1][0] == "ElsewhereError"


def test_every_number_is_shared_out_once_and_evenly() -> None:
    for count, size in ((1, 1), (5, 2), (8, 3), (100, 7), (3, 3)):
        shares = [share(range(10, 10 + count), rank, size) for rank in range(size)]
        assert [number for part in shares for number in part] == list(range(10, 10 + count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
