"""Average figures over several seeds: mean, interval, and the difference to another method on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from sae_core.foundation.figures import reach

CONFIDENCE = 0.95


def mean_interval(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and 95 % interval of the mean (Student's t) of one figure, with one value per seed.

    Seeds with an undefined value (None) are left out. An interval needs two values.

    Returns:
        ``mean``, ``low``, ``high`` (None where undefined) and the ``values`` as given.
    """
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(known):
        return {"mean": None, "low": None, "high": None, "values": list(values)}
    mean, half = float(known.mean()), math.nan
    if len(known) > 1:
        half = float(stdtrit(len(known) - 1, (1 + CONFIDENCE) / 2) * known.std(ddof=1) / math.sqrt(len(known)))
    known_half = math.isfinite(half)
    return {
        "mean": mean,
        "low": mean - half if known_half else None,
        "high": mean + half if known_half else None,
        "values": list(values),
    }


def within(figure: dict[str, Any], low: float, high: float) -> dict[str, Any]:
    """Cut the interval of a figure to its possible values, such as 0 to 1 for a share."""
    if figure["low"] is None:
        return figure
    return {**figure, "low": max(figure["low"], low), "high": min(figure["high"], high)}


def difference(values: Sequence[float | None], others: Sequence[float | None]) -> dict[str, Any]:
    """`mean_interval` of ``values`` minus ``others``, seed by seed.

    Both have the same data and seeds, so a hard seed does not blur the difference.
    """
    pairs = zip(values, others, strict=True)
    return mean_interval([None if one is None or other is None else one - other for one, other in pairs])


def over_seeds(figures: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """`mean_interval` of each named figure; a dotted name reaches into nested mappings.

    Args:
        figures: The figures of each seed.
        names: The names of figures; a figure that a seed lacks is None there.
    """
    found = {name: [reach(one, name) for one in figures] for name in names}
    return {name: mean_interval([None if one is None else float(one) for one in own]) for name, own in found.items()}
