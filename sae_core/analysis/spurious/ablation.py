"""Ablate any choice of features and measure the effect on a linear probe on pooled activations (SHIFT).

Ablating sets features to 0 and keeps the reconstruction error: a' = decode(c without them) + (a − â) = a − Σ_i c_i·d_i.
Decoding, pooling and the probe are linear, so the probe's value of a text falls by exactly Σ_i c̄_i·(w·d_i), where c̄_i
is the text's mean coefficient. The same holds for boosted ensembles: their coefficients come from residual encoding,
and the decoder reads the one concatenated code.

Sources: Marks et al. 2024, *Sparse Feature Circuits*, section 4 (SHIFT); Karvonen et al. 2025, *SAEBench* (SCR).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sae_core.analysis.concepts.logistic import fit_dense
from sae_core.foundation.errors import UserError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

SMALLEST_GAP = 0.001
"""If the oracle is less than this above the biased probe, there is nothing to gain, and S_SCR is 0."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear probe: positive where a·w + b > 0.

    Attributes:
        weights_D: w.
        bias: b.
    """

    weights_D: Floats
    bias: float

    def values(self, acts_XD: Floats) -> Floats:
        """a·w + b for each text."""
        values: Floats = acts_XD @ self.weights_D + self.bias
        return values


def fit_probe(acts_XD: Floats, positive_X: Bools) -> Probe:
    """Fit a logistic regression (L2, C = 1) on standardised dimensions; constant dimensions get the weight 0.

    Raises:
        UserError: If all texts are positive, or none is.
    """
    if positive_X.all() or not positive_X.any():
        raise UserError("A probe needs texts of both classes; give a task in which both occur.")
    mean_D = acts_XD.mean(axis=0)
    centred_XD = acts_XD - mean_D
    deviation_D = np.sqrt((centred_XD**2).mean(axis=0))
    varies_D = deviation_D > 1e-9 * np.sqrt((acts_XD**2).mean(axis=0))
    scale_D = np.where(varies_D, deviation_D, np.inf)
    weights_D, bias = fit_dense(centred_XD / scale_D, positive_X)
    weights_D = weights_D / scale_D
    return Probe(weights_D, bias - float(weights_D @ mean_D))


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a probe for T on texts with known T and S.

    Attributes:
        target: Accuracy on the target T.
        spurious: Share of texts on which the probe's answer is the spurious attribute S; 0.5 is ideal.
        groups: Accuracy on T in the four groups, by (T, S); NaN for a group without texts.
    """

    target: float
    spurious: float
    groups: dict[tuple[bool, bool], float]

    @property
    def worst_group(self) -> float:
        """The lowest accuracy on T of any group."""
        return min(value for value in self.groups.values() if not np.isnan(value))


def outcome(values_X: Floats, target_X: Bools, spurious_X: Bools) -> Outcome:
    """Compare a probe's values with both labels."""
    called_X = values_X > 0
    right_X = called_X == target_X
    groups = {}
    for target in (False, True):
        for spurious in (False, True):
            in_group_X = (target_X == target) & (spurious_X == spurious)
            groups[target, spurious] = float(right_X[in_group_X].mean()) if in_group_X.any() else np.nan
    return Outcome(float(right_X.mean()), float((called_X == spurious_X).mean()), groups)


def scr(ablated: float, biased: float, oracle: float) -> float:
    """S_SCR = (A_ablated − A_biased)/(A_oracle − A_biased) of accuracies on T; negative if ablating does harm.

    0 if the oracle is less than `SMALLEST_GAP` above the biased probe, as in SAEBench.
    """
    gap = oracle - biased
    return (ablated - biased) / gap if gap >= SMALLEST_GAP else 0.0


@dataclass(frozen=True, slots=True)
class Texts:
    """Pooled activations of texts and their two labels, in three parts that share no text.

    Attributes:
        acts_XD: Mean activations.
        target_X: T of each text.
        spurious_X: S of each text.
        confounded: Rows for training, all with T = S.
        balanced: Rows for training, balanced over the four groups: for the oracle and for finding features of S.
        test: Rows for testing, balanced over the four groups.
    """

    acts_XD: Floats
    target_X: Bools
    spurious_X: Bools
    confounded: Integers
    balanced: Integers
    test: Integers


class Workbench:
    """One ensemble's features and one biased probe: rank features, ablate any of them, and measure the result.

    A workbench answers in milliseconds, so a person can tick features and see the result at once.

    Args:
        texts: The texts.
        codes_XM: Mean coefficients of the ensemble's features, α folded in, sparse; for a boosted ensemble, those of
            residual encoding.
        dictionary_MD: The ensemble's atoms.
        biased: The probe for T on the confounded texts; fitted here by default.
        oracle: The probe for T on the balanced texts; fitted here by default.
    """

    def __init__(
        self,
        texts: Texts,
        codes_XM: sparse.csr_array,
        dictionary_MD: NDArray[np.float32],
        *,
        biased: Probe | None = None,
        oracle: Probe | None = None,
    ) -> None:
        self.texts, self._codes_XM, self._dictionary_MD = texts, codes_XM, dictionary_MD
        self.biased = biased or _fit(texts, texts.confounded)
        self.oracle = oracle or _fit(texts, texts.balanced)
        self._test_codes_XM = sparse.csc_array(codes_XM[texts.test])
        self._test_values_X = self.biased.values(texts.acts_XD[texts.test])

    @property
    def features(self) -> int:
        """Number of features, M."""
        return len(self._dictionary_MD)

    @cached_property
    def effect_M(self) -> Floats:
        """w·d_i: the change of the biased probe's value per unit of a feature's coefficient."""
        return self._project(self.biased.weights_D)

    @cached_property
    def difference_M(self) -> Floats:
        """f̄₊ − f̄₋: a feature's mean coefficient on balanced training texts with S, minus that on texts without S."""
        rows = self.texts.balanced
        positive_X = self.texts.spurious_X[rows]
        weights_X = np.where(positive_X, 1 / positive_X.sum(), -1 / (~positive_X).sum())
        difference_M: Floats = np.asarray(weights_X @ self._codes_XM[rows].astype(np.float64)).ravel()
        return difference_M

    @cached_property
    def scores_M(self) -> Floats:
        """(f̄₊ − f̄₋)·(w·d_i): the part of the probe's dependence on S that goes through each feature."""
        return self.difference_M * self.effect_M

    def scores_by(self, probe: Probe) -> Floats:
        """The same with another probe's w; SAEBench uses a probe for S."""
        return self.difference_M * self._project(probe.weights_D)

    def rank(self, scores_M: Floats | None = None, *, among_M: Bools | None = None) -> Integers:
        """Features by descending |score|, of equal ones the smaller number first; features with score 0 are left out.

        Args:
            scores_M: The scores; `scores_M` by default.
            among_M: Rank only these features.
        """
        size_M = np.abs(self.scores_M if scores_M is None else scores_M)
        if among_M is not None:
            size_M = np.where(among_M, size_M, 0.0)
        order = np.argsort(-size_M, kind="stable")
        return order[size_M[order] > 0]

    def before(self) -> Outcome:
        """The biased probe with nothing ablated."""
        return self._outcome(self._test_values_X)

    def best(self) -> Outcome:
        """The oracle: a probe fitted on balanced texts."""
        return self._outcome(self.oracle.values(self.texts.acts_XD[self.texts.test]))

    def ablate(self, features: Sequence[int] | Integers) -> Outcome:
        """The biased probe on the test texts with features set to 0, the reconstruction error kept.

        Raises:
            UserError: If there is no such feature.
        """
        return self._outcome(self.values(features))

    def values(self, features: Sequence[int] | Integers) -> Floats:
        """The biased probe's values of the test texts with features set to 0; a value above 0 means T.

        Raises:
            UserError: If there is no such feature.
        """
        chosen = self._checked(features)
        values_X: Floats = self._test_values_X - self._test_codes_XM[:, chosen] @ self.effect_M[chosen]
        return values_X

    def retrain(self, features: Sequence[int] | Integers) -> Outcome:
        """A new probe, fitted on the confounded texts and tested with features set to 0 in both.

        Raises:
            UserError: If there is no such feature.
        """
        texts, chosen = self.texts, self._checked(features)
        atoms_nD = self._dictionary_MD[chosen].astype(np.float64)

        def without(rows: Integers) -> Floats:
            left_XD: Floats = texts.acts_XD[rows] - self._codes_XM[rows][:, chosen].astype(np.float64) @ atoms_nD
            return left_XD

        probe = fit_probe(without(texts.confounded), texts.target_X[texts.confounded])
        return self._outcome(probe.values(without(texts.test)))

    def scr(self, ablated: Outcome) -> float:
        """S_SCR of an outcome, between the biased probe (0) and the oracle (1)."""
        return scr(ablated.target, self.before().target, self.best().target)

    def _project(self, weights_D: Floats) -> Floats:
        # Compute in float64 block by block, since a float64 copy of a large dictionary would take gigabytes.
        blocks = range(0, len(self._dictionary_MD), 8192)
        parts = [self._dictionary_MD[start : start + 8192].astype(np.float64) @ weights_D for start in blocks]
        projected_M: Floats = np.concatenate(parts)
        return projected_M

    def _outcome(self, values_X: Floats) -> Outcome:
        test = self.texts.test
        return outcome(values_X, self.texts.target_X[test], self.texts.spurious_X[test])

    def _checked(self, features: Sequence[int] | Integers) -> Integers:
        """The features, each once, since a feature cannot be ablated twice."""
        chosen = np.unique(np.asarray(features, dtype=np.int64))
        if len(chosen) and not 0 <= chosen[0] <= chosen[-1] < self.features:
            wrong = chosen[0] if chosen[0] < 0 else chosen[-1]
            raise UserError(f"There is no feature {wrong}; this ensemble has the features 0 to {self.features - 1}.")
        return chosen


def _fit(texts: Texts, rows: Integers) -> Probe:
    return fit_probe(texts.acts_XD[rows], texts.target_X[rows])
