"""Scores on a known truth against plain float64 loops, including cases in which such scores often go wrong."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import call, refused
from scipy import sparse, stats
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae_core.activations.origins.known.dictionary import KnownActivations, KnownDictionary, make_dictionary
from sae_core.analysis.shared.names_in_tables import COVERED
from sae_core.analysis.shared.random_twin import random_stages, random_twin
from sae_core.analysis.shared.seeds import difference, mean_interval, over_seeds
from sae_core.analysis.summary import as_text as summary
from sae_core.analysis.summary import summarize
from sae_core.analysis.truth.files import read_truth, recall_cap
from sae_core.analysis.truth.firing import detect_features, latent_figures
from sae_core.analysis.truth.matching import (
    distinct_atoms,
    frequency_bins,
    matched_cosines,
    matched_one_to_one,
    mcc,
    nearness,
)
from sae_core.analysis.truth.over_seeds import as_text, differences_as_text
from sae_core.analysis.truth.scores import COLUMNS, measure_truth
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.files.whole_files import read_json, read_table, write_json
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import TruthSettings
from sae_core.sae import JumpReLUSAE, TopKSAE
from sae_core.sae.formats.saelens import save_sae

F, D, ROWS = 24, 16, 3000
SETTINGS = TruthSettings(
    features=F, dimension=D, active=2.0, topics=2, children=0.2, noise=0.0, offset=0.0, magnitudes=0.0
)


def atoms(count: int, d: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed))


def cosines(one: Tensor, other: Tensor) -> np.ndarray:
    one, other = one.double(), other.double()
    return ((one / one.norm(dim=1, keepdim=True)) @ (other / other.norm(dim=1, keepdim=True)).T).abs().numpy()


def most_pairs(near: np.ndarray) -> int:
    """The largest number of pairs of a one-to-one matching, by trying all orders of the columns."""
    if near.shape[0] > near.shape[1]:
        near = near.T
    rows = range(near.shape[0])
    return max(int(near[rows, order].sum()) for order in itertools.permutations(range(near.shape[1]), len(rows)))


@pytest.mark.parametrize("block", [3, 4096])
def test_nearness_and_mcc_match_float64(block: int) -> None:
    truth, learnt = atoms(9), atoms(14, seed=1) * 3
    cosine = cosines(truth, learnt)
    near = nearness(truth, learnt, threshold=0.6, block=block)
    np.testing.assert_allclose(near.cosine_F, cosine.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(near.cosine_M, cosine.max(axis=0), atol=1e-6)
    np.testing.assert_array_equal(near.atom_F, cosine.argmax(axis=1))
    np.testing.assert_array_equal(near.feature_M, cosine.argmax(axis=0))
    np.testing.assert_array_equal(near.near_FM.toarray(), cosine >= 0.6)
    rows, columns = linear_sum_assignment(cosine, maximize=True)
    matched = matched_cosines(truth, learnt)
    np.testing.assert_allclose(matched[rows], cosine[rows, columns], atol=1e-6)
    assert np.isnan(np.delete(matched, rows)).all()
    matched = matched_cosines(learnt, truth)
    assert np.nanmean(matched) == pytest.approx(cosine[rows, columns].mean(), abs=1e-6)
    assert np.flatnonzero(np.isnan(matched)).tolist() == [j for j in range(14) if j not in columns]


@pytest.mark.parametrize("seed", range(6))
def test_as_many_true_features_as_possible_get_an_atom_of_their_own(seed: int) -> None:
    near = np.random.default_rng(seed).random((5, 6)) < 0.3
    assert matched_one_to_one(sparse.csr_array(near)).sum() == most_pairs(near)
    assert matched_one_to_one(sparse.csr_array(near.T)).sum() == most_pairs(near)


def test_copies_of_an_atom_find_one_feature_and_a_sign_means_nothing() -> None:
    truth = torch.eye(4)
    copies = torch.cat([truth[:1]] * 5 + [-2 * truth[1:2], torch.zeros(1, 4)])
    near = nearness(truth, copies)
    assert matched_one_to_one(near.near_FM).tolist() == [True, True, False, False]
    assert near.cosine_F.tolist() == [1, 1, 0, 0]
    # An atom between two features is near both, and finds one of them.
    twins = torch.tensor([[1.0, 0.3], [1.0, -0.3]])
    near = nearness(twins, torch.tensor([[1.0, 0.0]]))
    assert near.near_FM.toarray().tolist() == [[True], [True]]
    assert matched_one_to_one(near.near_FM).sum() == 1
    assert not matched_one_to_one(nearness(truth, torch.zeros(3, 4)).near_FM).any()


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_deduplication_matches_a_double_loop(block: int) -> None:
    some = atoms(60, d=3)
    like, kept = cosines(some, some) >= 0.9, []
    for i in range(60):
        if not any(like[i, j] for j in kept):
            kept.append(i)
    assert 5 < len(kept) < 50
    np.testing.assert_array_equal(distinct_atoms(some, block=block), kept)
    assert distinct_atoms(torch.cat([torch.eye(3), -torch.eye(3)])).tolist() == [0, 1, 2]


def test_frequency_bins_hold_every_feature_once() -> None:
    probability = np.array([0.3, 0.1, 0.05, 0.01, 0.0099, 5e-5, 1.0])
    bins = list(frequency_bins(probability))
    assert [(low, high) for low, high, _ in bins] == [(0.1, 1.0), (0.01, 0.1), (0.001, 0.01), (0.0, 0.0001)]
    assert np.sum([members for *_, members in bins], axis=0).tolist() == [1] * 7
    assert bins[0][2].tolist() == [True, True, False, False, False, False, True]


def plain_f1(fires: np.ndarray, called: np.ndarray) -> float:
    hits = float((fires & called).sum())
    total = float(fires.sum() + called.sum())
    return 2 * hits / total if total else 0.0


def firing(features: int, latents: int, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random firing in which latents follow features with errors; the last feature and the last latent never fire."""
    chance = np.random.default_rng(seed)
    truth = chance.random((rows, features)) < 0.15
    follows = truth[:, chance.integers(features, size=latents)]
    learnt = np.where(chance.random((rows, latents)) < 0.2, chance.random((rows, latents)) < 0.15, follows)
    truth[:, -1], learnt[:, -1] = False, False
    return truth, learnt


@pytest.mark.parametrize("block", [1, 4, 128])
def test_the_best_latent_is_chosen_on_one_half_and_measured_on_the_other(block: int) -> None:
    truth, learnt = firing(7, 11, 301)
    found = detect_features(sparse.csr_array(truth), sparse.csr_array(learnt * 0.5), block=block)
    for i in range(6):
        on_first = [plain_f1(truth[:150, i], learnt[:150, j]) for j in range(11)]
        assert found.latent_F[i] == int(np.argmax(on_first))
        expected = plain_f1(truth[150:, i], learnt[150:, found.latent_F[i]])
        assert found.f1_F[i] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(found.f1_F[6])
    assert found.latent_F[6] == -1


def test_many_latents_that_know_nothing_do_not_look_good() -> None:
    chance = np.random.default_rng(0)
    truth, learnt = chance.random((400, 40)) < 0.02, chance.random((400, 2000)) < 0.02
    found = detect_features(sparse.csr_array(truth), sparse.csr_array(learnt))
    best = [max(plain_f1(truth[:, i], learnt[:, j]) for j in range(2000)) for i in range(3)]
    assert np.mean(best) > 0.25  # on the same activations the best of many looks like something
    assert np.mean(found.f1_F) < 0.1


def test_a_feature_that_no_latent_meets_counts_as_missed_and_stored_zeros_do_not_fire() -> None:
    truth = sparse.csr_array(np.tile([[1.0, 0.0], [0.0, 1.0]], (4, 1)))
    stored = sparse.csr_array((np.array([1.0] * 4 + [0.0] * 4), np.zeros(8, int), np.arange(9)), shape=(8, 1))
    found = detect_features(truth, stored)
    # The latent fires on the first four activations: on the first half, and never on the second.
    assert found.f1_F.tolist() == [0.0, 0.0]
    nothing = detect_features(truth, sparse.csr_array((8, 3)))
    assert nothing.f1_F.tolist() == [0.0, 0.0]
    assert nothing.latent_F.tolist() == [-1, -1]


@pytest.mark.parametrize("block", [2, 4096])
def test_latent_figures_match_plain_loops(block: int) -> None:
    truth, learnt = firing(7, 11, 300, seed=2)
    nearest = np.random.default_rng(1).integers(7, size=11)
    expected = []
    for j in range(11):
        fires, called = truth[:, nearest[j]], learnt[:, j]
        hits = float((fires & called).sum())
        precision = hits / called.sum() if called.any() else 0.0
        recall = hits / fires.sum() if fires.any() else 0.0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        expected.append((precision, recall, f1, float((fires == called).mean())))
    measured = latent_figures(sparse.csr_array(truth), sparse.csr_array(learnt), nearest, block=block)
    assert list(measured.values()) == pytest.approx(np.mean(expected, axis=0).tolist(), abs=1e-12)


@pytest.fixture(scope="module")
def known() -> KnownActivations:
    return KnownActivations(make_dictionary(SETTINGS, 0), seed=0, part="evaluation")


def detector(dictionary: KnownDictionary, features: list[int], seed: int = 0) -> JumpReLUSAE:
    """An SAE whose atoms are true and which encodes by the pseudo-inverse, with a threshold."""
    sae = JumpReLUSAE(D, len(features), seed=seed, threshold=0.3)
    with torch.no_grad():
        sae.W_dec.copy_(dictionary.atoms_FD[features])
        sae.W_enc.copy_(torch.linalg.pinv(dictionary.atoms_FD[features]))
    return sae.eval()


def test_true_atoms_score_in_full_and_copies_of_them_lose_no_precision(known: KnownActivations) -> None:
    dictionary = known.dictionary
    first, all_of_it = list(range(12)), list(range(F))
    ensembles = {
        "single": Ensemble([detector(dictionary, first)], wiring="parallel"),
        "bagged": Ensemble([detector(dictionary, first)] * 3, wiring="parallel"),
        "expanded": Ensemble([detector(dictionary, all_of_it)], wiring="parallel"),
    }
    facts, table = measure_truth(ensembles, known, ROWS, bootstrap=10)
    scores = facts["ensembles"]
    assert scores["single"]["recall"] == scores["bagged"]["recall"] == 0.5
    assert scores["expanded"]["recall"] == 1.0
    assert all(score["precision"] == 1.0 for score in scores.values())
    assert (scores["single"]["deduplicated"], scores["bagged"]["deduplicated"]) == (12, 12)
    # Twelve atoms that are all true find half of the features: the others count as 0, and no more was possible.
    assert scores["single"]["mcc"] == pytest.approx(0.5, abs=1e-6)
    assert scores["expanded"]["mcc"] == pytest.approx(1, abs=1e-6)
    assert [scores[name]["recall_cap"] for name in ("single", "bagged", "expanded")] == [0.5, 1.0, 1.0]
    # Copies have to be matched with features that they are not.
    assert 0.5 < scores["bagged"]["mcc"] < 0.9
    assert scores["bagged"]["uniqueness"] == pytest.approx(1 / 3)
    for score in scores.values():
        assert score["random"]["recall"] == score["random"]["precision"] == 0
        assert score["random"]["mcc"] < score["mcc"]
        assert score["random"]["f1"] < score["f1"]
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 3 * F
    own = table[table["ensemble"] == "single"]
    assert own["recovered"].tolist() == [True] * 12 + [False] * 12
    assert (own["cosine"][:12] > 0.999).all()
    assert sum(part["features"] for part in scores["single"]["by_frequency"]) == F


def test_figures_of_a_boosted_ensemble_and_its_control_match_a_plain_dense_way(known: KnownActivations) -> None:
    ensemble = Ensemble([TopKSAE(D, 20, k=2, seed=s) for s in (1, 2)], wiring="residual").eval()
    facts, table = measure_truth({"boosted": ensemble}, known, ROWS, bootstrap=10, seed=4)
    batch = known.batch(0, ROWS)
    truth, acts = batch.coefs_BF.toarray() > 0, batch.acts_BD.double().numpy()
    score = facts["ensembles"]["boosted"]
    # Without training activations, its control is set up on the first of these.
    control, half = random_stages(ensemble, batch.acts_BD, seed=4), ROWS // 2
    for name, each, own in (
        ("boosted", ensemble, score),
        ("stage 1 + random stages", control, score["control"]),
    ):
        fires = (each.encode(batch.acts_BD) != 0).numpy()
        cosine = cosines(known.dictionary.atoms_FD, each.dictionary.detach())
        f1 = []
        for i in range(F):
            best = int(np.argmax([plain_f1(truth[:half, i], fires[:half, j]) for j in range(40)]))
            f1.append(plain_f1(truth[half:, i], fires[half:, best]))
        assert own["f1"] == pytest.approx(np.mean(f1), abs=1e-9)
        np.testing.assert_allclose(table[table["ensemble"] == name]["f1"], f1, atol=1e-9)
        assert own["mcc"] == pytest.approx(cosine[linear_sum_assignment(cosine, maximize=True)].mean(), abs=1e-6)
        assert own["l0"] == pytest.approx(fires.sum() / ROWS)
        error = ((acts - each(batch.acts_BD).detach().double().numpy()) ** 2).sum()
        assert own["explained_variance"] == pytest.approx(1 - error / ((acts - acts.mean(axis=0)) ** 2).sum(), abs=1e-5)
        weighted = sum(part["f1"] * part["features"] for part in own["by_frequency"]) / F
        assert weighted == pytest.approx(own["f1"])
    assert facts["truth"]["l0"] == pytest.approx(truth.sum() / ROWS)
    again, _ = measure_truth({"boosted": ensemble}, known, ROWS, bootstrap=10, seed=4)
    assert again == facts


def test_random_stages_find_what_stage_1_found_and_lose_precision(known: KnownActivations) -> None:
    """Stage 1 has a third of the true atoms, stage 2 the next third; random atoms are none."""
    first, second = (detector(known.dictionary, list(range(start, start + 8))) for start in (0, 8))
    boosted = Ensemble([first, second], wiring="residual").eval()
    facts, table = measure_truth({"boosted": boosted, "single": Ensemble([first], wiring="parallel")}, known, ROWS)
    score, control = facts["ensembles"]["boosted"], facts["ensembles"]["boosted"]["control"]
    every = (score, control, facts["ensembles"]["single"])
    assert [own["recall"] for own in every] == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert [own["precision"] for own in every] == [1, 8 / 16, 1]
    assert [step["recall"] for step in control["by_members"]] == pytest.approx([1 / 3, 1 / 3])
    assert control["recall_cap"] == score["recall_cap"] == 16 / 24
    # Both are compared on the same draws of the true features, of which 8 of 24 are the second stage's alone.
    low, high = score["recall_above"]["stage 1 + random stages"]
    assert 0.1 < low < 1 / 3 < high < 0.6
    assert control["recall_above"]["single"] == [0.0, 0.0]
    # With and without a control an ensemble has the same draws.
    alone, _ = measure_truth({"single": Ensemble([first], wiring="parallel")}, known, ROWS)
    assert alone["ensembles"]["single"]["recall_interval"] == facts["ensembles"]["single"]["recall_interval"]
    assert set(table["ensemble"]) == {"boosted", "single", "stage 1 + random stages"}


def test_a_random_twin_has_the_same_wiring_weights_and_sizes(known: KnownActivations) -> None:
    ensemble = Ensemble([TopKSAE(D, 20, k=2), TopKSAE(D, 10, k=3)], wiring="residual", weights=[1.0, 0.5]).eval()
    twin = random_twin(ensemble, known.read(0, 500), seed=1)
    assert (twin.wiring, twin.weights, twin.widths) == ("residual", [1.0, 0.5], [20, 10])
    assert not torch.equal(twin[0].W_dec, ensemble[0].W_dec)
    assert torch.equal(twin.dictionary, random_twin(ensemble, known.read(0, 500), seed=1).dictionary)
    left = known.read(0, 500) - twin[0](known.read(0, 500))
    torch.testing.assert_close(twin[1].b_dec, left.mean(dim=0))


def test_intervals_over_seeds_are_students() -> None:
    values = [0.2, 0.5, 0.3, 0.45, 0.35]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    found = mean_interval(values)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((np.mean(values), low, high))
    assert mean_interval([0.3]) == {"mean": 0.3, "low": None, "high": None, "values": [0.3]}
    assert mean_interval([None, None])["mean"] is None
    assert mean_interval([None, 0.5])["mean"] == 0.5
    shifted = difference([value + 0.01 for value in values], values)
    assert (shifted["low"], shifted["high"]) == pytest.approx((0.01, 0.01))
    assert difference([0.1, None], [0.1, 0.2])["values"] == [0.0, None]
    assert over_seeds([{"a": {"b": 1.0}}, {}], ["a.b"])["a.b"]["values"] == [1.0, None]


TINY = (
    *("--set", "truth.features=40", "--set", "truth.dimension=12", "--set", "truth.active=3.0"),
    *("--set", "data.train_tokens=3000", "--set", "data.evaluation_tokens=1000", "--set", "sae.width=24"),
    *("--set", "sae.k=3", "--set", "training.members=2", "--set", "training.tokens=4000"),
    *("--set", "training.device=cpu", "--set", "evaluation.bootstrap=20"),
)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("truth") / "runs"
    outcome = call("truth", path, "--seeds", 2, *TINY)
    assert outcome.code == 0, outcome.err
    assert "recall" in outcome.out
    assert "random MCC" in outcome.out
    return path


def test_the_command_scores_every_seed_and_all_together(scored: Path) -> None:
    facts = read_json(scored / "evaluation" / "truth.json")
    assert facts["seeds"] == [0, 1]
    assert list(facts["ensembles"]) == ["single", "bagged", "boosted", "expanded"]
    runs = [Run.open(scored / name) for name in facts["runs"]]
    dictionaries = [run.truth.read_bytes() for run in runs]
    assert dictionaries[0] != dictionaries[1]
    own = [read_json(run.evaluation("truth"))["ensembles"] for run in runs]
    for name, figures in facts["ensembles"].items():
        for key in ("recall", "mcc", "f1"):
            assert figures[key]["values"] == [score[name][key] for score in own]
            assert figures[f"random.{key}"]["values"] == [score[name]["random"][key] for score in own]
        for other in {"single", "expanded"} - {name}:
            expected = [score[name]["mcc"] - score[other]["mcc"] for score in own]
            assert figures[f"against_{other}"]["mcc"] == mean_interval(expected)
        expected = [score[name]["f1"] - score[name]["random"]["f1"] for score in own]
        assert figures["against_random"]["f1"] == mean_interval(expected)
        assert f"against_{name}" not in figures
    assert facts["interval"] == "seeds"
    table = read_table(runs[0].evaluation_table("truth"))
    assert len(table) == 5 * 40  # the ensembles, and the control of the boosted one
    controls = [score["boosted"]["control"] for score in own]
    boosted = facts["ensembles"]["boosted"]
    assert boosted["control.recall"]["values"] == [control["recall"] for control in controls]
    expected = [score["boosted"]["recall"] - control["recall"] for score, control in zip(own, controls, strict=True)]
    assert boosted["against_control"]["recall"] == mean_interval(expected)
    assert not any("against_control" in facts["ensembles"][name] for name in ("single", "bagged", "expanded"))
    shown = {name: as_text(name, figures)["  MCC, random stages"] for name, figures in facts["ensembles"].items()}
    mean = np.mean([control["mcc"] for control in controls])
    assert shown == {"single": "–", "bagged": "–", "boosted": f"{mean:.3f}", "expanded": "–"}
    row = next(row for row in summarize(runs[0]) if row["ensemble"] == "boosted")
    assert (row["truth_mcc"], row["control_truth_mcc"]) == (own[0]["boosted"]["mcc"], controls[0]["mcc"])
    assert row["control_explained_variance"] == controls[0]["explained_variance"]
    assert summary(row)["  MCC, random stages"] == f"{controls[0]['mcc']:.3f}"
    apart = {row["ensemble"]: row["F1 − random stages"] for row in differences_as_text(facts["ensembles"])}
    assert apart["single"] == "–"
    assert apart["boosted"].startswith(f"{100 * boosted['against_control']['f1']['mean']:+.1f}".replace("-", "−"))


def test_called_again_it_adds_what_is_missing_and_keeps_the_rest(scored: Path) -> None:
    run = Run.open(scored / "seed_01")
    kept = {path: path.stat().st_mtime_ns for path in (scored / "seed_00").rglob("*") if path.is_file()}
    before = read_json(run.evaluation("truth"))
    run.evaluation("truth").unlink()
    outcome = call("truth", scored, "--seeds", 3, "--json")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert facts["seeds"] == [0, 1, 2]
    assert read_json(run.evaluation("truth")) == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert Run.open(scored / "seed_02").settings.truth == run.settings.truth


def test_the_same_command_gives_the_same_figures(scored: Path, tmp_path: Path) -> None:
    outcome = call("truth", tmp_path / "again", "--seeds", 1, *TINY)
    assert outcome.code == 0, outcome.err
    assert "recall − single" in outcome.out
    assert COVERED in " ".join(outcome.err.split())
    one, two = (Run.open(path / "seed_00") for path in (scored, tmp_path / "again"))
    assert read_json(one.evaluation("truth")) == read_json(two.evaluation("truth"))
    tables = [read_table(run.evaluation_table("truth")) for run in (one, two)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    # One seed has the intervals of its own bootstrap, and several those of their means.
    scores = read_json(one.evaluation("truth"))["ensembles"]
    together = read_json(tmp_path / "again" / "evaluation" / "truth.json")
    assert together["interval"] == "bootstrap"
    for name, figures in together["ensembles"].items():
        for key in ("recall", "mcc", "precision", "f1"):
            assert [figures[key]["low"], figures[key]["high"]] == scores[name][f"{key}_interval"]
            for other, ends in scores[name][f"{key}_above"].items():
                if other in ("single", "expanded", "random"):
                    found = figures[f"against_{other}"][key]
                    assert [found["low"], found["high"]] == ends


def test_bad_input_is_refused(scored: Path, tmp_path: Path) -> None:
    refused(call("truth", tmp_path / "x", "--size", "huge"), "--size huge", "small, medium, large")
    refused(call("truth", scored / "seed_00"), "itself a run", "another folder")
    refused(call("truth", scored, "--set", "training.seed=5"), "begin with seed 0")
    refused(call("truth", scored, "--set", "sae.k=2"), "other settings", "sae.k")
    refused(call("truth", tmp_path / "x", "--set", "truth.active=400"), "truth.active is 400")
    refused(call("truth", tmp_path / "x", "--set", "truth.feature=4"), "truth.feature", "known there: features")
    refused(call("truth", tmp_path / "x", "--set", "text.source=embedded"), "set both to known")


def test_a_run_without_a_language_model_refuses_what_needs_text(scored: Path, tmp_path: Path) -> None:
    """The first of the runs is named, and none is changed."""
    run, labelled = scored / "seed_00", tmp_path / "texts.csv"
    labelled.write_text("text,label\n" + "".join(f"word {number},{number % 2}\n" for number in range(80)))
    said = f"activations of {run} come from a known dictionary; no text can be read with it"
    before = {path: path.stat().st_mtime_ns for path in scored.rglob("*") if path.is_file()}
    refused(call("spurious", run), said)
    refused(call("spurious", run, "--task", "docstrings"), said)
    refused(call("spurious", run, "--file", labelled), said)
    refused(call("spurious", scored), said)
    refused(call("evaluate", run, "--task", labelled), said)
    assert {path: path.stat().st_mtime_ns for path in scored.rglob("*") if path.is_file()} == before


@pytest.mark.interop
def test_saelens_scores_the_same_dictionary_the_same(known: KnownActivations, tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    synthetic = pytest.importorskip("sae_lens.synthetic", reason="this sae-lens has no synthetic data")
    dictionary = make_dictionary(SETTINGS.model_copy(update={"offset": 0.7}), 1)
    known = KnownActivations(dictionary, seed=0, part="evaluation")
    sae = detector(dictionary, list(range(14)))
    with torch.no_grad():
        sae.W_dec += 0.1 * torch.randn(sae.W_dec.shape, generator=torch.Generator().manual_seed(0))
        sae.b_dec.copy_(dictionary.bias_D)
        sae.normalize_atoms()
        sae.threshold[-1] = 1e3  # a dead latent
    facts, _ = measure_truth({"single": Ensemble([sae], wiring="parallel")}, known, ROWS, bootstrap=10)
    theirs_dictionary = synthetic.FeatureDictionary(F, D, bias=1.0, initializer=None)
    theirs_dictionary.feature_vectors.data.copy_(dictionary.atoms_FD)
    theirs_dictionary.bias.data.copy_(dictionary.bias_D)
    batch = known.batch(0, ROWS)
    coefs = torch.from_numpy(batch.coefs_BF.toarray())
    torch.testing.assert_close(theirs_dictionary(coefs), batch.acts_BD, atol=1e-5, rtol=1e-5)

    class Rows:
        @staticmethod
        def sample(count: int) -> Tensor:
            assert count == ROWS
            return coefs

    save_sae(sae, tmp_path)
    theirs = synthetic.eval_sae_on_synthetic_data(
        sae_lens.SAE.load_from_disk(str(tmp_path)), theirs_dictionary, Rows, num_samples=ROWS
    )
    score = facts["ensembles"]["single"]
    ours = {
        "mcc": score["mcc"] / score["recall_cap"],  # theirs is a mean over the pairs, which are fewer
        "uniqueness": score["uniqueness"],
        "explained_variance": score["explained_variance"],
        "sae_l0": score["l0"],
        "true_l0": facts["truth"]["l0"],
        "dead_latents": score["dead"],
    }
    assert ours == pytest.approx({name: getattr(theirs, name) for name in ours}, abs=1e-4)
    latents = theirs.classification
    expected = {
        "precision": latents.precision,
        "recall": latents.recall,
        "f1": latents.f1_score,
        "accuracy": latents.accuracy,
    }
    assert score["latents"] == pytest.approx(expected, abs=1e-4)
    assert score["dead"] == 1


def test_mcc_counts_features_without_an_atom_as_nothing() -> None:
    """By hand: of three true features two have atoms, at |cosine| 1 and 0.6."""
    truth_FD, atoms_MD = torch.eye(3), torch.tensor([[-2.0, 0, 0], [0.8, 0.6, 0]])
    matched_F = matched_cosines(truth_FD, atoms_MD)
    assert matched_F[:2] == pytest.approx([1.0, 0.6])
    assert np.isnan(matched_F[2])
    assert mcc(matched_F) == pytest.approx(1.6 / 3)
    # A third atom can only add to it: the mean over pairs would have fallen from 0.8.
    assert mcc(matched_cosines(truth_FD, torch.cat([atoms_MD, torch.tensor([[0, 0.9, 0.1]])]))) > 1.6 / 3
    assert [recall_cap(3, atoms) for atoms in (2, 3, 5)] == pytest.approx([2 / 3, 1, 1])


def as_earlier(run: Run) -> dict:
    """Write the scores of a run as earlier versions did: MCC over the min(F, M) pairs, and no cap. Gives today's."""
    today = read_json(run.evaluation("truth"))
    content = json.loads(json.dumps(today))
    for own in content["ensembles"].values():
        cap = own.pop("recall_cap")
        own["mcc"], own["random"]["mcc"] = own["mcc"] / cap, own["random"]["mcc"] / cap
        own["mcc_interval"], own["mcc_above"] = [0.0, 1.0], {}
    write_json(run.evaluation("truth"), content)
    return today


def test_scores_of_earlier_versions_are_read_by_todays_definition(scored: Path, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(scored / "seed_00", tmp_path / "seed_00"))
    assert read_truth(run) == read_json(run.evaluation("truth"))
    today = as_earlier(run)
    assert today["ensembles"]["single"]["recall_cap"] == 24 / 40
    found = read_truth(run)
    for name, own in today["ensembles"].items():
        for key in ("mcc", "recall_cap", "mcc_interval"):
            assert found["ensembles"][name][key] == pytest.approx(own[key], abs=1e-12)
        assert found["ensembles"][name]["random"]["mcc"] == pytest.approx(own["random"]["mcc"], abs=1e-12)
        assert found["ensembles"][name]["mcc_above"].keys() == own["mcc_above"].keys()
        for other, ends in own["mcc_above"].items():
            assert found["ensembles"][name]["mcc_above"][other] == pytest.approx(ends, abs=1e-12)
        assert found["ensembles"][name]["recall"] == own["recall"]
    # Without the table there is no interval, and without the number of features no MCC at all.
    run.evaluation_table("truth").unlink()
    bare = read_truth(run)
    assert bare["ensembles"]["single"]["mcc"] == pytest.approx(today["ensembles"]["single"]["mcc"])
    assert "mcc_interval" not in bare["ensembles"]["single"]
    content = read_json(run.evaluation("truth"))
    del content["truth"]["features"]
    write_json(run.evaluation("truth"), content)
    nothing = read_truth(run)["ensembles"]["single"]
    assert "mcc" not in nothing
    assert "mcc" not in nothing["random"]
