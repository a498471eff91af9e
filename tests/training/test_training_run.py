"""Training a run: shared members, seeds, explained variance, exact identities, curves and recorded costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
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
from sources import TensorSource, sparse_data, true_atoms
from torch import Tensor

from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.methods import BY_DEFAULT
from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import Architecture
from sae_core.sae import make_sae
from sae_core.training.curves import COLUMNS, Curves
from sae_core.training.gradients import Outcome
from sae_core.training.members import member_seed
from sae_core.training.train import train_run

RECORDED = [25, 50, 60]
SPARSE = {"sparsity": 0.1, "bandwidth": 0.1, "initial_threshold": 0.1}
"""A penalty small enough for so few steps."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("runs") / "run")


def explained(recon_BD: Tensor, acts_BD: Tensor) -> float:
    left, whole = (acts_BD - recon_BD).square().sum(), (acts_BD - acts_BD.mean(dim=0)).square().sum()
    return 1 - float(left.detach() / whole)


def long_run(path: Path, architecture: Architecture, acts_RD: Tensor, **training: object) -> Run:
    sae = {"architecture": architecture, "dead_after_tokens": 5000, **SPARSE}
    return trained(path, sae, acts_RD=acts_RD, **{"tokens": 40_000, "batch_size": 128, **training})


# --- what is shared, and what seeds decide


def test_the_single_sae_is_member_0_of_the_bagged_and_stage_1_of_the_boosted_ensemble(run: Run) -> None:
    by_name = ensembles(run)
    assert {name: len(ensemble) for name, ensemble in by_name.items()} == {
        "single": 1,
        "bagged": MEMBERS,
        "boosted": MEMBERS,
        "expanded": 1,
    }
    assert by_name["expanded"].widths == [MEMBERS * WIDTH]
    assert by_name["boosted"].wiring == "residual"
    assert by_name["bagged"].weights == [1 / MEMBERS] * MEMBERS
    for name, tensor in by_name["single"][0].state_dict().items():
        assert torch.equal(tensor, by_name["bagged"][0].state_dict()[name]), name
        assert torch.equal(tensor, by_name["boosted"][0].state_dict()[name]), name


@pytest.mark.parametrize("member_k", [None, (2, 5, 4)])
def test_the_second_expanded_sae_has_the_width_and_the_l0_of_all_members(
    tmp_path: Path, member_k: tuple[int, ...] | None
) -> None:
    run = trained(tmp_path / "run", methods=["bagged", "expanded", "expanded_l0"], member_k=member_k)
    (narrow,), (wide,) = (ensembles(run)[name] for name in ("expanded", "expanded_l0"))
    bagged = ensembles(run)["bagged"]
    assert narrow.width == wide.width == sum(bagged.widths)
    k = sum(int(member.k) for member in bagged)
    assert (narrow.k, wide.k) == (K, k)
    assert k == sum(member_k or [K] * MEMBERS)
    acts_BD = data()[:50]
    l0 = {name: int((ensemble.encode(acts_BD) != 0).sum()) for name, ensemble in ensembles(run).items()}
    assert l0["expanded"] <= K * 50 < l0["expanded_l0"] <= k * 50
    facts = run.facts("train/expanded_l0")
    assert facts["flops"] == STEPS * BATCH * (2 * D * MEMBERS * WIDTH + 4 * 2 * D * k)
    # As the same SAE trained by itself, with these settings as its own.
    alone = trained(tmp_path / "alone", sae={"width": MEMBERS * WIDTH, "k": k}, methods=["single"])
    for name, tensor in ensembles(alone)["single"][0].state_dict().items():
        assert torch.equal(tensor, wide.state_dict()[name]), name


@pytest.mark.parametrize("architecture", TRAINED)
def test_sharing_changes_nothing(architecture: Architecture, tmp_path: Path) -> None:
    """What is trained alone is bit by bit what is taken over from another method."""
    sae = {"architecture": architecture, **SPARSE}
    together = weights(trained(tmp_path / "together", sae, methods=["single", "bagged", "boosted"]))
    for method in ("single", "boosted"):
        for name, tensor in weights(trained(tmp_path / method, sae, methods=[method])).items():
            assert torch.equal(tensor, together[name]), name
    bagged = weights(trained(tmp_path / "bagged", sae, methods=["bagged"], members=2))
    for name in bagged:
        assert torch.equal(bagged[name], together[name]), f"{name} depends on how many members there are"


def test_the_same_seed_gives_the_same_run_whatever_the_global_generators(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    assert_same_training(run, trained(tmp_path / "again"))


def test_another_seed_gives_other_members(run: Run, tmp_path: Path) -> None:
    other = trained(tmp_path / "other", seed=1, methods=["bagged"])
    atoms = torch.cat([ensembles(each)["bagged"].dictionary for each in (run, other)])
    cosines = atoms @ atoms.T - 2 * torch.eye(len(atoms))
    assert cosines.max() < 0.99999, "two of six members share an atom"


def test_members_start_from_their_own_seed_and_the_mean(tmp_path: Path) -> None:
    """One step at a vanishing learning rate leaves the initial weights."""
    source = TensorSource(data())
    run = new_run(tmp_path / "run", methods=["bagged"], tokens=BATCH, learning_rate=1e-12)
    train_run(run, source=source)
    for number, member in enumerate(ensembles(run)["bagged"]):
        fresh = make_sae(run.settings.sae, D, seed=member_seed(0, number))
        torch.testing.assert_close(member.W_dec, fresh.W_dec)
        torch.testing.assert_close(member.b_dec, source.mean_D.float())


# --- what ensembles explain


@pytest.mark.parametrize("architecture", TRAINED)
def test_ensembles_explain_more_than_their_members(architecture: Architecture, tmp_path: Path) -> None:
    acts_RD = sparse_data(5000)
    train_RD, held_out_BD = acts_RD[:4000], acts_RD[4000:]
    run = long_run(tmp_path / "run", architecture, train_RD, methods=["single", "bagged", "boosted"])
    by_name = ensembles(run)
    explains = {name: explained(ensemble(held_out_BD), held_out_BD) for name, ensemble in by_name.items()}
    members = [explained(member(held_out_BD), held_out_BD) for member in by_name["bagged"]]
    assert explains["single"] == pytest.approx(members[0])
    assert min(members) > 0.5
    assert explains["bagged"] > sum(members) / len(members) + 0.01
    assert explains["boosted"] > explains["single"] + 0.05
    for stages in range(1, MEMBERS):
        fewer = explained(by_name["boosted"].first(stages)(held_out_BD), held_out_BD)
        assert fewer < explained(by_name["boosted"].first(stages + 1)(held_out_BD), held_out_BD)
    table = curves(run, "single")
    assert table["explained_variance"].iloc[-1] > table["explained_variance"].iloc[0] + 0.2
    assert table["loss"].iloc[-1] < 0.7 * table["loss"].iloc[0]
    _assert_identities(by_name, held_out_BD)


@torch.no_grad()
def _assert_identities(by_name: dict[str, Ensemble], acts_BD: Tensor) -> None:
    """Bagging's ambiguity decomposition and boosting's product of what each stage leaves, on trained ensembles."""
    bagged, boosted = by_name["bagged"], by_name["boosted"]
    whole_BD = bagged(acts_BD)
    each_JBD = torch.stack([member(acts_BD) for member in bagged])
    error = (acts_BD - whole_BD).square().sum()
    spread = (each_JBD - whole_BD).square().sum(dim=(1, 2)).mean()
    assert float(error) == pytest.approx(float((acts_BD - each_JBD).square().sum(dim=(1, 2)).mean() - spread), rel=1e-5)
    assert spread > 0.01 * error
    product, before_BD = 1.0, acts_BD
    for member in boosted:
        after_BD = before_BD - member(before_BD)
        product *= float(after_BD.square().sum() / before_BD.square().sum())
        before_BD = after_BD
    left = float((acts_BD - boosted(acts_BD)).square().mean())
    # Stages that leave next to nothing leave rounding errors of the activations too.
    assert left == pytest.approx(float(acts_BD.square().mean()) * product, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_a_known_dictionary_is_found_again(architecture: Architecture, tmp_path: Path) -> None:
    run = long_run(tmp_path / "run", architecture, sparse_data(5000), tokens=100_000, methods=["single"])
    found = _mean_best_cosine(ensembles(run)["single"].dictionary.detach())
    random = torch.randn(WIDTH, D, generator=torch.Generator().manual_seed(99))
    floor = _mean_best_cosine(random / random.norm(dim=1, keepdim=True))
    assert floor < 0.55
    assert found > 0.9


def _mean_best_cosine(atoms_ND: Tensor) -> float:
    return float((true_atoms() @ atoms_ND.T).max(dim=1).values.mean())


def test_the_scale_of_activations_does_not_matter(run: Run, tmp_path: Path) -> None:
    """A power of two bit by bit: only what carries the unit of the activations, the biases, is as much larger."""
    larger = trained(tmp_path / "larger", acts_RD=1024 * data())
    for name, tensor in weights(run).items():
        factor = 1 if name.endswith(("W_enc", "W_dec")) else 1024
        assert torch.equal(weights(larger)[name], factor * tensor), name
    for method in BY_DEFAULT:
        rows = [curves(each, method).drop(columns="seconds") for each in (run, larger)]
        pd.testing.assert_frame_equal(*rows, check_exact=True)


@pytest.mark.parametrize("architecture", TRAINED)
def test_activations_a_thousand_times_as_large_give_as_good_an_ensemble(
    architecture: Architecture, tmp_path: Path
) -> None:
    sae = {"architecture": architecture, **SPARSE}
    acts_RD, explains = data(), []
    for factor in (1, 1000):
        run = trained(tmp_path / str(factor), sae, acts_RD=factor * acts_RD, methods=["boosted"], members=2)
        explains.append(explained(ensembles(run)["boosted"](factor * acts_RD), factor * acts_RD))
    assert explains[1] == pytest.approx(explains[0], abs=0.02)


def test_bfloat16_products_train_as_well(run: Run, tmp_path: Path) -> None:
    """Through compiled loops bit by bit: there bfloat16 only rules features out. Plainly it may choose others."""
    fast, plain = (
        trained(tmp_path / kernels, precision="bfloat16", methods=["single"], kernels=kernels)
        for kernels in ("fast", "plain")
    )
    exact = weights(run)["single.members.0.W_dec"]
    assert torch.equal(weights(fast)["single.members.0.W_dec"], exact)
    assert not torch.equal(weights(plain)["single.members.0.W_dec"], exact)
    explains = [explained(ensembles(each)["single"](data()), data()) for each in (run, plain)]
    assert explains[1] == pytest.approx(explains[0], abs=0.03)


# --- what is recorded


@pytest.mark.parametrize("method", BY_DEFAULT)
def test_curves_have_a_row_for_every_member_and_recorded_step(run: Run, method: str) -> None:
    table = curves(run, method)
    members = MEMBERS if method in ("bagged", "boosted") else 1
    assert tuple(table.columns) == COLUMNS
    assert len(table) == members * len(RECORDED)
    assert not table.isna().any(axis=None)
    for number, rows in table.groupby("member"):
        assert number in range(members)
        assert rows["step"].tolist() == RECORDED
        assert rows["tokens"].tolist() == [step * BATCH for step in RECORDED]
        assert rows["seconds"].is_monotonic_increasing
        assert (rows["seconds"] > 0).all()
        assert rows["learning_rate"].tolist() == pytest.approx([3e-3, 3e-3 * 11 / 12, 3e-3 / 12])
        assert rows["l0"].between(1, K).all()
        assert rows["dead"].between(0, 1).all()
        assert rows["explained_variance"].is_monotonic_increasing


def test_curves_of_ensembles_say_what_the_whole_explains(run: Run) -> None:
    bagged, boosted, single = (curves(run, name) for name in ("bagged", "boosted", "single"))
    for _, rows in bagged.groupby("step"):
        assert (rows["explained_variance_total"] == rows["explained_variance_total"].iloc[0]).all()
        assert rows["explained_variance_total"].iloc[0] > rows["explained_variance"].mean()
    ends = boosted[boosted["step"] == STEPS]
    assert ends["explained_variance_total"].is_monotonic_increasing
    assert (single["explained_variance_total"] == single["explained_variance"]).all()
    free = ["seconds", "explained_variance_total"]
    for table in (bagged, boosted):
        first = table[table["member"] == 0].drop(columns=free).reset_index(drop=True)
        pd.testing.assert_frame_equal(first, single.drop(columns=free).reset_index(drop=True), check_exact=True)


def test_the_last_rows_of_curves_are_near_what_the_finished_ensemble_explains(run: Run) -> None:
    for name, ensemble in ensembles(run).items():
        last = curves(run, name)["explained_variance_total"].iloc[-1]
        assert last == pytest.approx(explained(ensemble(data()), data()), abs=0.03), name


@pytest.mark.parametrize("boosting", ["sequential", "pipelined"])
def test_batchtopk_is_after_a_short_training_what_it_was_in_training(boosting: str, tmp_path: Path) -> None:
    """Its one threshold keeps as many as k a token did, and what that explained, though there were only 60 batches."""
    run = trained(tmp_path, {"architecture": "batchtopk"}, methods=["single", "boosted"], boosting=boosting)
    for name, ensemble in ensembles(run).items():
        last = curves(run, name).iloc[-1]
        assert last["explained_variance_total"] == pytest.approx(explained(ensemble(data()), data()), abs=0.03), name
        left_BD = data()
        for member in ensemble.members:
            coefs_BN = member.encode(left_BD)
            assert (coefs_BN > 0).sum(dim=1).float().mean().item() == pytest.approx(K, rel=0.1), name
            left_BD = (left_BD - member.decode(coefs_BN)).detach()


def test_curves_sum_what_steps_gave() -> None:
    """Two steps of two members with round numbers; a second record starts from nothing."""
    collected = Curves(first_member=4, members=2)
    acts = [torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[5.0, 0.0], [7.0, 4.0]])]

    def outcome(loss: float, error: float, active: int) -> Outcome:
        nothing = torch.zeros(0)
        return Outcome({}, nothing, torch.tensor(loss), torch.tensor(error), torch.tensor(active), nothing)

    # Σ‖a − mean‖² is 20 + 12; the targets are half as large, so a quarter of that.
    collected.add(acts[0], [acts[0] / 2], [torch.tensor(3.0)], [outcome(1, 0.5, 3), outcome(2, 1, 4)])
    collected.add(acts[1], [acts[1] / 2], [torch.tensor(5.0)], [outcome(3, 1.5, 5), outcome(4, 3, 8)])
    rows = collected.record(step=2, tokens=4, seconds=0.5, dead=[0.25, 0.5], learning_rates=[1e-3, 2e-3])
    assert rows == [
        [4.0, 2, 4, 0.5, 2.0, 1 - 2 / 8, 1 - 8 / 32, 2.0, 0.25, 1e-3],
        [5.0, 2, 4, 0.5, 3.0, 1 - 4 / 8, 1 - 8 / 32, 3.0, 0.5, 2e-3],
    ]
    collected.add(acts[1], [acts[1]], [torch.tensor(0.0)], [outcome(7, 0, 2), outcome(7, 10, 2)])
    collected.record(step=3, tokens=6, seconds=0.7, dead=[0.0, 0.0], learning_rates=[1e-4, 1e-4])
    table = collected.table()
    assert table["loss"].tolist() == [2.0, 3.0, 7.0, 7.0]
    assert table["explained_variance"].tolist() == [0.75, 0.5, 1.0, 0.0]
    assert table["l0"].tolist() == [2.0, 3.0, 1.0, 1.0]
    assert [str(table.dtypes[name]) for name in ("member", "step", "tokens")] == ["int32", "int64", "int64"]


def test_what_is_recorded_of_costs(run: Run) -> None:
    tokens, parameters = STEPS * BATCH, 2 * D * WIDTH + WIDTH + D
    # Dense encoder, then decoder and three gradients over k entries each, two operations a multiplication.
    train, infer = 2 * D * WIDTH + 4 * 2 * D * K, 2 * D * WIDTH + 2 * D * K
    wide = 2 * D * MEMBERS * WIDTH + 4 * 2 * D * K
    flops = {"single": train, "bagged": MEMBERS * train, "boosted": MEMBERS * train + 3 * infer, "expanded": wide}
    for method in BY_DEFAULT:
        facts = run.facts(f"train/{method}")
        assert facts["tokens"] == tokens
        assert facts["steps"] == STEPS
        assert facts["flops"] == tokens * flops[method], method
        assert facts["device"] == "cpu"
        assert facts["peak_memory_bytes"] > 50e6
        assert not run.ensemble(method).checkpoint.exists()
    assert run.facts("train/single")["parameters"] == parameters
    assert run.facts("train/bagged")["parameters"] == run.facts("train/boosted")["parameters"] == 3 * parameters
    assert run.facts("train/expanded")["parameters"] == 2 * D * 3 * WIDTH + 3 * WIDTH + D


def test_seconds_of_shared_members_count_in_full_and_are_named(run: Run) -> None:
    facts = {method: run.facts(f"train/{method}") for method in BY_DEFAULT}
    share = facts["bagged"]["seconds"] / MEMBERS
    assert facts["bagged"]["shared_seconds"] == facts["expanded"]["shared_seconds"] == 0
    for method in ("single", "boosted"):
        assert facts[method]["shared_seconds"] == pytest.approx(share, abs=2e-3)
    assert facts["single"]["seconds"] == facts["single"]["shared_seconds"]
    stages = curves(run, "boosted").groupby("member")["seconds"].max()
    assert stages[0] == pytest.approx(share, abs=2e-3)
    assert facts["boosted"]["seconds"] == pytest.approx(stages.sum(), abs=2e-3)


def test_progress_is_told_every_stage_to_its_end(tmp_path: Path) -> None:
    ticks: list[Tick] = []
    train_run(new_run(tmp_path / "run"), source=TensorSource(data()), progress=ticks.append)
    labels = list(dict.fromkeys(tick.stage for tick in ticks))
    assert labels == ["train bagged", *(f"train boosted, stage {stage} of 3" for stage in (2, 3)), "train expanded"]
    tokens = STEPS * BATCH
    done = {label: [tick.done for tick in ticks if tick.stage == label] for label in labels}
    assert done["train bagged"] == [step * BATCH for step in RECORDED]
    assert done["train boosted, stage 3 of 3"] == [2 * tokens + step * BATCH for step in RECORDED]
    assert {tick.total for tick in ticks} == {tokens, 3 * tokens}
    for tick in ticks:
        assert tick.unit == "tokens"
        assert 0 < tick.figures["explained variance"] < 1
        assert 1 <= tick.figures["L0"] <= K


def test_what_is_finished_is_not_trained_again(run: Run) -> None:
    source = TensorSource(data())
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    train_run(run, source=source)
    assert source.handed_out == 0
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()} == before


def test_a_batch_is_no_larger_than_the_source(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", acts_RD=data()[:70], methods=["single"], tokens=700)
    assert (run.facts("train/single")["steps"], run.facts("train/single")["tokens"]) == (10, 700)


def test_fewer_tokens_than_a_batch_are_one_step(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", tokens=1)
    assert {run.facts(f"train/{method}")["steps"] for method in BY_DEFAULT} == {1}
    assert all(tensor.isfinite().all() for tensor in weights(run).values())
