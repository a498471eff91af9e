"""Bootstrap 95 % intervals of figures, and of differences between methods on the same draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ABOVE = "_above"
"""Suffix of a figure's differences to other methods: by method, [low, high] of the difference."""


def interval(draws_R: Floats) -> tuple[float, float]:
    """Percentile interval of a figure's bootstrap values, without NaN; (NaN, NaN) if no value is left."""
    known = draws_R[~np.isnan(draws_R)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def differences(draws: Mapping[str, Floats]) -> dict[str, dict[str, list[float | None]]]:
    """The interval of the difference between each method and each other method, draw by draw.

    A hard draw is hard for both methods, so these intervals are narrower than intervals of independent methods.

    Args:
        draws: The figure of each method on the same bootstrap samples [R].
    """
    found: dict[str, dict[str, list[float | None]]] = {}
    for name, own in draws.items():
        pairs = {other: interval(own - theirs) for other, theirs in draws.items() if other != name}
        found[name] = {other: [None if math.isnan(end) else end for end in ends] for other, ends in pairs.items()}
    return found


def mean_draws(values: Mapping[str, Floats], *, samples: int, seed: int) -> dict[str, Floats]:
    """The mean of each method over units on bootstrap samples of the units [R], the same samples for all methods.

    NaN values are left out of a mean; the mean of a sample with only NaN is NaN.

    Args:
        values: One value per unit [U] of each method, with the same units in the same order.
        samples: Number of bootstrap samples, R.
        seed: Seed of the draws.
    """
    if not values:
        return {}
    values_KU = np.array(list(values.values()), dtype=np.float64)
    known_KU = ~np.isnan(values_KU)
    values_KU = np.where(known_KU, values_KU, 0.0)
    units = values_KU.shape[1]
    chance = np.random.default_rng(seed)
    draws_KR = np.full((len(values), samples), math.nan)
    for sample in range(samples):  # one sample at a time: the counts of all samples would take samples × units numbers
        drawn_U = chance.integers(units, size=units)
        # Sum row by row, so that methods with the same values have the same mean to the last digit.
        count_K = known_KU.take(drawn_U, axis=1).sum(axis=1)
        sum_K = values_KU.take(drawn_U, axis=1).sum(axis=1)
        np.divide(sum_K, count_K, out=draws_KR[:, sample], where=count_K > 0)
    return dict(zip(values, draws_KR, strict=True))


def share_draws(share: float, count: int, *, samples: int, seed: int | Sequence[int]) -> Floats:
    """The share of units with a property on bootstrap samples of the units [R], as binomial draws.

    Args:
        share: The share of all units.
        count: Number of units, at least one.
        samples: Number of bootstrap samples, R.
        seed: Seed of the draws.
    """
    draws_R: Floats = np.random.default_rng(seed).binomial(count, share, size=samples) / count
    return draws_R
