"""Paired bootstrap: intervals of differences against resampling written plainly, and what pairing is worth."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from sae_core.config import RunSettings
from sae_core.evaluation.bootstrap import differences, interval, paired_mean
from sae_core.evaluation.details import pack
from sae_core.files import write_table
from sae_core.report.paired import detected_above
from sae_core.run import DETECTORS, Run


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


def test_a_paired_mean_is_what_resampling_texts_gives() -> None:
    chance = np.random.default_rng(1)
    texts = (300, 120)
    one = [chance.random(count) < 0.8 for count in texts]
    other = [right ^ (chance.random(len(right)) < 0.1) for right in one]
    weights = [0.25, 0.75]
    pairs = [(float((a & ~b).mean()), float((b & ~a).mean()), len(a)) for a, b in zip(one, other, strict=True)]
    low, high = paired_mean(pairs, weights, samples=20_000, seed=0)
    drawn = np.zeros(20_000)
    for a, b, weight in zip(one, other, weights, strict=True):
        picked = chance.integers(len(a), size=(20_000, len(a)))
        drawn += weight * (a[picked].mean(axis=1) - b[picked].mean(axis=1))
    expected = np.quantile(drawn, [0.025, 0.975])
    assert [low, high] == pytest.approx(expected, abs=2e-3)
    assert paired_mean(pairs, weights, samples=50, seed=3) == paired_mean(pairs, weights, samples=50, seed=3)
    assert paired_mean([(0.0, 0.0, 40)], [1.0], samples=50, seed=0) == [0.0, 0.0]


def test_detectors_are_compared_on_the_same_texts(tmp_path) -> None:
    run = Run.create(tmp_path / "run", RunSettings())
    chance = np.random.default_rng(0)
    rows = []
    for task, concept in (("t", "a"), ("t", "b"), ("u", "c"), ("confounded", "d")):
        right = chance.random(200) < 0.7
        better = right | (chance.random(200) < 0.2)
        for method, bits in (("single", right), ("bagged", better), ("boosted", right)):
            row = {"task": task, "concept": concept, "method": method, "m": 5, "variant": "plain", "right": pack(bits)}
            rows.append(row)
    assert detected_above(run) == {}
    write_table(run.evaluation_table(DETECTORS), pd.DataFrame(rows))
    found = detected_above(run)
    low, high = found["bagged", "5.plain"]["single"]
    assert 0 < low < high < 0.2
    assert found["single", "5.plain"]["bagged"] == [-high, -low]
    assert found["boosted", "5.plain"]["single"] == [0.0, 0.0]
