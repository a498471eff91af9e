"""Intervals of the scores of one training on a known truth, against plain loops over bootstrap samples."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from sae_core.activations.origins.known.dictionary import KnownActivations, make_dictionary
from sae_core.analysis.shared.bootstrap import interval, mean_draws, share_draws
from sae_core.analysis.truth.files import MEANS, values_of
from sae_core.analysis.truth.intervals import truth_intervals
from sae_core.analysis.truth.scores import measure_truth
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.settings.run_settings import TruthSettings
from sae_core.sae import TopKSAE

F, D, ROWS, SAMPLES = 24, 16, 2000, 60
SETTINGS = TruthSettings(features=F, dimension=D, active=2.0, topics=2)
NAN = math.nan


def plain_means(values: list[float], samples: int, seed: int) -> list[float]:
    """The mean over units on bootstrap samples, drawn one unit after another."""
    chance, means = np.random.default_rng(seed), []
    for _ in range(samples):
        drawn = [values[unit] for unit in chance.integers(len(values), size=len(values))]
        known = [value for value in drawn if not math.isnan(value)]
        means.append(sum(known) / len(known) if known else NAN)
    return means


def test_means_on_bootstrap_samples_match_a_plain_loop():
    chance = np.random.default_rng(1)
    gaps = np.where(chance.random(9) < 0.7, chance.random(9), NAN)
    values = {"one": chance.random(9), "gaps": gaps, "rare": np.array([0.5, *[NAN] * 8]), "none": np.full(9, NAN)}
    draws = mean_draws(values, samples=SAMPLES, seed=3)
    assert list(draws) == list(values)
    for name, own in values.items():
        np.testing.assert_allclose(draws[name], plain_means(own.tolist(), SAMPLES, 3), atol=1e-12)
    assert 0 < np.isnan(draws["rare"]).sum() < SAMPLES
    assert np.isnan(draws["none"]).all()


def test_a_share_on_bootstrap_samples_is_spread_as_a_plain_loop_has_it():
    found = [1.0] * 12 + [0.0] * 28
    draws = share_draws(0.3, 40, samples=4000, seed=0)
    plain = np.array(plain_means(found, 4000, 1))
    assert draws.mean() == pytest.approx(0.3, abs=0.005)
    assert draws.std() == pytest.approx(plain.std(), rel=0.05)
    np.testing.assert_allclose(interval(draws), interval(plain), atol=1.5 / 40)
    assert (share_draws(0.0, 5, samples=9, seed=0) == 0).all()
    assert (share_draws(1.0, 5, samples=9, seed=0) == 1).all()


@pytest.fixture(scope="module")
def measured() -> tuple[dict, pd.DataFrame]:
    """Three ensembles on a known dictionary, two of them equal."""
    known = KnownActivations(make_dictionary(SETTINGS, 0), seed=0, part="evaluation")
    learnt = [TopKSAE(D, 20, k=2, seed=seed).eval() for seed in (1, 2)]
    with torch.no_grad():  # some true atoms, so that figures differ from feature to feature
        learnt[0].W_dec[:8] = known.dictionary.atoms_FD[:8]
        learnt[0].W_enc[:, :8] = known.dictionary.atoms_FD[:8].T
        learnt[1].W_dec[:3] = known.dictionary.atoms_FD[6:9]
        learnt[1].W_enc[:, :3] = known.dictionary.atoms_FD[6:9].T
    ensembles = {
        "single": Ensemble([learnt[0]], wiring="parallel"),
        "bagged": Ensemble(learnt, wiring="parallel"),
        "expanded": Ensemble([learnt[0]], wiring="parallel"),
    }
    return measure_truth(ensembles, known, ROWS, bootstrap=SAMPLES, seed=5)


@pytest.mark.parametrize("figure", MEANS)
def test_intervals_and_paired_differences_match_a_loop_over_bootstrap_samples(measured, figure):
    facts, table = measured
    # A feature that has no atom in the matching counts as 0, one that never fires has no F1.
    values = {name: values_of(figure, rows).tolist() for name, rows in table.groupby("ensemble")}
    twins = {name: values_of(figure, rows, random=True).tolist() for name, rows in table.groupby("ensemble")}
    for name, score in facts["ensembles"].items():
        # The table holds what a figure is the mean of, so whoever has it can draw again.
        assert score[figure] == pytest.approx(np.nanmean(values[name]), abs=1e-12)
        assert figure != "mcc" or not np.isnan(values[name]).any()
        assert score["random"][figure] == pytest.approx(np.nanmean(twins[name]), abs=1e-12)
        own = plain_means(values[name], SAMPLES, 5)
        assert score[f"{figure}_interval"] == pytest.approx(np.quantile(own, [0.025, 0.975]).tolist(), abs=1e-12)
        others = {other: each for other, each in values.items() if other != name} | {"random": twins[name]}
        above = score[f"{figure}_above"]
        assert above.keys() == others.keys()
        for other, each in others.items():
            apart = [mine - theirs for mine, theirs in zip(own, plain_means(each, SAMPLES, 5), strict=True)]
            assert above[other] == pytest.approx(np.quantile(apart, [0.025, 0.975]).tolist(), abs=1e-12)
    if figure == "recall":  # eight of the atoms are true, of which the random twin has none
        assert facts["ensembles"]["single"]["recall_above"]["random"][0] > 0


def test_an_ensemble_is_exactly_as_good_as_its_equal(measured):
    scores = measured[0]["ensembles"]
    for figure in MEANS:
        assert scores["single"][f"{figure}_above"]["expanded"] == [0.0, 0.0]
        assert scores["expanded"][f"{figure}_above"]["single"] == [0.0, 0.0]
        assert scores["bagged"][f"{figure}_above"]["single"] == scores["bagged"][f"{figure}_above"]["expanded"]
    # Of precision each has draws of its own, since atoms have no partners.
    low, high = scores["single"]["precision_above"]["expanded"]
    assert low < 0 < high


def test_pairing_makes_differences_surer_than_two_intervals_would(measured):
    scores = measured[0]["ensembles"]

    def width(ends: list[float]) -> float:
        return ends[1] - ends[0]

    single, bagged = scores["single"], scores["bagged"]
    unpaired = math.hypot(width(single["recall_interval"]), width(bagged["recall_interval"]))
    assert 0 < width(bagged["recall_above"]["single"]) < 0.7 * unpaired
    own = width(single["precision_interval"])
    apart = math.hypot(own, width(scores["expanded"]["precision_interval"]))
    assert width(single["precision_above"]["expanded"]) == pytest.approx(apart, rel=0.3)


def test_one_seed_gives_one_result_and_another_seed_another():
    chance = np.random.default_rng(0)
    columns = {key: chance.random(50) for column in MEANS.values() for key in (column, f"random_{column}")}
    table = pd.DataFrame(columns).assign(ensemble="single")
    atoms = {"single": [(0.4, 30), (0.1, 30)]}
    first = truth_intervals(table, atoms, samples=40, seed=1)
    assert truth_intervals(table, atoms, samples=40, seed=1) == first
    other = truth_intervals(table, atoms, samples=40, seed=2)
    assert all(other["single"][key] != value for key, value in first["single"].items())


def test_what_no_feature_has_is_undefined_and_not_zero():
    table = pd.DataFrame({key: [NAN, NAN] for column in MEANS.values() for key in (column, f"random_{column}")})
    found = truth_intervals(table.assign(ensemble="single"), {"single": [(0.0, 3), (0.0, 3)]}, samples=9, seed=0)
    assert found["single"]["f1_interval"] == [None, None]
    assert found["single"]["f1_above"] == {"random": [None, None]}
    assert found["single"]["precision_interval"] == [0.0, 0.0]
    json.dumps(found, allow_nan=False)
