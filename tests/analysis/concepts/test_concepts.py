"""Sparse probing: pooling, ranking and scores against slow plain versions and scikit-learn, and known traps."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

from sae_core.analysis.concepts.detection import COLUMNS, measure_concepts
from sae_core.analysis.concepts.probes import Problem, area_under_roc, probe_rows, rank, scores, training_statistics
from sae_core.analysis.concepts.tasks import Task
from sae_core.analysis.shared import pooling
from sae_core.analysis.shared.names_in_tables import RANDOM, RAW
from sae_core.analysis.shared.pooling import pool, random_dictionary
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.settings.run_settings import EvaluationSettings, SAESettings
from sae_core.sae import make_sae

D, N = 6, 20


def sae(seed, architecture="topk"):
    member = make_sae(SAESettings(architecture=architecture, width=N, k=3, initial_threshold=0.8), D, seed=seed).eval()
    with torch.no_grad():
        member.b_dec += 0.1 * torch.randn(D, generator=torch.Generator().manual_seed(seed + 50))
    return member.requires_grad_(False)


def ensembles():
    members = [sae(seed) for seed in range(3)]
    return {
        "single": Ensemble(members[:1], wiring="parallel"),
        "bagged": Ensemble(members, wiring="parallel"),
        "boosted": Ensemble(members, wiring="residual"),
    }


def batches(lengths, sizes, seed=0):
    """Activations of texts of these lengths, cut into batches of these sizes wherever that falls."""
    acts = torch.randn(sum(lengths), D, generator=torch.Generator().manual_seed(seed))
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    assert sum(sizes) == len(acts)
    made = [
        SimpleNamespace(acts_TD=a, document_T=d) for a, d in zip(acts.split(sizes), document.split(sizes), strict=True)
    ]
    return acts, document, made


@pytest.mark.parametrize("block", [4, 1000])
def test_pooled_codes_are_means_over_the_tokens_of_each_text(block, monkeypatch):
    monkeypatch.setattr(pooling, "BLOCK", block)
    lengths = [5, 1, 0, 9, 3]
    acts, document, made = batches(lengths, [7, 8, 3])
    chosen = ensembles()
    pooled = pool(chosen, made, len(lengths))
    assert pooled.tokens.tolist() == lengths
    for name, ensemble in chosen.items():
        dense = ensemble.encode(acts).double()
        for text, length in enumerate(lengths):
            expected = dense[document == text].mean(dim=0) if length else torch.zeros(len(dense[0]))
            assert np.allclose(pooled.codes[name][[text]].toarray()[0], expected.numpy(), atol=1e-6)
    for text, length in enumerate(lengths):
        expected = acts[document == text].mean(dim=0) if length else torch.zeros(D)
        assert np.allclose(pooled.raw[text], expected.numpy(), atol=1e-6)


def test_nothing_to_pool_gives_zeros():
    pooled = pool(ensembles(), [], 3)
    assert pooled.codes["bagged"].shape == (3, 3 * N)
    assert pooled.codes["bagged"].nnz == 0
    assert pooled.raw.shape == (3, D)


def problem(rows, positive, test_rows=None, test_positive=None):
    test_rows = rows if test_rows is None else test_rows
    test_positive = positive if test_positive is None else test_positive
    return Problem(
        "task", "c", np.array(rows), np.array(positive, bool), np.array(test_rows), np.array(test_positive, bool)
    )


def pooled_features(seed=0, texts=40, width=15):
    chance = np.random.default_rng(seed)
    return (chance.random((texts, width)) * (chance.random((texts, width)) < 0.4)).astype(np.float32)


def two_problems():
    chance = np.random.default_rng(3)
    order = chance.permutation(40)
    return [
        problem(order[:20], [True] * 10 + [False] * 10, order[20:], [True, False] * 10),
        problem(order[10:26], [True, False] * 8, order[:10], [True] * 5 + [False] * 5),
    ]


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array])
def test_statistics_match_float64_over_the_training_texts(kind, offset):
    dense = pooled_features() + np.float32(offset)
    found = training_statistics(kind(dense), two_problems())
    for row, one in enumerate(two_problems()):
        train = dense[one.train].astype(np.float64)
        difference = train[one.train_positive].mean(axis=0) - train[~one.train_positive].mean(axis=0)
        assert np.allclose(found.difference[row], difference, atol=1e-9)
        assert np.allclose(found.mean[row], train.mean(axis=0), rtol=1e-12)
        assert np.allclose(found.deviation[row], train.std(axis=0), rtol=1e-5)


def test_test_texts_do_not_touch_the_selection():
    dense = pooled_features()
    changed = dense.copy()
    one = problem(range(20), [True, False] * 10, range(20, 40), [True, False] * 10)
    changed[20:] += 100.0
    for standardised in (False, True):
        before = rank(training_statistics(sparse.csr_array(dense), [one]), 5, standardised=standardised)
        after = rank(training_statistics(sparse.csr_array(changed), [one]), 5, standardised=standardised)
        assert before[0].tolist() == after[0].tolist()


def test_rank_orders_by_difference_and_standardised_by_difference_in_deviations():
    dense = np.zeros((8, 5), np.float32)
    positive = [True] * 4 + [False] * 4
    dense[:, 0] = 7.0  # constant
    dense[:4, 1] = [0, 20, 0, 20]  # large but unsure
    dense[:4, 2] = 1.0  # small but sure, as a bagged coefficient may be
    dense[4:, 3] = 2.0  # says the opposite
    for features in (dense, sparse.csr_array(dense)):  # column 4 is dead
        statistics = training_statistics(features, [problem(range(8), positive)])
        assert rank(statistics, 5, standardised=False)[0].tolist() == [1, 3, 2]
        assert rank(statistics, 5, standardised=True)[0].tolist() == [2, 3, 1]
        assert rank(statistics, 1, standardised=False)[0].tolist() == [1]
        assert np.sign(statistics.difference[0]).tolist() == [0, 1, 1, -1, 0]


def test_duplicates_are_ranked_in_order_and_change_no_detection_by_one_feature():
    dense = pooled_features()
    doubled = np.concatenate([dense, dense], axis=1)
    resamples = [np.ones((2, 20), np.int64), np.ones((2, 10), np.int64)]
    once = probe_rows(sparse.csr_array(dense), two_problems(), resamples, counts=[1])
    twice = probe_rows(sparse.csr_array(doubled), two_problems(), resamples, counts=[1])
    assert once == twice


@pytest.mark.parametrize("value", [0.0, 3.3])
def test_features_that_are_dead_or_all_equal_detect_nothing(value):
    dense = np.full((40, 7), value, np.float32)
    resamples = [np.random.default_rng(0).multinomial(n, [1 / n] * n, size=50) for n in (20, 10)]
    for features, whole in ((dense, False), (dense, True), (sparse.csr_array(dense), False)):
        for row in probe_rows(features, two_problems(), resamples, counts=[1, 5], whole=whole):
            assert row["accuracy"] == 0.5
            assert row["auc"] == 0.5
            assert row["features"] == []
            assert row["signs"] == []


def test_rows_match_a_plain_probe_with_scikit_learn():
    dense = pooled_features(seed=4)
    dense[:, 3] *= 0.01
    problems = two_problems()
    resamples = [np.ones((3, len(one.test)), np.int64) for one in problems]
    rows = probe_rows(sparse.csr_array(dense), problems, resamples, counts=[1, 4])
    assert [(row["variant"], row["m"]) for row in rows] == [("plain", 1), ("plain", 4)] * 2 + [
        ("standardised", 1),
        ("standardised", 4),
    ] * 2
    wide = dense.astype(np.float64)
    for number, row in enumerate(rows):
        one = problems[number % 4 // 2]
        train, test = wide[one.train], wide[one.test]
        if row["variant"] == "standardised":
            mean, deviation = train.mean(axis=0), train.std(axis=0)
            train, test = (train - mean) / deviation, (test - mean) / deviation
        difference = train[one.train_positive].mean(axis=0) - train[~one.train_positive].mean(axis=0)
        best = np.argsort(-np.abs(difference))[: row["m"]]
        probe = LogisticRegression(C=1.0, max_iter=1000).fit(train[:, best], one.train_positive)
        called, truth = probe.predict(test[:, best]), one.test_positive
        assert row["features"] == best.tolist()
        assert row["signs"] == np.sign(difference[best]).astype(int).tolist()
        assert row["accuracy"] == row["accuracy_low"] == row["accuracy_high"] == np.mean(called == truth)
        assert row["auc"] == pytest.approx(roc_auc_score(truth, probe.decision_function(test[:, best])))
        assert row["f1"] == pytest.approx(f1_score(truth, called, zero_division=0))
        assert row["detection_rate"] == called[truth].mean()
        assert row["false_positive_rate"] == called[~truth].mean()


def test_standardised_detection_does_not_feel_the_scale_of_a_method():
    """As a bag's 1/J would change it; also for factors that are no power of two, and one of its own per feature."""
    dense, problems = pooled_features(seed=4), two_problems()
    resamples = [np.ones((3, len(one.test))) for one in problems]
    chance = np.random.default_rng(0)

    def rows(factors):
        return probe_rows(sparse.csr_array(dense.astype(np.float64) * factors), problems, resamples, counts=[1, 5])

    before = rows(1.0)
    for factors in (4.0, 1 / 3, chance.uniform(0.1, 10, dense.shape[1])):
        after = rows(factors)
        for one, other in zip(before, after, strict=True):
            if one["variant"] == "standardised":
                assert one["features"] == other["features"]
                assert one["right"] == other["right"]
                assert one["accuracy"] == other["accuracy"]
                assert one["auc"] == pytest.approx(other["auc"])
    assert any(one["auc"] != other["auc"] for one, other in zip(before, rows(1 / 30), strict=True))


def test_resamples_draw_the_texts_of_a_unit_together():
    units = np.array([5, 5, 9, 9, 9, 2])
    one = replace(problem(range(6), [True, False] * 3), test_units=units)
    drawn = one.resamples(2000, np.random.default_rng(0))
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn[:, 2] == drawn[:, 4]).all()
    assert (drawn[:, [0, 2, 5]].sum(axis=1) == 3).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(6), abs=0.05)
    # Of a single unit nothing could be learned, so texts are drawn.
    alone = replace(one, test_units=np.zeros(6, np.int64))
    assert (alone.resamples(50, np.random.default_rng(0)).sum(axis=1) == 6).all()


def test_area_under_roc_counts_ties_one_half():
    positive = np.array([True, True, False, False, False])
    decision = np.array([0.5, 0.1, 0.1, 0.0, 0.5])
    assert area_under_roc(decision, positive) == pytest.approx(roc_auc_score(positive, decision))
    assert area_under_roc(decision, positive) == pytest.approx((0.5 + 1 + 1 + 0.5 + 1 + 0) / 6)


def test_the_interval_is_that_of_a_share():
    chance = np.random.default_rng(0)
    positive = np.arange(400) % 2 == 0
    decision = np.where(positive, 1.0, -1.0) * np.where(np.arange(400) < 100, -1.0, 1.0)
    found = scores(decision, positive, chance.multinomial(400, [1 / 400] * 400, size=4000))
    assert found["accuracy"] == 0.75
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert found["accuracy_low"] == pytest.approx(0.75 - half, abs=0.006)
    assert found["accuracy_high"] == pytest.approx(0.75 + half, abs=0.006)


@pytest.mark.parametrize("architecture", ["relu", "topk", "batchtopk", "jumprelu"])
def test_the_random_dictionary_encodes_as_sparsely_as_its_model(architecture):
    like = sae(0, architecture)
    with torch.no_grad():
        if architecture == "batchtopk":
            like.threshold.fill_(1.1)
        if architecture == "relu":
            like.b_enc -= 0.7
    acts = torch.randn(400, D, generator=torch.Generator().manual_seed(1)) + 2.0
    random = random_dictionary(like, acts, seed=9)
    assert type(random) is type(like)
    assert torch.allclose(random.W_dec.norm(dim=1), torch.ones(N), atol=1e-5)
    assert torch.equal(random.W_enc, random.W_dec.T)
    assert torch.allclose(random.b_dec, acts.mean(dim=0), atol=1e-5)
    assert not torch.allclose(random.W_dec, like.W_dec)
    assert torch.equal(random_dictionary(like, acts, seed=9).W_dec, random.W_dec)
    wanted, got = (int((one.encode(acts) != 0).sum()) for one in (like, random))
    if architecture == "topk":
        assert got <= 3 * 400
    else:
        assert abs(got - wanted) <= 2 or got == int((random.pre_activations(acts) > 0).sum()) < wanted
    assert got > 0


def planted_task():
    """Texts "class number": the activation of every token points in its class's direction, half of the time."""
    texts = [f"{name} {number}" for name in ("red", "green", "blue") for number in range(60)]
    labels = [text.split()[0] for text in texts]
    train = [number for number in range(len(texts)) if number % 3]
    test = [number for number in range(len(texts)) if number % 3 == 0]
    return Task(
        "colour",
        "Planted.",
        [texts[i] for i in train],
        [labels[i] for i in train],
        [texts[i] for i in test],
        [labels[i] for i in test],
    )


def planted_activations(texts):
    acts = 0.2 * torch.randn(len(texts), 4, D, generator=torch.Generator().manual_seed(0))
    for number, text in enumerate(texts):
        acts[number, ::2, ("red", "green", "blue").index(text.split()[0])] += 2.0
    yield SimpleNamespace(acts_TD=acts.flatten(0, 1), document_T=torch.arange(len(texts)).repeat_interleave(4))


def seeing_ensembles():
    """Member 0 has the three class directions as its atoms 4, 5, 6; nothing else of it ever fires."""
    eye = make_sae(SAESettings(architecture="relu", width=N), D, seed=0).eval()
    with torch.no_grad():
        eye.W_dec.zero_()
        eye.W_enc.zero_()
        for feature, dimension in ((4, 0), (5, 1), (6, 2)):
            eye.W_dec[feature, dimension] = 1.0
            eye.W_enc[dimension, feature] = 1.0
        eye.b_enc.fill_(-1.0)
    eye.requires_grad_(False)
    blind = sae(1)
    with torch.no_grad():
        blind.b_enc.fill_(-100.0)
    return {"single": Ensemble([eye], wiring="parallel"), "bagged": Ensemble([blind, eye], wiring="parallel")}


def planted(**options):
    settings = EvaluationSettings(concept_features=(1, 2), train_texts=60, test_texts=30, bootstrap=50)
    sample = torch.randn(100, D, generator=torch.Generator().manual_seed(2))
    return measure_concepts(seeing_ensembles(), [planted_task()], planted_activations, sample, settings, **options)


def test_planted_concepts_are_found_by_their_global_feature():
    facts, table = planted(seed=3)
    assert list(table.columns) == list(COLUMNS)
    assert set(table["method"]) == {"single", "bagged", RAW, RANDOM}
    assert facts["tasks"] == [
        {
            "task": "colour",
            "description": "Planted.",
            "classes": ["blue", "green", "red"],
            "train_texts": 120,
            "test_texts": 60,
            "asked": {"train_texts": 60, "test_texts": 30},
            "used": {
                name: {"train_texts": 60, "test_texts": 30, "test_units": 30} for name in ("blue", "green", "red")
            },
            "chance": 0.5,
            # The first member is blind, the second one sees.
            "by_members": {"bagged": [{"members": 1, "detection_1": 0.5}, {"members": 2, "detection_1": 1.0}]},
        }
    ]
    assert facts["settings"]["seed"] == 3
    for name, offset in (("single", 0), ("bagged", N)):
        one = table[(table["method"] == name) & (table["m"] == 1)]
        assert len(one) == 3 * 2
        assert (one["accuracy"] == 1.0).all()
        expected = {"red": offset + 4, "green": offset + 5, "blue": offset + 6}
        assert all(
            list(found) == [expected[concept]] for concept, found in zip(one["concept"], one["features"], strict=True)
        )
        assert all(list(signs) == [1] for signs in one["signs"])
    raw = table[table["method"] == RAW]
    assert set(raw["m"]) == {0}
    assert len(raw) == 3 * 2
    assert (raw["accuracy"] == 1.0).all()
    assert table[(table["method"] == RANDOM) & (table["m"] == 1)]["accuracy"].mean() < 1.0


def test_the_same_seed_gives_the_same_table_and_progress_counts_texts_and_methods():
    ticks = []
    _, first = planted(seed=3, progress=ticks.append)
    _, second = planted(seed=3)
    assert first.equals(second)
    assert (ticks[0].unit, ticks[0].total) == ("texts", 180)
    assert (ticks[-1].unit, ticks[-1].done, ticks[-1].total) == ("methods", 4, 4)


def test_no_task_gives_an_empty_table_without_a_language_model():
    def refuse(texts):
        raise AssertionError

    facts, table = measure_concepts(seeing_ensembles(), [], refuse, torch.zeros(3, D), EvaluationSettings())
    assert facts["tasks"] == []
    assert len(table) == 0
    assert list(table.columns) == list(COLUMNS)
