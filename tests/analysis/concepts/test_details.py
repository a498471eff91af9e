"""The stored details of detectors: ROC curves against scikit-learn, and the texts that were classified correctly."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score, roc_curve

from sae_core.analysis.concepts.detector_outcomes import POINTS, details, pack, roc_points, unpack


def decisions(texts: int, *, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    positive = chance.permutation(np.arange(texts) % 2 == 0)
    decision = positive * 0.8 + chance.standard_normal(texts)
    return (decision.round(1) if ties else decision), positive


@pytest.mark.parametrize("ties", [False, True])
def test_a_short_curve_is_scikit_learns(ties: bool) -> None:
    decision, positive = decisions(40, ties=ties)
    false, found = roc_points(decision, positive)
    expected_false, expected_found, _ = roc_curve(positive, decision)
    assert np.array_equal(false, expected_false)
    assert np.array_equal(found, expected_found)
    assert auc(false, found) == pytest.approx(roc_auc_score(positive, decision))


@pytest.mark.parametrize(("texts", "limit"), [(4000, POINTS), (4000, 7), (700, 2)])
def test_a_long_curve_keeps_points_of_its_own_spread_over_it(texts: int, limit: int) -> None:
    decision, positive = decisions(texts)
    false, found = roc_points(decision, positive, limit=limit)
    assert len(false) <= limit
    whole = set(zip(*roc_curve(positive, decision)[:2], strict=True))
    assert set(zip(false, found, strict=True)) <= whole
    assert (false[0], found[0], false[-1], found[-1]) == (0, 0, 1, 1)
    assert (np.diff(false + found) > 0).all()
    if limit == POINTS:
        assert auc(false, found) == pytest.approx(roc_auc_score(positive, decision), abs=2e-3)
        assert np.diff(false + found).max() < 3 * 2 / (limit - 1)


def test_a_detector_that_says_nothing_is_the_diagonal() -> None:
    found = details(np.zeros(30), np.arange(30) < 15)
    assert found["roc_false_positive_rate"] == found["roc_detection_rate"] == [0.0, 1.0]
    assert unpack(found["right"]).tolist() == [False] * 15 + [True] * 15


@pytest.mark.parametrize("texts", [0, 1, 7, 8, 401])
def test_what_was_right_comes_back_from_its_bits(texts: int) -> None:
    right = np.random.default_rng(texts).random(texts) < 0.3
    packed = pack(right)
    assert len(packed) == 4 + -(-texts // 8)
    assert np.array_equal(unpack(packed), right)
