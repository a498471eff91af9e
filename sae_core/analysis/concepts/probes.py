"""Sparse probes: choose the features that detect a concept, and score them (Karvonen et al. 2025, SAEBench).

A problem is one concept against the rest, balanced. Features are ranked by |mean₊ − mean₋| on its training texts only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import rankdata

from sae_core.analysis.concepts.detector_outcomes import UNITS, details
from sae_core.analysis.concepts.logistic import MAX_FEATURES, fit_dense, fit_logistic
from sae_core.analysis.shared.names_in_tables import PLAIN, STANDARDISED

Floats = NDArray[np.float64]
Features: TypeAlias = sparse.csr_array | NDArray[np.float32]
"""Pooled features [texts, M], sparse or dense."""
VARIANTS = (PLAIN, STANDARDISED)
Counts: TypeAlias = NDArray[np.int64] | Floats
"""The number of times that each bootstrap sample draws each text [samples, texts]."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One balanced one-vs-rest problem: rows of the pooled features, and whether each is positive.

    Attributes:
        task: Name of the task.
        concept: The positive class.
        train: Rows of the training texts.
        train_positive: bool, one per training text.
        test: Rows of the test texts.
        test_positive: bool, one per test text.
        test_units: int64, the number of each test text's module or document; the bootstrap draws whole units. By
            default every text is its own unit.
    """

    task: str
    concept: str
    train: NDArray[np.int64]
    train_positive: NDArray[np.bool_]
    test: NDArray[np.int64]
    test_positive: NDArray[np.bool_]
    test_units: NDArray[np.int64] | None = None

    @property
    def drawn_from(self) -> NDArray[np.int64]:
        """The units to draw from; the single texts if there is only one unit, which would give no interval."""
        units = self.test_units
        return self.test if units is None or len(np.unique(units)) < 2 else units

    def resamples(self, samples: int, chance: np.random.Generator) -> Floats:
        """The number of times that each bootstrap sample of units draws each test text."""
        _, places = np.unique(self.drawn_from, return_inverse=True)
        units = int(places.max()) + 1
        drawn: Floats = chance.multinomial(units, [1 / units] * units, size=samples)[:, places].astype(np.float64)
        return drawn


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of every feature over each problem's training texts, each [problems, M].

    Attributes:
        difference: mean₊ − mean₋.
        mean: Mean over all training texts.
        deviation: Standard deviation over all training texts.
    """

    difference: Floats
    mean: Floats
    deviation: Floats


def training_statistics(features: Features, problems: Sequence[Problem]) -> Statistics:
    """Statistics for all problems at once, as matrix products; test texts have weight 0 in them."""
    signed = np.zeros((len(problems), features.shape[0]))
    even = np.zeros_like(signed)
    for row, problem in enumerate(problems):
        positive = problem.train_positive
        signed[row, problem.train] = np.where(positive, 1 / positive.sum(), -1 / (~positive).sum())
        even[row, problem.train] = 1 / len(problem.train)
    wide = features.astype(np.float64)
    # Around the overall mean of a dense matrix: squares of a large offset would swallow a small variance. Sparse codes
    # start at 0 and must stay sparse.
    shift = np.zeros(wide.shape[1])
    if isinstance(wide, np.ndarray):
        shift = wide.mean(axis=0)
        wide = wide - shift
    squares = wide**2 if isinstance(wide, np.ndarray) else wide.multiply(wide).tocsr()
    difference, mean = (np.asarray((wide.T @ weights.T).T) for weights in (signed, even))
    variance = np.asarray((squares.T @ even.T).T) - mean**2
    # The variance and difference of a constant feature are rounding errors; set them to 0.
    constant = variance <= 1e-12 * (variance + mean**2)
    variance[constant] = 0.0
    difference[constant] = 0.0
    return Statistics(difference, mean + shift, np.sqrt(variance))


def rank(statistics: Statistics, count: int, *, standardised: bool) -> list[NDArray[np.int64]]:
    """For each problem, the ``count`` features with the largest |mean₊ − mean₋| (over the deviation if standardised).

    Dead and constant features are left out, so there may be fewer features. Of equal features the one with the smaller
    number comes first.
    """
    scores = np.abs(statistics.difference)
    if standardised:
        scores = np.divide(scores, statistics.deviation, out=np.zeros_like(scores), where=statistics.deviation > 0)
    ranked = []
    for score in scores:
        order = np.argsort(-score, kind="stable")[:count]
        ranked.append(order[score[order] > 0])
    return ranked


def columns(features: Features, chosen: NDArray[np.int64]) -> Floats:
    """The chosen columns, dense [texts, chosen]."""
    part = features[:, chosen]
    dense = part if isinstance(part, np.ndarray) else part.toarray()
    return np.asarray(dense, dtype=np.float64)


def detect(train: Floats, train_positive: NDArray[np.bool_], test: Floats) -> Floats:
    """Decision values of the test texts from a logistic regression (L2, C = 1); > 0 means positive.

    Without features, all texts have the same decision value.
    """
    if train.shape[1] == 0:
        return np.zeros(len(test))
    fit = fit_logistic if train.shape[1] <= MAX_FEATURES else fit_dense
    weights, intercept = fit(train, train_positive)
    return test @ weights + intercept


def scores(decision: Floats, positive: NDArray[np.bool_], resamples: Counts) -> dict[str, float]:
    """Accuracy with its bootstrap interval, ROC-AUC, F1, detection rate (TPR) and false-positive rate.

    Args:
        decision: Decision values of the test texts.
        positive: Whether each text is positive.
        resamples: Bootstrap samples of the test texts; floats need no conversion.
    """
    called = decision > 0
    right = (called == positive).astype(np.float64)
    hits, false_alarms = int((called & positive).sum()), int((called & ~positive).sum())
    drawn = resamples @ right / np.maximum(resamples.sum(axis=1), 1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "accuracy": float(right.mean()),
        "accuracy_low": float(low),
        "accuracy_high": float(high),
        "auc": area_under_roc(decision, positive),
        "f1": 2 * hits / max(hits + false_alarms + int(positive.sum()), 1),
        "detection_rate": hits / int(positive.sum()),
        "false_positive_rate": false_alarms / int((~positive).sum()),
    }


def area_under_roc(decision: Floats, positive: NDArray[np.bool_]) -> float:
    """The probability that a positive text scores above a negative one; ties count one half (Mann and Whitney's U)."""
    count = int(positive.sum())
    ranks = rankdata(decision)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def probe_rows(
    features: Features,
    problems: Sequence[Problem],
    resamples: Sequence[Counts],
    *,
    counts: Sequence[int],
    whole: bool = False,
    variants: Sequence[str] = VARIANTS,
) -> list[dict[str, Any]]:
    """One row per problem, variant (plain, standardised) and number of features m, with its `details`.

    Args:
        features: Pooled features [texts, M] of one method.
        problems: The problems.
        resamples: Bootstrap samples of each problem's test texts, the same for every method.
        counts: The m of the rows.
        whole: Use all features instead; then m is 0 and no feature is listed.
        variants: The variants to measure, of `VARIANTS`.
    """
    if not problems:
        return []
    statistics = training_statistics(features, problems)
    rows = []
    for variant in variants:
        standardised = variant == STANDARDISED
        if whole:
            ranked = [np.arange(features.shape[1])] * len(problems)
        else:
            ranked = rank(statistics, max(counts), standardised=standardised)
        # Cut out the columns of all problems once, since cutting a sparse matrix is slow.
        needed = np.unique(np.concatenate(ranked))
        small = columns(features, needed)
        for number, problem in enumerate(problems):
            best = ranked[number]
            places = np.searchsorted(needed, best)
            train, test = small[np.ix_(problem.train, places)], small[np.ix_(problem.test, places)]
            if standardised:
                deviation = statistics.deviation[number, best]
                scale = np.where(deviation > 0, deviation, 1.0)
                train, test = ((part - statistics.mean[number, best]) / scale for part in (train, test))
            for m in [0] if whole else counts:
                used = slice(None) if whole else slice(m)
                decision = detect(train[:, used], problem.train_positive, test[:, used])
                listed = best[:0] if whole else best[used]
                signs = np.sign(statistics.difference[number, listed])
                rows.append(
                    {
                        "task": problem.task,
                        "concept": problem.concept,
                        "m": m,
                        "variant": variant,
                        "train_texts": len(problem.train),
                        "test_texts": len(problem.test),
                        **scores(decision, problem.test_positive, resamples[number]),
                        "features": [int(feature) for feature in listed],
                        "signs": [int(sign) for sign in signs],
                        **details(decision, problem.test_positive),
                        UNITS: problem.drawn_from.astype("<i8").tobytes(),
                    }
                )
    return rows
