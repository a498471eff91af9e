"""By how much methods detect concepts better than each other, from the same test texts (paired bootstrap)."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.evaluation.bootstrap import paired_mean
from sae_core.evaluation.details import unpack
from sae_core.evaluation.summary import CONFOUNDED
from sae_core.files import read_table
from sae_core.run import DETECTORS, Run

Bits = dict[tuple[str, str], NDArray[np.bool_]]
"""By task and concept, which test texts a detector called rightly."""


def detected_above(run: Run) -> dict[tuple[str, str], dict[str, list[float]]]:
    """By (method, ``m.variant``) and other method the 95 % interval of the difference in mean accuracy.

    Means are over concepts, then over tasks, without the confounded one, as in `figures.concept_means`. Empty for runs
    that were evaluated before it was kept which texts were called rightly. A pair is left out where the two were not
    measured on the same concepts.
    """
    if not run.evaluation_table(DETECTORS).exists():
        return {}
    table: pd.DataFrame = read_table(run.evaluation_table(DETECTORS))
    table = table[table["task"] != CONFOUNDED]
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for (m, variant), rows in table.groupby(["m", "variant"], sort=False):
        key = f"{m}.{variant}"
        by_method = {str(method): _bits(own) for method, own in rows.groupby("method", sort=False)}
        for one, other in combinations(by_method, 2):
            if by_method[one].keys() == by_method[other].keys():
                low, high = _above(by_method[one], by_method[other], run)
                found.setdefault((one, key), {})[other] = [low, high]
                found.setdefault((other, key), {})[one] = [-high, -low]
    return found


def _bits(rows: pd.DataFrame) -> Bits:
    packed = zip(rows["task"], rows["concept"], rows["right"], strict=True)
    return {(str(task), str(concept)): unpack(right) for task, concept, right in packed}


def _above(one: Bits, other: Bits, run: Run) -> list[float]:
    tasks = pd.Series([task for task, _ in one])
    weights = 1 / (tasks.map(tasks.value_counts()) * tasks.nunique())
    pairs = [
        (float((right & ~other[key]).mean()), float((other[key] & ~right).mean()), len(right))
        for key, right in one.items()
    ]
    settings = run.settings
    return paired_mean(pairs, weights.tolist(), samples=settings.evaluation.bootstrap, seed=settings.training.seed)
