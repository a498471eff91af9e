"""Stability against a plain float64 computation, planted copies, and random dictionaries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae_core.analysis.similarity.cosines import Atoms, random_best, random_null, random_shared
from sae_core.analysis.stability.stability import measure_stability, pooled_among


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosines(one: Tensor, other: Tensor) -> np.ndarray:
    one, other = one.double(), other.double()
    return ((one / one.norm(dim=1, keepdim=True)) @ (other / other.norm(dim=1, keepdim=True)).T).numpy()


def runs() -> list[Tensor]:
    """Three runs of different widths that share some atoms, with some noise and other lengths."""
    common = randn(12, 8, seed=0)
    return [
        torch.cat([common + 0.2 * randn(12, 8, seed=1), randn(6, 8, seed=2)]),
        3 * torch.cat([randn(4, 8, seed=3), common[torch.randperm(12)] + 0.2 * randn(12, 8, seed=4)]),
        common + 0.4 * randn(12, 8, seed=5),
    ]


def test_all_figures_are_the_plain_computation() -> None:
    given = runs()
    figures, features = measure_stability(given)
    pooled, mmcs, pw_mcc, shared, in_all, in_none = [], [], [], [], [], []
    for s in range(3):
        others = [t for t in range(3) if t != s]
        best = np.stack([cosines(given[s], given[t]).max(axis=1) for t in others])
        pooled.append(cosines(given[s], torch.cat([given[t] for t in others])).max(axis=1).mean())
        mmcs += [row.mean() for row in best]
        shared += [(row >= 0.7).mean() for row in best]
        stability = (best >= 0.7).mean(axis=0)
        in_all.append((stability == 1).mean())
        in_none.append((stability == 0).mean())
        matched = np.full((2, len(given[s])), np.nan)
        for place, t in enumerate(others):
            cosine = cosines(given[s], given[t])
            rows, columns = linear_sum_assignment(cosine, maximize=True)
            matched[place, rows] = cosine[rows, columns]
            if s < t:
                # Atoms of the wider dictionary that are left over count as 0.
                pw_mcc.append(cosine[rows, columns].sum() / max(cosine.shape))
        assert np.array_equal(features[s].stability_N, stability)
        assert np.allclose(features[s].best_cosine_N, best.max(axis=0), atol=1e-6)
        for found, row in zip(features[s].matched_cosine_N, matched.T, strict=True):
            known = row[~np.isnan(row)]
            assert found == pytest.approx(known.mean() if len(known) else np.nan, abs=1e-6, nan_ok=True)
    expected = {"pooled": pooled, "mmcs": mmcs, "pw_mcc": pw_mcc, "shared_fraction": shared}
    expected |= {"in_all": in_all, "in_none": in_none}
    for name, values in expected.items():
        assert figures[name] == pytest.approx(np.mean(values), abs=1e-6), name
    assert figures["runs"] == 3
    assert 0 < figures["in_none"] < figures["shared_fraction"] < 1


def test_nulls_are_those_of_random_dictionaries_of_the_same_sizes() -> None:
    figures, _ = measure_stability([randn(n, 16, seed=n) for n in (40, 60)])
    assert figures["null_best"] == pytest.approx((random_best(40, 60, 16) + random_best(60, 40, 16)) / 2)
    assert figures["null_pooled"] == figures["null_best"]  # with two runs, there is nothing to pool
    assert figures["null_shared"] == pytest.approx(
        (random_shared(40, 60, 16, 0.7) + random_shared(60, 40, 16, 0.7)) / 2
    )
    assert figures["null_matched"] == random_null(40, 60, 16)["matched"]
    # The runs are random themselves, so they reach what chance gives.
    for name, null in (("pooled", "null_pooled"), ("mmcs", "null_best"), ("pw_mcc", "null_matched")):
        assert figures[name] == pytest.approx(figures[null], abs=0.03)


def test_the_pooled_figure_rises_with_the_number_of_runs_alone_and_pw_mcc_does_not() -> None:
    """Strangers: what a wider pool of random atoms adds is no stability, and its null says so."""
    strangers = [randn(64, 16, seed=seed) for seed in range(8)]
    two, eight = (measure_stability(strangers[:count])[0] for count in (2, 8))
    assert eight["pooled"] > two["pooled"] + 0.08
    assert eight["null_pooled"] > two["null_pooled"] + 0.08
    assert eight["pooled"] == pytest.approx(eight["null_pooled"], abs=0.02)
    assert eight["pw_mcc"] == pytest.approx(two["pw_mcc"], abs=0.03)


def test_copies_are_stable_opposites_are_not_and_duplicates_share_one_match() -> None:
    atoms = randn(10, 6, seed=0)
    figures, features = measure_stability([atoms, 2 * atoms[torch.randperm(10)]])
    assert [figures[name] for name in ("pooled", "mmcs", "pw_mcc", "shared_fraction", "in_all")] == pytest.approx(
        [1.0] * 5, abs=1e-6
    )
    assert features[0].stability_N.tolist() == [1.0] * 10
    opposite, _ = measure_stability([torch.eye(4), -torch.eye(4)])
    assert (opposite["pooled"], opposite["in_none"]) == (0.0, 1.0)
    # All ten copies of one atom find it again, but one to one only one of them does.
    copies, _ = measure_stability([torch.eye(10)[:1].repeat(10, 1), torch.eye(10)])
    assert copies["mmcs"] == pytest.approx((1.0 + 0.1) / 2)
    assert copies["pw_mcc"] == pytest.approx(0.1)


def test_a_narrow_dictionary_inside_a_wide_one_is_not_the_same_one() -> None:
    figures, features = measure_stability([torch.eye(10)[:4], torch.eye(10)])
    assert figures["pw_mcc"] == pytest.approx(0.4)  # four matches at 1, six of the wider one's atoms without any
    assert np.isnan(features[1].matched_cosine_N).sum() == 6
    # Of random dictionaries the same: two to one, they cannot reach more than a half.
    assert random_null(30, 60, 8)["matched"] < 0.5
    equal = random_null(60, 60, 8)["matched"]
    assert equal == pytest.approx(random_null(60, 60, 8, seed=1)["matched"], abs=0.03)


def test_pooled_among_compares_each_run_with_its_own_pool() -> None:
    one, other, pool = randn(5, 4, seed=0), randn(7, 4, seed=1), randn(9, 4, seed=2)
    expected = (cosines(one, torch.cat([other, pool])).max(axis=1).mean() + cosines(other, pool).max(axis=1).mean()) / 2
    assert pooled_among([one, other], [Atoms(other, pool), Atoms(pool)]) == pytest.approx(expected, abs=1e-6)
