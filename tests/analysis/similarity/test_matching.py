"""Matching of members: planted permutations, families, and the plain computation."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from sae_core.analysis.similarity.cosines import random_null
from sae_core.analysis.similarity.matching import families, match_members
from sae_core.ensembles.ensemble import Ensemble
from sae_core.sae import ReLUSAE


def ensemble_of(*dictionaries: torch.Tensor) -> Ensemble:
    members = []
    for dictionary in dictionaries:
        member = ReLUSAE(dictionary.shape[1], dictionary.shape[0])
        with torch.no_grad():
            member.W_dec.copy_(dictionary / dictionary.norm(dim=1, keepdim=True))
        members.append(member)
    return Ensemble(members, wiring="parallel")


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_permuted_member_is_matched_feature_by_feature() -> None:
    atoms = randn(20, 16, seed=0)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    table, summary = match_members(ensemble_of(atoms, atoms[order]))
    forth = table[table["member"] == 0]
    assert len(table) == 40
    assert forth["feature"].tolist() == list(range(20))
    assert forth["matched_feature"].tolist() == (20 + torch.argsort(order)).tolist()
    assert forth["best_feature"].tolist() == forth["matched_feature"].tolist()
    back = table[table["member"] == 1]
    assert back["matched_feature"].tolist() == order.tolist()
    assert [(pair["a"], pair["b"]) for pair in summary["pairs"]] == [(0, 1), (1, 0)]
    for pair in summary["pairs"]:
        assert [pair[key] for key in ("mmcs", "mean_matched_cosine", "shared")] == pytest.approx([1, 1, 1], abs=1e-6)
    assert summary["null"] == random_null(20, 20, 16)
    assert summary["threshold"] == 0.7


def test_the_table_is_the_plain_computation_for_members_of_different_width() -> None:
    first, second, third = randn(9, 5, seed=0), randn(6, 5, seed=1), randn(9, 5, seed=2)
    ensemble = ensemble_of(first, second, third)
    table, summary = match_members(ensemble)
    unit = ensemble.dictionary.detach().double().numpy()
    offsets = [0, 9, 15, 24]
    assert len(table) == 2 * 24
    for row in table.to_dict("records"):
        low, high = offsets[int(row["other_member"])], offsets[int(row["other_member"]) + 1]
        cosines = unit[low:high] @ unit[int(row["feature"])]
        assert row["best_feature"] == low + cosines.argmax()
        assert row["best_cosine"] == pytest.approx(cosines.max(), abs=1e-6)
        if row["matched_feature"] >= 0:
            assert row["matched_cosine"] == pytest.approx(cosines[int(row["matched_feature"]) - low], abs=1e-6)
        else:
            assert np.isnan(row["matched_cosine"])
    wide_to_narrow = table[(table["member"] == 0) & (table["other_member"] == 1)]
    assert (wide_to_narrow["matched_feature"] < 0).sum() == 3
    pair = next(pair for pair in summary["pairs"] if (pair["a"], pair["b"]) == (0, 1))
    assert pair["mmcs"] == pytest.approx(wide_to_narrow["best_cosine"].mean(), abs=1e-6)
    # Three of the wider member's nine features are left over, and count as 0 from either side.
    other = next(pair for pair in summary["pairs"] if (pair["a"], pair["b"]) == (1, 0))
    matched = wide_to_narrow["matched_cosine"].sum() / 9
    assert pair["mean_matched_cosine"] == pytest.approx(matched, abs=1e-6)
    assert other["mean_matched_cosine"] == pytest.approx(matched, abs=1e-6)
    assert pair["shared"] == pytest.approx((wide_to_narrow["best_cosine"] >= 0.7).mean())
    json.dumps(summary, allow_nan=False)


def test_matching_is_the_same_seen_from_both_sides() -> None:
    table, _ = match_members(ensemble_of(randn(7, 4, seed=0), randn(7, 4, seed=1)))
    matched = dict(zip(table["feature"], table["matched_feature"], strict=True))
    assert all(matched[matched[feature]] == feature for feature in matched)


def test_one_member_gives_an_empty_table_and_no_families() -> None:
    table, summary = match_members(ensemble_of(randn(5, 4, seed=0)))
    assert table.empty
    assert summary == {"pairs": [], "null": None, "threshold": 0.7}
    family, size = families(table, [0, 5])
    assert family.tolist() == [-1] * 5
    assert size.tolist() == [1] * 5


def edges(*rows: tuple[int, int, int, int, float]) -> pd.DataFrame:
    """(feature, member, other_member, matched_feature, matched_cosine) and the same from the other side."""
    both = [*rows, *((other, b, a, feature, cosine) for feature, a, b, other, cosine in rows)]
    return pd.DataFrame(both, columns=["feature", "member", "other_member", "matched_feature", "matched_cosine"])


def test_families_are_joined_by_good_matches_only() -> None:
    matches = edges((0, 0, 1, 2, 0.9), (2, 1, 2, 5, 0.8), (0, 0, 2, 5, 0.75), (1, 0, 1, 3, 0.69))
    family, size = families(matches, [0, 2, 4, 6])
    assert family.tolist() == [0, -1, 0, -1, -1, 0]
    assert size.tolist() == [3, 1, 3, 1, 1, 3]


def test_a_family_never_holds_two_features_of_a_member() -> None:
    # 0 – 2 – 4 – 1 is a chain that ends in the member in which it began: its weakest link is cut.
    matches = edges((0, 0, 1, 2, 0.9), (2, 1, 2, 4, 0.85), (1, 0, 2, 4, 0.8))
    family, size = families(matches, [0, 2, 4, 6])
    assert family.tolist() == [0, -1, 0, -1, 0, -1]
    assert size.tolist() == [3, 1, 3, 1, 3, 1]


def test_families_of_near_copies_are_whole() -> None:
    atoms = randn(30, 24, seed=0)
    copies = [atoms[torch.randperm(30, generator=torch.Generator().manual_seed(s))] for s in range(3)]
    ensemble = ensemble_of(*(copy + 0.05 * randn(30, 24, seed=9 + s) for s, copy in enumerate(copies)))
    table, _ = match_members(ensemble)
    family, size = families(table, ensemble.offsets)
    assert set(size.tolist()) == {3}
    assert sorted(np.bincount(family).tolist()) == [3] * 30
    assert family[:30].tolist() == list(range(30))  # numbered by their lowest feature
