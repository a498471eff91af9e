"""Matching by firing, families by three measures, and their nulls against dense float64 computations."""

from __future__ import annotations

import json
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hand_made import index_of
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csc_array

from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.analysis.shared.names_in_tables import FAMILY_THRESHOLDS
from sae_core.analysis.similarity import firing, pair_scores
from sae_core.analysis.similarity.family_table import (
    agreement,
    chance_of_cosine,
    family_table,
    pair_correlations,
    pair_overlaps,
    random_family_sizes,
    relate_members,
)
from sae_core.analysis.similarity.firing import (
    CORRELATION,
    OVERLAP,
    Others,
    context_columns,
    match_columns,
    stride_for,
    token_columns,
)
from sae_core.analysis.similarity.firing_matches import match_firing
from sae_core.analysis.similarity.matching import match_members
from sae_core.ensembles.ensemble import Ensemble
from sae_core.sae import ReLUSAE

T, WIDTHS, D = 900, (9, 6, 8), 16
OFFSETS = [0, 9, 15, 23]


def dense_code(seed: int = 0) -> np.ndarray:
    """Activations [T, F]: features follow a few hidden causes, of which members know some; two features are dead."""
    generator = np.random.default_rng(seed)
    causes = np.maximum(generator.normal(size=(T, 7)) - 1.0, 0)
    code = causes[:, generator.integers(0, 7, OFFSETS[-1])] * generator.uniform(0.5, 2, OFFSETS[-1])
    code = code * (generator.random(code.shape) < 0.8) + (generator.random(code.shape) < 0.03)
    code[:, [4, 17]] = 0
    return code.astype(np.float32)


def plain_correlation(code: np.ndarray) -> np.ndarray:
    values = code.astype(np.float64)
    centred = values - values.mean(axis=0)
    deviation = np.sqrt((centred**2).mean(axis=0))
    scale = np.where(deviation > 0, deviation, np.inf)
    return centred.T @ centred / len(values) / np.outer(scale, scale)


def plain_contexts(code: np.ndarray) -> list[set[int]]:
    """The contexts in which each feature's peak is largest."""
    found = []
    for values in code.T:
        peaks = [(-values[start : start + 32].max(), start // 32) for start in range(0, len(code), 32)]
        found.append({context for peak, context in sorted(peaks)[: pair_scores.TOP_CONTEXTS] if peak < 0})
    return found


def plain_overlap(code: np.ndarray) -> np.ndarray:
    sets = plain_contexts(code)
    return np.array([[len(a & b) / max(len(a | b), 1) for b in sets] for a in sets])


def matched(index: ActivationIndex, *, shifted: bool = False) -> tuple[pd.DataFrame, dict[str, Any]]:
    return match_firing(index, context_columns(index), OFFSETS, shifted=shifted)


def ensemble(seed: int = 0) -> Ensemble:
    members = [ReLUSAE(D, width, seed=seed + number) for number, width in enumerate(WIDTHS)]
    with torch.no_grad():
        members[1].W_dec[:4] = members[0].W_dec[:4] + 0.1 * members[0].W_dec[4:8]
        members[2].W_dec[2:6] = members[0].W_dec[:4]
    return Ensemble(members, wiring="parallel")


@pytest.fixture(scope="module")
def code() -> np.ndarray:
    return dense_code()


@pytest.fixture(autouse=True)
def few_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than there are, so that a choice has to be made."""
    monkeypatch.setattr(pair_scores, "TOP_CONTEXTS", 8)


@pytest.mark.parametrize("cells", [2**20, 20])
@pytest.mark.parametrize("measure", [CORRELATION, OVERLAP], ids=lambda measure: measure.name)
def test_matching_sparse_columns_is_matching_the_dense_scores(
    code: np.ndarray, monkeypatch: pytest.MonkeyPatch, cells: int, measure: firing.Measure
) -> None:
    monkeypatch.setattr(firing, "CELLS", cells)
    index = index_of(code)
    contexts, plain = context_columns(index), plain_correlation(code) if measure is CORRELATION else plain_overlap(code)
    for a, b in permutations(range(3), 2):
        one, other = slice(OFFSETS[a], OFFSETS[a + 1]), slice(OFFSETS[b], OFFSETS[b + 1])
        columns = [contexts[:, part] for part in (one, other)]
        if measure is CORRELATION:
            columns = [token_columns(index, part.start, part.stop) for part in (one, other)]
        check_matching(match_columns(columns[0], Others.of(columns[1], measure)), plain[one, other])


def check_matching(found: firing.Matching, scores: np.ndarray) -> None:
    """Compare a matching with the best of all dense scores."""
    for best, score, values in (
        (found.best_N, found.best_score_N, scores),
        (found.best_M, found.best_score_M, scores.T),
    ):
        np.testing.assert_allclose(score, values.max(axis=1).clip(0), atol=1e-9)
        known = np.flatnonzero(best >= 0)
        np.testing.assert_allclose(values[known, best[known]], score[known], atol=1e-9)
        assert np.all(values[best < 0].max(axis=1, initial=0) <= 1e-9)
    worth = np.where(scores >= firing.FLOOR, scores, 0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    assert found.partner_score_N.sum() == pytest.approx(worth[rows, columns].sum())
    paired = np.flatnonzero(found.partner_N >= 0)
    assert len(set(found.partner_N[paired])) == len(paired)
    np.testing.assert_allclose(found.partner_score_N[paired], scores[paired, found.partner_N[paired]], atol=1e-9)
    assert np.all(found.partner_score_N[paired] >= firing.FLOOR)
    turned = found.turned()
    assert [turned.partner_N[column] for column in found.partner_N[paired]] == paired.tolist()
    assert turned.turned().partner_N.tolist() == found.partner_N.tolist()


def test_a_dead_or_constant_feature_matches_nothing() -> None:
    one = csc_array(np.array([[1, 0, 0], [1, 0, 2], [1, 0, 0]], np.float32))
    found = match_columns(one, Others.of(one, CORRELATION))
    assert found.best_N.tolist() == [-1, -1, 2]
    assert found.partner_N.tolist() == [-1, -1, 2]
    silent = csc_array(np.zeros((3, 2), np.float32))
    for columns, others in ((silent, one), (one, silent)):
        assert match_columns(columns, Others.of(others, OVERLAP)).best_N.tolist() == [-1] * columns.shape[1]


def test_the_table_has_a_row_for_every_feature_and_other_member(code: np.ndarray) -> None:
    table, facts = matched(index_of(code))
    matches, _ = match_members(ensemble())
    for column in ("feature", "member", "other_member"):
        assert table[column].tolist() == matches[column].tolist()
    assert (facts["tokens"], facts["stride"]) == (T, 1)
    for name, plain in (("correlation", plain_correlation(code)), ("overlap", plain_overlap(code))):
        for row in table.to_dict("records"):
            other = slice(OFFSETS[row["other_member"]], OFFSETS[row["other_member"] + 1])
            values = plain[row["feature"], other]
            assert row[f"best_{name}"] == pytest.approx(max(values.max(), 0), abs=1e-6)
            if row[f"best_by_{name}"] >= 0:
                assert plain[row["feature"], row[f"best_by_{name}"]] == pytest.approx(values.max(), abs=1e-6)
            if row[f"matched_by_{name}"] >= 0:
                score = plain[row["feature"], row[f"matched_by_{name}"]]
                assert row[f"matched_{name}"] == pytest.approx(score, abs=1e-6)
        first = facts[name][0]
        alive = [0, 1, 2, 3, 5, 6, 7, 8]
        best = np.maximum(plain[alive, 9:15].max(axis=1), 0)
        assert (first["a"], first["b"]) == (0, 1)
        assert first["best"] == pytest.approx(best.mean(), abs=1e-6)
        assert first["shared"] == pytest.approx((best >= FAMILY_THRESHOLDS[name]).mean())
    pd.testing.assert_frame_equal(matched(index_of(code))[0], table)


def test_the_scores_of_single_pairs_are_those_of_all_at_once(code: np.ndarray) -> None:
    index, contexts = index_of(code), context_columns(index_of(code))
    features = [*range(OFFSETS[-1]), *range(OFFSETS[-1] - 1, -1, -1)]  # each with itself, too
    first, second = np.array(list(combinations(features, 2))).T
    correlations = pair_scores.correlations(index, features)
    np.testing.assert_allclose(correlations, pair_correlations(index, first, second), atol=1e-12)
    np.testing.assert_allclose(correlations, plain_correlation(code)[first, second], atol=1e-9)
    overlaps = pair_scores.overlaps(index, features)
    np.testing.assert_allclose(overlaps, pair_overlaps(contexts, first, second), atol=1e-12)


def test_the_null_shifts_members_against_each_other(code: np.ndarray) -> None:
    rolled = np.concatenate([np.roll(code[:, OFFSETS[j] : OFFSETS[j + 1]], j * T // 3, axis=0) for j in range(3)], 1)
    shifted, _ = matched(index_of(code), shifted=True)
    plain = plain_correlation(rolled)
    # The last context is shorter than the others, so contexts are shifted and not cut anew.
    rows, sets = -(-T // 32), plain_contexts(code)
    sets = [
        {(context + j * rows // 3) % rows for context in sets[f]} for j in range(3) for f in range(*OFFSETS[j : j + 2])
    ]
    overlap = np.array([[len(a & b) / max(len(a | b), 1) for b in sets] for a in sets])
    for row in shifted.to_dict("records"):
        other = slice(OFFSETS[row["other_member"]], OFFSETS[row["other_member"] + 1])
        assert row["best_overlap"] == pytest.approx(overlap[row["feature"], other].max(), abs=1e-6)
        assert row["best_correlation"] == pytest.approx(max(plain[row["feature"], other].max(), 0), abs=1e-6)
    assert shifted["best_correlation"].mean() < 0.5 * matched(index_of(code))[0]["best_correlation"].mean()


def test_more_activations_than_allowed_are_sampled(code: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(code)
    assert stride_for(index, OFFSETS) == 1
    fires = [(code[:, OFFSETS[j] : OFFSETS[j + 1]] > 0).sum(axis=1) for j in range(3)]
    products = sum(int(fires[a] @ fires[b]) for a, b in combinations(range(3), 2))
    monkeypatch.setattr(firing, "PRODUCTS", products / 2.5)
    assert stride_for(index, OFFSETS) == 3
    table, facts = matched(index)
    assert (facts["tokens"], facts["stride"]) == (300, 3)
    plain = plain_correlation(code[::3])
    first = table[(table["member"] == 0) & (table["other_member"] == 1)]
    np.testing.assert_allclose(first["best_correlation"], np.maximum(plain[:9, 9:15].max(axis=1), 0), atol=1e-6)
    monkeypatch.setattr(firing, "PRODUCTS", products)
    monkeypatch.setattr(firing, "ENTRIES", -(-np.count_nonzero(code[:, :9]) // 2))
    assert stride_for(index, OFFSETS) == 2


def test_families_by_each_measure_have_the_scores_of_their_pairs(code: np.ndarray) -> None:
    members = ensemble()
    matches, _ = match_members(members)
    dictionaries = [member.W_dec for member in members]
    table, families, summary = relate_members(index_of(code), dictionaries, matches)
    unit = torch.nn.functional.normalize(members.dictionary.detach().double(), dim=1).numpy()
    plain = {"cosine": unit @ unit.T, "correlation": plain_correlation(code), "overlap": plain_overlap(code)}
    member_of = np.repeat(range(3), WIDTHS)
    assert set(families["measure"]) == set(FAMILY_THRESHOLDS)
    for row in families.to_dict("records"):
        features = list(row["features"])
        assert len(features) == row["size"] == len(set(member_of[features]))
        pairs = list(combinations(features, 2))
        for name, scores in plain.items():
            assert row[name] == pytest.approx(np.mean([scores[pair] for pair in pairs]), abs=1e-6)
        assert row["density"] == pytest.approx((code[:, features] > 0).mean())
        best = {}
        for feature in set(range(OFFSETS[-1])) - set(features):
            for other in set(range(3)) - {member_of[feature]}:
                scores = np.where(member_of == other, plain[row["measure"]][feature], -2)
                if scores.max() >= FAMILY_THRESHOLDS[row["measure"]]:
                    best.setdefault(feature, set()).add(int(scores.argmax()))
        assert row["more"] == sum(bool(found & set(features)) for found in best.values())
    for measure, part in families.groupby("measure"):
        assert {str(size): n for size, n in part["size"].value_counts().items()} == summary["sizes"][measure]
    assert summary["null_sizes"]["correlation"] == {}
    json.dumps(summary, allow_nan=False)
    assert len(table) == len(matches)


def test_one_member_has_no_family() -> None:
    members = Ensemble([ReLUSAE(D, 5)], wiring="parallel")
    matches, _ = match_members(members)
    code = dense_code()[:, :5]
    table, families, summary = relate_members(index_of(code), [members[0].W_dec], matches)
    assert table.empty
    assert families.empty
    assert summary["agreement"]["rows"] == 0
    assert summary["sizes"] == {"cosine": {}, "correlation": {}, "overlap": {}}


def test_agreement_counts_rows_in_which_any_match_is_good() -> None:
    matches = pd.DataFrame({"best_feature": [5, 6, 7], "best_cosine": [0.9, 0.1, 0.1]})
    firing_table = pd.DataFrame(
        {
            "best_by_correlation": [5, 6, 6],
            "best_correlation": [0.1, 0.6, 0.4],
            "best_by_overlap": [5, 7, 7],
            "best_overlap": [0.0, 0.0, 0.1],
        }
    )
    expected = {"rows": 2, "cosine_correlation": 1.0, "cosine_overlap": 0.5, "correlation_overlap": 0.5, "all": 0.5}
    assert agreement(matches, firing_table) == expected


def test_random_atoms_make_families_where_dimensions_are_few() -> None:
    assert random_family_sizes([400, 400, 400], 64) == {}
    sizes = random_family_sizes([40, 50], 3)
    assert sizes == random_family_sizes([40, 50], 3)
    assert set(sizes) == {"2"}
    assert 30 < sizes["2"] <= 40
    drawn = torch.nn.functional.normalize(torch.randn(200_000, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    assert chance_of_cosine(0.7, 6) == pytest.approx(float((drawn[:, 0] >= 0.7).double().mean()), rel=0.05)
    assert chance_of_cosine(0.5, 3) == pytest.approx(0.25)  # the share of a sphere above half its radius


def test_an_empty_family_table_has_all_columns(code: np.ndarray) -> None:
    silent = np.zeros_like(code)
    members = ensemble()
    matches, _ = match_members(members)
    firing_table, _ = matched(index_of(silent))
    table = family_table(
        index_of(silent), context_columns(index_of(silent)), [member.W_dec for member in members], matches, firing_table
    )
    assert set(table["measure"]) == {"cosine"}
    assert not table["correlation"].any()
