"""Ablating features on the workbench against the plain way: token by token, decoded, with the error kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sae_core.analysis.spurious.ablation import Outcome, Probe, Texts, Workbench, fit_probe, outcome, scr
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.errors import UserError
from sae_core.sae import ReLUSAE, TopKSAE

D, N, TEXTS, TOKENS = 10, 16, 160, 6


def tokens() -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Activations [texts, tokens, D], T and S; T moves them along one direction, S along another one, further."""
    chance = np.random.default_rng(0)
    target, spurious = (chance.random((2, TEXTS)) < 0.5).astype(bool)
    acts = chance.standard_normal((TEXTS, TOKENS, D)) + 0.5
    acts[:, :, 0] += 0.6 * (2 * target[:, None] - 1)
    acts[:, :, 1] += 1.2 * (2 * spurious[:, None] - 1)
    return torch.from_numpy(acts).float(), target, spurious


def ensembles() -> dict[str, Ensemble]:
    return {
        "bagged": Ensemble([TopKSAE(D, N, k=4, seed=s) for s in (1, 2, 3)], wiring="parallel").eval(),
        "boosted": Ensemble([TopKSAE(D, N, k=4, seed=s) for s in (4, 5)], wiring="residual").eval(),
        "relu": Ensemble([ReLUSAE(D, N, seed=6)], wiring="parallel").eval(),
    }


def texts_of(acts: torch.Tensor, target: np.ndarray, spurious: np.ndarray) -> Texts:
    rows = np.arange(TEXTS)
    training = rows[rows % 2 == 0]
    confounded = training[target[training] == spurious[training]][:30]
    balanced = np.setdiff1d(training, confounded)
    pooled = acts.double().mean(dim=1).numpy()
    return Texts(pooled, target, spurious, confounded, balanced, rows[rows % 2 == 1])


@pytest.fixture(params=["bagged", "boosted", "relu"])
def bench_and_long_way(request: pytest.FixtureRequest):
    ensemble = ensembles()[request.param]
    acts, target, spurious = tokens()
    flat = acts.reshape(-1, D)
    codes = ensemble.encode(flat).detach()
    pooled = codes.reshape(TEXTS, TOKENS, -1).mean(dim=1).numpy()
    texts = texts_of(acts, target, spurious)
    bench = Workbench(texts, sparse.csr_array(pooled), ensemble.dictionary.detach().numpy())

    def long_way(features: list[int]) -> np.ndarray:
        """Pooled activations [texts, D] in which the features are 0 and the reconstruction error is kept."""
        left = codes.double().clone()
        left[:, features] = 0
        atoms = ensemble.dictionary.detach().double()
        bias = ensemble.b_dec.detach().double()
        error = flat.double() - (codes.double() @ atoms + bias)
        return (left @ atoms + bias + error).reshape(TEXTS, TOKENS, D).mean(dim=1).numpy()

    return bench, long_way


CHOICES = ([], [0], [3, 1, 7], list(range(0, N, 2)), list(range(N)))


@pytest.mark.parametrize("features", CHOICES)
def test_ablating_equals_zeroing_decoding_and_adding_the_error(bench_and_long_way, features: list[int]) -> None:
    bench, long_way = bench_and_long_way
    texts = bench.texts
    acts = long_way(features)[texts.test]
    expected = acts @ bench.biased.weights_D + bench.biased.bias
    np.testing.assert_allclose(bench.values(features), expected, atol=1e-5)
    assert bench.ablate(features) == outcome(
        bench.values(features), texts.target_X[texts.test], texts.spurious_X[texts.test]
    )


@pytest.mark.parametrize("features", CHOICES)
def test_retraining_fits_a_probe_on_ablated_texts(bench_and_long_way, features: list[int]) -> None:
    bench, long_way = bench_and_long_way
    texts, acts = bench.texts, long_way(features)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    probe.fit(acts[texts.confounded], texts.target_X[texts.confounded])
    called = probe.predict(acts[texts.test])
    found = bench.retrain(features)
    assert found.target == pytest.approx((called == texts.target_X[texts.test]).mean(), abs=1.5 / len(texts.test))
    assert found.spurious == pytest.approx((called == texts.spurious_X[texts.test]).mean(), abs=1.5 / len(texts.test))


def test_scores_are_mean_differences_times_effects(bench_and_long_way) -> None:
    bench, long_way = bench_and_long_way
    texts = bench.texts
    positive = texts.balanced[texts.spurious_X[texts.balanced]]
    negative = texts.balanced[~texts.spurious_X[texts.balanced]]
    gap = np.empty(bench.features)
    for feature in range(bench.features):  # what a feature contributes to the probe's value is what ablating it takes
        values = (long_way([]) - long_way([feature])) @ bench.biased.weights_D
        gap[feature] = values[positive].mean() - values[negative].mean()
    np.testing.assert_allclose(bench.scores_M, gap, atol=1e-6)
    order = bench.rank()
    assert np.all(np.diff(np.abs(bench.scores_M[order])) <= 0)
    assert set(order) == set(np.flatnonzero(bench.scores_M))
    other = Probe(np.arange(D, dtype=float), 0.0)
    np.testing.assert_allclose(
        bench.scores_by(other) * bench.effect_M, bench.scores_M * (bench._project(other.weights_D)), atol=1e-9
    )


def test_a_boosted_ensemble_is_not_encoded_again_after_ablation() -> None:
    """Were a later stage to see what an earlier one no longer explains, it would put back what was ablated."""
    acts, target, spurious = tokens()
    ensemble = ensembles()["boosted"]
    flat = acts.reshape(-1, D)
    codes = ensemble.encode(flat).detach()
    pooled = codes.reshape(TEXTS, TOKENS, -1).mean(dim=1).numpy()
    bench = Workbench(texts_of(acts, target, spurious), sparse.csr_array(pooled), ensemble.dictionary.detach().numpy())
    first = codes[:, :N].clone()
    features = list(range(N))
    first[:, features] = 0
    left = flat - (first @ ensemble[0].W_dec + ensemble[0].b_dec)
    again = (
        (ensemble[1](left) + (flat - ensemble(flat))).detach().reshape(TEXTS, TOKENS, D).mean(dim=1).double().numpy()
    )
    wrong = again[bench.texts.test] @ bench.biased.weights_D + bench.biased.bias
    assert np.abs(wrong - bench.values(features)).max() > 0.1


def test_what_is_chosen_twice_is_ablated_once_and_what_is_not_there_is_refused(bench_and_long_way) -> None:
    bench, _ = bench_and_long_way
    np.testing.assert_array_equal(bench.values([2, 2, 5]), bench.values(np.array([5, 2])))
    assert bench.ablate([]) == bench.before()
    for wrong in (bench.features, -1):
        with pytest.raises(UserError, match=f"no feature {wrong}; .* 0 to {bench.features - 1}"):
            bench.ablate([0, wrong])


def test_dead_and_equal_features_rank_last_and_in_order() -> None:
    acts, target, spurious = tokens()
    codes = np.zeros((TEXTS, 5))
    codes[:, 1] = codes[:, 3] = spurious  # two copies
    codes[:, 2] = 1.0  # fires everywhere alike
    atoms = np.eye(5, D, dtype=np.float32)
    atoms[[1, 3]] = atoms[1]
    bench = Workbench(texts_of(acts, target, spurious), sparse.csr_array(codes), atoms)
    assert bench.rank().tolist()[:2] == [1, 3]
    assert 0 not in bench.rank()
    assert 4 not in bench.rank()
    assert bench.rank(among_M=np.array([True, False, False, True, True])).tolist() == [3]
    signed = Workbench(texts_of(acts, target, spurious), sparse.csr_array(-codes), atoms)
    np.testing.assert_allclose(signed.scores_M, -bench.scores_M)
    assert signed.rank().tolist()[:2] == [1, 3]


def test_removing_the_one_feature_that_means_s_removes_s() -> None:
    acts, target, spurious = tokens()
    texts = texts_of(acts, target, spurious)
    atoms = np.eye(D, dtype=np.float32)
    # Each dimension is a feature, so the second one holds all of S; its coefficient is signed.
    bench = Workbench(texts, sparse.csr_array(texts.acts_XD), atoms)
    assert bench.rank()[0] == 1
    assert bench.before().spurious > 0.75
    found = bench.ablate([1])
    assert abs(found.spurious - 0.5) < 0.15
    # The feature's mean goes with it, and so the probe's threshold is off; a new probe sets it right.
    assert bench.retrain([1]).worst_group > max(found.worst_group, bench.before().worst_group)
    assert bench.scr(found) == pytest.approx(
        (found.target - bench.before().target) / (bench.best().target - bench.before().target)
    )
    assert bench.ablate(list(range(D))).target < found.target


def test_a_probe_is_sklearns_on_standardised_dimensions() -> None:
    chance = np.random.default_rng(1)
    acts = chance.standard_normal((80, 6)) * [1, 100, 0.01, 1, 1, 1] + [0, 0, 0, 1e4, 0, 0]
    acts[:, 4] = 3.0  # constant
    positive = acts[:, 0] + acts[:, 1] / 100 + chance.standard_normal(80) > 0
    ours = fit_probe(acts, positive)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000)).fit(acts, positive)
    np.testing.assert_allclose(ours.values(acts), theirs.decision_function(acts), atol=2e-3)
    assert ours.weights_D[4] == 0
    equal = fit_probe(np.full((10, 3), 7.0), np.arange(10) < 5)
    np.testing.assert_allclose(equal.values(np.full((10, 3), 7.0)), 0, atol=1e-6)
    with pytest.raises(UserError, match="both classes"):
        fit_probe(acts, np.ones(80, dtype=bool))


def test_accuracies_are_counted_by_group() -> None:
    values = np.array([1.0, -1, 2, -2, 3, -3, 0.0])
    target = np.array([True, True, False, False, True, False, True])
    spurious = np.array([True, False, True, False, True, True, False])
    found = outcome(values, target, spurious)
    assert found.target == pytest.approx(4 / 7)
    assert found.spurious == pytest.approx(6 / 7)
    assert found.groups == {(True, True): 1.0, (True, False): 0.0, (False, True): 0.5, (False, False): 1.0}
    assert found.worst_group == 0.0
    missing = outcome(values[:1], target[:1], spurious[:1])
    assert missing.worst_group == 1.0
    assert np.isnan(missing.groups[False, False])


@pytest.mark.parametrize(
    ("ablated", "biased", "oracle", "score"),
    [
        (0.8, 0.6, 0.9, 2 / 3),
        (0.5, 0.6, 0.9, -1 / 3),
        (0.9, 0.6, 0.9, 1.0),
        (0.95, 0.6, 0.9, 7 / 6),
        (0.8, 0.6, 0.6005, 0.0),
        (0.8, 0.9, 0.6, 0.0),
    ],
)
def test_scr(ablated: float, biased: float, oracle: float, score: float) -> None:
    assert scr(ablated, biased, oracle) == pytest.approx(score)


def test_outcomes_are_values() -> None:
    assert Outcome(0.5, 0.5, {(True, True): 0.25}).worst_group == 0.25
