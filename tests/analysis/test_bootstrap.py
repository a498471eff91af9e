"""Paired bootstrap: intervals of differences against plain resampling, and the gain from pairing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sae_core.analysis.shared.bootstrap import differences, interval


def test_an_interval_is_of_percentiles_and_leaves_out_what_is_undefined() -> None:
    draws = np.append(np.arange(1001.0), [math.nan] * 7)
    assert interval(draws) == pytest.approx((25.0, 975.0))
    assert all(math.isnan(end) for end in interval(np.array([math.nan])))
    assert all(math.isnan(end) for end in interval(np.zeros(0)))


def test_differences_are_taken_draw_by_draw() -> None:
    chance = np.random.default_rng(0)
    shared = chance.standard_normal(2000)
    found = differences({"a": shared + 0.3, "b": shared, "c": chance.standard_normal(2000)})
    assert found["a"]["b"] == pytest.approx([0.3, 0.3])
    assert found["b"]["a"] == pytest.approx([-0.3, -0.3])
    low, high = found["c"]["b"]
    assert low < -2 < 2 < high
    assert differences({"a": np.zeros(0), "b": np.zeros(0)})["a"]["b"] == [None, None]
