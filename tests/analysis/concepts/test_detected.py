"""Mean accuracies of detectors and their paired differences against a plain bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from sae_core.analysis.concepts.detected import EVERY, above_of, difference_of, mean_accuracies, means_of, read_means
from sae_core.analysis.concepts.detector_outcomes import pack
from sae_core.foundation.files.whole_files import write_table
from sae_core.foundation.run import DETECTION, DETECTORS, Run
from sae_core.foundation.settings.run_settings import RunSettings

TASKS = (("t", "a"), ("t", "b"), ("u", "c"), ("confounded", "d"))
TEXTS = 120


def detectors(units: bool) -> pd.DataFrame:
    """Three methods, of which the second is right wherever the first is; texts come in modules of eight."""
    chance = np.random.default_rng(0)
    rows = []
    for number, (task, concept) in enumerate(TASKS):
        # Texts of a module are alike, and a concept and the next one share most texts.
        modules = np.arange(TEXTS) // 8 + number
        right = chance.random(20)[modules] < 0.7
        better = right | (chance.random(TEXTS) < 0.2)
        for method, bits in (("single", right), ("bagged", better), ("boosted", right)):
            row = {"task": task, "concept": concept, "method": method, "m": 5, "variant": "standardised"}
            own = {"units": modules.astype("<i8").tobytes()} if units else {}
            rows.append({**row, "right": pack(bits), "bits": bits, "modules": modules, **own})
    return pd.DataFrame(rows)


def plain(table: pd.DataFrame, samples: int) -> dict[str, list[float]]:
    """Drawn module by module, one sample after another: each method's mean over concepts, then tasks."""
    chance = np.random.default_rng(1)
    table = table[table["task"] != "confounded"]
    modules = sorted({int(module) for own in table["modules"] for module in own})
    found: dict[str, list[float]] = {name: [] for name in table["method"].unique()}
    for _ in range(samples):
        drawn = pd.Series(chance.choice(modules, size=len(modules))).value_counts()
        for name, own in table.groupby("method"):
            by_task: dict[str, list[float]] = {}
            for row in own.to_dict("records"):
                weights = np.array([drawn.get(module, 0) for module in row["modules"]])
                by_task.setdefault(row["task"], []).append(float(weights @ row["bits"] / weights.sum()))
            found[str(name)].append(float(np.mean([np.mean(each) for each in by_task.values()])))
    return found


def test_means_and_differences_are_those_of_drawing_modules() -> None:
    table = detectors(units=True)
    found = mean_accuracies(table, samples=3000, seed=0)
    drawn = {name: np.array(own) for name, own in plain(table, 800).items()}
    means, key = means_of(found), "5.standardised"
    for name, values in drawn.items():
        own = table[(table["method"] == name) & (table["task"] != "confounded")]
        by_task = own.assign(accuracy=own["bits"].map(np.mean)).groupby("task")["accuracy"].mean()
        assert means[name, key].accuracy == pytest.approx(by_task.mean())
        assert means[name, key][1:] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)
    expected = np.quantile(drawn["bagged"] - drawn["single"], [0.025, 0.975])
    assert above_of(found)["bagged", key]["single"] == pytest.approx(expected, abs=0.01)
    assert set(found[found["task"] == EVERY]["units"]) == {17}


def test_differences_are_paired_go_both_ways_and_are_zero_for_equals() -> None:
    found = mean_accuracies(detectors(units=True), samples=200, seed=0)
    pairs = difference_of(found, EVERY, 5, "standardised")
    better, back = pairs["bagged", "single"], pairs["single", "bagged"]
    assert 0 < better.low < better.accuracy < better.high < 0.2
    assert back == pytest.approx((-better.accuracy, -better.high, -better.low))
    assert pairs["boosted", "single"] == (0.0, 0.0, 0.0)
    assert set(found["task"]) == {"t", "u", "confounded", EVERY}
    again = mean_accuracies(detectors(units=True), samples=200, seed=0)
    assert found.equals(again)


def test_methods_measured_on_other_concepts_are_not_compared() -> None:
    table = detectors(units=True)
    left_out = table[(table["method"] != "bagged") | (table["concept"] != "b")]
    found = mean_accuracies(left_out, samples=20, seed=0)
    pairs = difference_of(found, EVERY, 5, "standardised")
    assert set(pairs) == {("single", "boosted"), ("boosted", "single")}
    # Nor is its mean given beside theirs, which are over other concepts; where all were measured it is.
    assert {task: "bagged" in set(own["method"]) for task, own in found.groupby("task")} == {
        **{"t": False, "u": True, "confounded": True, EVERY: False}
    }


def test_earlier_runs_have_the_intervals_that_their_files_allow(tmp_path) -> None:
    run = Run.create(tmp_path / "run", RunSettings())
    assert read_means(run).empty
    table = detectors(units=False)
    accuracy = table["bits"].map(np.mean)
    figures = table[["task", "concept", "method", "m", "variant"]]
    figures = figures.assign(accuracy=accuracy, accuracy_low=accuracy - 0.03, accuracy_high=accuracy + 0.03)
    write_table(run.evaluation_table("concepts"), figures)
    of_means = means_of(read_means(run))["single", "5.standardised"]
    assert of_means.high - of_means.accuracy == pytest.approx(0.03 * math.sqrt(0.25**2 + 0.25**2 + 0.5**2))
    assert above_of(read_means(run)) == {}
    # With what was called rightly, every text is a unit, so intervals are narrower than with modules.
    write_table(run.evaluation_table(DETECTORS), table.drop(columns=["bits", "modules"]))
    by_text = read_means(run)
    assert set(by_text[by_text["task"] == EVERY]["units"]) == {3 * TEXTS}
    by_module = means_of(mean_accuracies(detectors(units=True), samples=200, seed=0))["single", "5.standardised"]
    own = means_of(by_text)["single", "5.standardised"]
    assert own.accuracy == pytest.approx(of_means.accuracy)
    assert own.high - own.low < by_module.high - by_module.low
    write_table(run.evaluation_table(DETECTION), by_text.iloc[:1])
    assert len(read_means(run)) == 1
