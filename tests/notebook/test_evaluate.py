"""Evaluation in Python: the figures of plain formulas, detection of a label that one feature tells, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sources import sparse_data
from torch import Tensor, nn

import sae_core as sc

ROWS, D, N = 400, 8, 16
QUIET: dict[str, Any] = {"progress": False, "bootstrap": 50}


@pytest.fixture(scope="module")
def acts() -> Tensor:
    return sparse_data(ROWS, d_in=D, features=N)


@pytest.fixture(scope="module")
def ensemble() -> sc.Ensemble:
    """Two TopK SAEs that have learnt nothing; a bag of them."""
    return sc.Ensemble([sc.TopKSAE(D, N, k=3, seed=seed) for seed in range(2)], wiring="parallel").eval()


def test_figures_are_those_of_their_formulas(acts: Tensor, ensemble: sc.Ensemble) -> None:
    found = sc.evaluate(ensemble, acts, **QUIET)
    exact, recon = acts.double(), ensemble.reconstruct(acts).double()
    error_D = (exact - recon).square().sum(dim=0)
    total_D = (exact - exact.mean(dim=0)).square().sum(dim=0)
    assert found.rows == ROWS
    assert found.explained_variance == pytest.approx(1 - float(error_D.sum() / total_D.sum()), rel=1e-5)
    assert found.explained_variance_per_dimension == pytest.approx(1 - float((error_D / total_D).mean()), rel=1e-5)
    assert found.mse == pytest.approx(float(error_D.sum()) / ROWS, rel=1e-5)
    codes = ensemble.encode(acts)
    assert found.l0 == pytest.approx(float((codes != 0).sum()) / ROWS)
    assert found.dead_share == pytest.approx(float((codes == 0).all(dim=0).double().mean()))
    assert found.explained_variance_interval is not None
    low, high = found.explained_variance_interval
    assert low < found.explained_variance < high
    assert found.detection is None
    assert math.isnan(found.detection_accuracy)
    assert sc.evaluate(ensemble, iter(acts.split(70)), **QUIET) == found


class Axes(sc.SAE):
    """Feature i is the positive part of dimension i."""

    def __init__(self) -> None:
        super().__init__(D, D)
        self.W_dec, self.W_enc = (nn.Parameter(torch.eye(D)) for _ in range(2))

    def activate(self, pre_BN: Tensor) -> Tensor:
        return pre_BN.relu()


def labelled() -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Dimension 5 is 1 for one label and 0 for the other; all else is noise."""
    chance = np.random.default_rng(0)
    acts = np.abs(chance.standard_normal((ROWS, D))).astype(np.float32)
    is_red = chance.random(ROWS) < 0.4
    acts[:, 5] = 3.0 * is_red
    return acts, np.where(is_red, "red", "blue")


def test_the_feature_that_tells_a_label_is_found() -> None:
    acts, labels = labelled()
    axes = sc.Ensemble([Axes()], wiring="parallel").eval()
    found = sc.evaluate(axes, acts, labels=labels, **QUIET)
    assert found.detection is not None
    best = found.detection[found.detection["m"] == 1].iloc[0]
    assert (best["label"], best["accuracy"], best["low"], best["features"], best["signs"]) == ("red", 1, 1, [5], [1])
    assert set(found.detection["m"]) == {0, 1, 5}
    assert found.detection_accuracy > 0.95
    assert best["test_rows"] == 2 * round(0.3 * (labels == "red").sum())
    # Labels of chance are told by nobody.
    shuffled = np.random.default_rng(1).permutation(labels)
    guessed = sc.evaluate(axes, acts, labels=torch.tensor(shuffled == "red"), **QUIET)
    assert guessed.detection_interval is not None
    assert guessed.detection_interval[0] < 0.6
    assert sc.evaluate(axes, acts, labels=list(labels), **QUIET).detection.equals(found.detection)  # type: ignore[union-attr]


def test_rows_of_a_group_are_on_one_side_and_rows_without_a_label_are_left_out() -> None:
    acts, labels = labelled()
    axes = sc.Ensemble([Axes()], wiring="parallel").eval()
    groups = np.arange(ROWS) // 4
    some: list[Any] = list(labels)
    some[:8] = [None, float("nan")] * 4
    found = sc.evaluate(axes, acts, labels=some, groups=groups, **QUIET)
    assert "8 rows have no label" in found.note
    assert "groups, 100 of them" in found.note
    assert found.detection is not None
    assert found.detection["accuracy"].iloc[1] == 1
    with pytest.raises(sc.UserError, match=r"groups has no value in row 7"):
        sc.evaluate(axes, acts, groups=[*range(7), None, *range(8, ROWS)], **QUIET)


def test_it_shows_itself_as_a_table_in_which_labels_are_escaped() -> None:
    acts, labels = labelled()
    attack = "<img src=x>"
    found = sc.evaluate(
        sc.Ensemble([Axes()], wiring="parallel").eval(), acts, labels=np.where(labels == "red", attack, labels), **QUIET
    )
    html = found._repr_html_()
    assert "&lt;img src=x&gt;" in html or "blue" in html
    assert "<img" not in html
    assert "over all dimensions together" in html
    assert "Explained variance" in str(found)
    assert len({line.index("  ") for line in str(found).splitlines()[:2]}) == 2


@pytest.mark.parametrize(
    ("sentence", "options"),
    [
        ("labels has 3 values, but acts has 400 rows; give one a row.", {"labels": [1, 2, 3]}),
        ("groups has 401 values", {"groups": range(401)}),
        ("labels holds 1 different values; give at least 2", {"labels": ["a"] * ROWS}),
        ("No two labels have at least", {"labels": ["a"] * (ROWS - 2) + ["b"] * 2}),
        ("labels is a str; give one value a row", {"labels": "ab"}),
        ("labels is an array of shape [400, 2]", {"labels": np.zeros((ROWS, 2))}),
        ("bootstrap is 0", {"bootstrap": 0}),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    sentence: str, options: dict[str, Any], acts: Tensor, ensemble: sc.Ensemble
) -> None:
    with pytest.raises(sc.UserError) as caught:
        sc.evaluate(ensemble, acts, **{**QUIET, **options})
    assert sentence in str(caught.value)


def test_activations_that_do_not_fit_are_refused(acts: Tensor, ensemble: sc.Ensemble) -> None:
    with pytest.raises(sc.UserError, match=r"acts has 7 columns, but the ensemble is for activations of dimension 8"):
        sc.evaluate(ensemble, acts[:, 1:], **QUIET)
    with pytest.raises(sc.UserError, match=r"ensemble is a TopKSAE; give what train or load returns"):
        sc.evaluate(ensemble[0], acts, **QUIET)  # type: ignore[arg-type]
    with pytest.raises(sc.UserError, match=r"The batches hold 1 rows; give at least 2"):
        sc.evaluate(ensemble, iter([acts[:1]]), **QUIET)
