"""Newton's logistic regression against scikit-learn's optimum, and inputs on which a solver may fail."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from sae_core.analysis.concepts.logistic import MAX_FEATURES, fit_logistic
from sae_core.analysis.concepts.probes import detect


def texts(columns: int, *, gap: float, seed: int = 0, count: int = 240) -> tuple[NDArray, NDArray]:
    """Sparse features of texts; the first one is larger by ``gap`` where a text is positive."""
    chance = np.random.default_rng(seed)
    positive = np.arange(count) % 2 == 0
    features = chance.normal(size=(count, columns)) * (chance.random((count, columns)) < 0.3)
    features[:, 0] += gap * positive
    return features, positive


def gradient(features: NDArray, positive: NDArray, weights: NDArray, intercept: float) -> NDArray:
    """Of Σ log(1 + exp(−s·z)) + ½‖w‖², for the weights and then the intercept, written out."""
    missing = positive - 1 / (1 + np.exp(-(features @ weights + intercept)))
    return np.append(weights - features.T @ missing, -missing.sum())


@pytest.mark.parametrize("columns", [1, 2, 5, 20, MAX_FEATURES])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("gap", [0.0, 1.0, 20.0])  # 20 tells all texts apart
def test_weights_are_those_of_scikit_learn(columns: int, scale: float, gap: float) -> None:
    features, positive = texts(columns, gap=gap)
    features *= scale
    weights, intercept = fit_logistic(features, positive)
    peer = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12, max_iter=10_000).fit(features, positive)
    np.testing.assert_allclose(weights, peer.coef_[0], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(intercept, peer.intercept_[0], rtol=1e-6, atol=1e-7)
    # The slope is zero but for what rounding leaves of sums of this size.
    size = np.abs(features).sum(axis=0).max() + 1
    assert np.abs(gradient(features, positive, weights, intercept)).max() <= 1e-11 * size


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_an_offset_moves_the_intercept_alone(scale: float) -> None:
    features, positive = texts(5, gap=1.0)
    weights, intercept = fit_logistic(scale * features, positive)
    moved, there = fit_logistic(scale * (features + 1000), positive)
    np.testing.assert_allclose(moved, weights, rtol=1e-6)
    assert there == pytest.approx(intercept - 1000 * scale * moved.sum(), rel=1e-6)


def test_doubled_and_constant_features_share_and_take_nothing() -> None:
    features, positive = texts(3, gap=1.0)
    doubled = np.concatenate([features, features[:, :1], np.full((len(features), 1), 7.0)], axis=1)
    weights, _ = fit_logistic(doubled, positive)
    assert weights[0] == pytest.approx(weights[3])
    assert weights[4] == pytest.approx(0.0, abs=1e-12)


def test_of_many_features_and_of_few_the_same_is_detected() -> None:
    features, positive = texts(MAX_FEATURES, gap=1.0)
    few = detect(features[:120], positive[:120], features[120:])
    # A feature that is always 0 changes nothing, but is one too many for Newton's method.
    many = detect(np.pad(features[:120], [(0, 0), (0, 1)]), positive[:120], np.pad(features[120:], [(0, 0), (0, 1)]))
    np.testing.assert_allclose(few, many, atol=0.02)
    assert ((few > 0) == (many > 0)).mean() > 0.98
