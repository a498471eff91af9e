"""95 % bootstrap intervals of figures, and of differences between methods that were measured on the same draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ABOVE = "_above"
"""Ending of what a figure is above the same of other methods: by their names, [low, high] of the difference."""


def interval(draws_R: Floats) -> tuple[float, float]:
    """Percentile interval of a figure's bootstrap values; NaN among them is left out, and both are NaN without any."""
    known = draws_R[~np.isnan(draws_R)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def differences(draws: Mapping[str, Floats]) -> dict[str, dict[str, list[float | None]]]:
    """For each method and each other one the interval of what the first is above the second, draw by draw.

    What makes a draw hard makes it hard for both, so these are narrower than intervals that take methods for
    independent.

    Args:
        draws: By method the figure on the same bootstrap samples [R].
    """
    found: dict[str, dict[str, list[float | None]]] = {}
    for name, own in draws.items():
        pairs = {other: interval(own - theirs) for other, theirs in draws.items() if other != name}
        found[name] = {other: [None if math.isnan(end) else end for end in ends] for other, ends in pairs.items()}
    return found


def mean_draws(values: Mapping[str, Floats], *, samples: int, seed: int) -> dict[str, Floats]:
    """By method the mean over units on bootstrap samples of these units [R], the same samples for all methods.

    Values that are NaN are left out of a mean; a sample that holds nothing else has NaN.

    Args:
        values: By method one value a unit [U], of the same units in the same order.
        samples: Bootstrap samples, R.
        seed: Of the draws.
    """
    if not values:
        return {}
    values_KU = np.array(list(values.values()), dtype=np.float64)
    known_KU = ~np.isnan(values_KU)
    values_KU = np.where(known_KU, values_KU, 0.0)
    units = values_KU.shape[1]
    chance = np.random.default_rng(seed)
    draws_KR = np.full((len(values), samples), math.nan)
    for sample in range(samples):  # one at a time: counts of all samples would be as large as samples times units
        drawn_U = chance.integers(units, size=units)
        # Taken and summed row by row, so that methods with the same values have the same mean to the last digit.
        count_K = known_KU.take(drawn_U, axis=1).sum(axis=1)
        sum_K = values_KU.take(drawn_U, axis=1).sum(axis=1)
        np.divide(sum_K, count_K, out=draws_KR[:, sample], where=count_K > 0)
    return dict(zip(values, draws_KR, strict=True))


def share_draws(share: float, count: int, *, samples: int, seed: int | Sequence[int]) -> Floats:
    """A share of some units on bootstrap samples of them [R]: how many of ``count`` draws are among the share.

    Args:
        share: Of the units.
        count: How many units there are, at least one.
        samples: Bootstrap samples, R.
        seed: Of the draws.
    """
    draws_R: Floats = np.random.default_rng(seed).binomial(count, share, size=samples) / count
    return draws_R
