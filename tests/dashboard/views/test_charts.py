"""The dashboard's charts hold the figures they are given; texts in them are escaped."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dashboard.shared.look import colors
from dashboard.views.compare import charts as compare
from dashboard.views.concepts import charts as concepts
from dashboard.views.overview.charts import by_members, cost, training
from sae_core.foundation import colours

ATTACK = "<img src=x onerror=alert(1)>"

# Comparing members

PAIRS = [
    {"a": 0, "b": 1, "mmcs": 0.8, "mean_matched_cosine": 0.6, "shared": 0.5},
    {"a": 1, "b": 0, "mmcs": 0.7, "mean_matched_cosine": 0.6, "shared": 0.4},
    {"a": 0, "b": 2, "mmcs": 0.5, "mean_matched_cosine": 0.4, "shared": 0.2},
]


def test_matrix_keeps_directions_and_fills_the_missing_one() -> None:
    expected = [[np.nan, 0.8, 0.5], [0.7, np.nan, np.nan], [0.5, np.nan, np.nan]]
    np.testing.assert_array_equal(compare.matrix(PAIRS, "mmcs", 3), expected)


def test_charts_of_alikeness_hold_the_figures() -> None:
    heat = compare.heat_map(compare.matrix(PAIRS, "mmcs", 3), "mmcs")
    assert heat.data[0].z[0][1] == 0.8
    beside = compare.against_null(PAIRS, "mmcs", 0.41)
    assert list(beside.data[0].y) == ["0 – 1", "0 – 2"]
    assert list(beside.data[0].x) == [0.8, 0.5]
    assert beside.layout.shapes[0].x0 == 0.41
    assert not compare.against_null(PAIRS, "shared", None).layout.shapes


@pytest.fixture
def atoms() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "feature": range(6),
            "member": [0, 0, 1, 1, 2, 2],
            "family": [0, -1, 0, 1, 0, 1],
            "family_size": [3, 1, 3, 2, 3, 2],
            "best_cosine": [0.9, 0.3, 0.95, 0.8, 0.9, 0.8],
            "density": [0.1, 0.2, 0.1, 0.4, 0.1, 0.4],
            "dead": [False] * 6,
            "stability": [1.0, 0.0, 1.0, 0.5, 1.0, 0.5],
            "cluster": [0, -1, 0, 1, 0, 1],
            "top_token": [" a", ATTACK, " a", "b", "a", "%{x}"],
            "label": ["", ATTACK, "", "", "", ""],
            "x": [0.0, 1, 2, 3, 4, 5],
            "y": [0.0, 1, 2, 3, 4, 5],
        }
    )


def test_stages_count_what_is_new(atoms: pd.DataFrame) -> None:
    matches = pd.DataFrame(
        [
            (2, 1, 0, 0.9),
            (2, 1, 2, 0.9),
            (3, 1, 0, 0.2),
            (3, 1, 2, 0.9),
            (4, 2, 0, 0.1),
            (4, 2, 1, 0.75),
            (5, 2, 0, 0.3),
        ],
        columns=["feature", "member", "other_member", "best_cosine"],
    )
    table = compare.stages(atoms, matches, 3)
    assert table["alive"].tolist() == [2, 2, 2]
    # Stage 0 has none before it; feature 3 is like one of a later stage only; feature 4 like one of stage 1.
    assert table["new"].tolist() == [2, 1, 1]


def test_residual_energy_is_the_product_of_the_ratios() -> None:
    np.testing.assert_allclose(compare.residual_energy([0.1, 0.5, 0.8]).data[0].y, [0.1, 0.05, 0.04])


# Concepts


@pytest.fixture
def results() -> pd.DataFrame:
    rows = [
        ("prose", "raw activation", 0, 0.95),
        ("code", "raw activation", 0, 0.85),
        ("prose", "single", 1, 0.7),
        ("code", "single", 1, 0.8),
        ("prose", "bagged", 1, 0.75),
        ("code", "bagged", 1, 0.8),
    ]
    table = pd.DataFrame(rows, columns=["concept", "method", "m", "accuracy"])
    return table.assign(accuracy_low=table["accuracy"] - 0.02, accuracy_high=table["accuracy"] + 0.03)


def test_means_are_over_concepts(results: pd.DataFrame) -> None:
    table = concepts.means(results).set_index("method")
    assert table["mean"].to_dict() == pytest.approx({"raw activation": 0.9, "single": 0.75, "bagged": 0.775})
    assert table["m"].tolist() == [0, 1, 1]


def test_concept_charts_show_means_intervals_and_chance(results: pd.DataFrame) -> None:
    everything = concepts.accuracy_chart(results, 0.5)
    assert [trace.x[0] for trace in everything.data[1::2]] == pytest.approx([0.9, 0.75, 0.775])
    assert everything.layout.shapes[0].x0 == 0.5
    one = concepts.concept_chart(results[results["concept"] == "prose"], None)
    assert one.data[0].error_x.array[0] == pytest.approx(0.03)
    assert one.data[0].error_x.arrayminus[0] == pytest.approx(0.02)
    assert list(one.layout.yaxis.categoryarray)[-1] == "raw activation, all dimensions"


def test_accuracy_over_features_has_a_line_a_method_and_a_level_one_for_all_dimensions(results: pd.DataFrame) -> None:
    more = results[results["m"] == 1].assign(m=10, accuracy=results["accuracy"] + 0.1)
    table = pd.concat([results, more.assign(method=more["method"].replace("bagged", "expanded_l0"))])
    assert concepts.numbers_of_features(table) == [1, 10]
    lines = {trace.name: trace for trace in concepts.by_features(table, 0.5).data}
    assert list(lines) == ["raw activation, all dimensions", "single", "bagged", "expanded (same L0)"]
    assert list(lines["raw activation, all dimensions"].x) == [1, 10]
    assert list(lines["raw activation, all dimensions"].y) == pytest.approx([0.9, 0.9])
    assert (list(lines["single"].x), list(lines["single"].y)) == ([1, 10], pytest.approx([0.75, 0.85]))
    assert (list(lines["bagged"].x), list(lines["expanded (same L0)"].x)) == ([1], [10])
    assert lines["expanded (same L0)"].line.color == colors.method_color("expanded_l0")
    assert concepts.by_features(table, 0.5).layout.shapes[0].y0 == 0.5
    assert not concepts.by_features(table, None).layout.shapes


def test_one_number_of_features_is_named_once(results: pd.DataFrame) -> None:
    table = pd.concat([results, results[results["m"] == 1].assign(m=2)])
    rows = concepts.with_features(table, 2)
    assert set(rows["m"]) == {0, 2}
    names = ["bagged", "single", "raw activation, all dimensions"]
    assert list(concepts.accuracy_chart(rows, None).layout.yaxis.categoryarray) == names
    assert "bagged, 2 features" in concepts.accuracy_chart(table, None).layout.yaxis.categoryarray


def test_detectors_pair_features_with_signs() -> None:
    assert concepts.detectors({"features": np.array([7, 3]), "signs": np.array([1, -1])}) == [(7, 1), (3, -1)]
    assert concepts.detectors({}) == []


# Overview


def test_overview_charts_hold_the_figures() -> None:
    steps = [{"members": 1, "explained_variance": 0.8}, {"members": 2, "explained_variance": 0.9}]
    chart = by_members({"bagged": {"by_members": steps}, "single": {"members": 1, "explained_variance": 0.8}})
    assert list(chart.data[0].y) == [0.8, 0.9]
    assert chart.data[0].line.color == colors.method_color("bagged")
    losses = by_members(
        {"old": {"by_members": steps}, "new": {"members": 3, "kl_recovered": 0.7}}, "kl_recovered", "KL"
    )
    assert list(losses.data[0].y) == [None, None]
    assert (list(losses.data[1].x), list(losses.data[1].y), losses.layout.yaxis.title.text) == ([3], [0.7], "KL")
    row = {
        "ensemble": "bagged",
        "explained_variance": 0.9,
        "explained_variance_low": 0.88,
        "explained_variance_high": 0.93,
    }
    unknown = {**row, "ensemble": "single", "explained_variance": None}
    prices = {name: {"inference_flops_per_token": 1e6} for name in ("bagged", "single")}
    points = cost([row, unknown], prices)
    assert len(points.data) == 1
    assert points.data[0].error_y.array[0] == pytest.approx(0.03)
    assert not cost([], {}).data


def test_long_training_curves_are_thinned() -> None:
    steps = np.arange(5000)
    table = pd.DataFrame({"member": 1, "tokens": steps, "loss": 1.0 / (1 + steps)})
    chart = training(table, "loss", "loss")
    assert len(chart.data[0].x) <= 800
    assert chart.data[0].line.color == colours.member_color(1)
