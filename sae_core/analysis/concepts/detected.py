"""Average the detection accuracies of methods, and compare methods on the same test texts.

Intervals come from a bootstrap over test texts, which draws the passages of a module or document together. A draw takes
the same texts for every method, concept and task, since concepts share texts: the positive texts of one concept are
negative texts of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.analysis.concepts.detector_outcomes import unpack
from sae_core.analysis.shared.bootstrap import interval
from sae_core.analysis.shared.names_in_tables import CONCEPTS, CONFOUNDED
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import DETECTION, DETECTORS, Run

Floats = NDArray[np.float64]

EVERY = ""
"""As a task: the mean over concepts, then over tasks without the confounded one. As the other method: no comparison."""
COLUMNS = ("task", "m", "variant", "method", "other", "accuracy", "low", "high", "units")


class Mean(NamedTuple):
    """A mean accuracy, or its difference to another method's, with a 95 % interval; NaN if there is no interval."""

    accuracy: float
    low: float
    high: float


Means = dict[tuple[str, str], Mean]
"""By (method, ``m.variant``)."""


def mean_accuracies(detectors: pd.DataFrame, *, samples: int, seed: int) -> pd.DataFrame:
    """The mean accuracy of every method and the difference of every two methods, by task and over all tasks.

    Args:
        detectors: One row per detector: `details.KEY`, ``right`` (see `details.pack`) and ``units``, the number of each
            test text's module or document (int64 as bytes). Earlier evaluations have no ``units``; then every text
            counts as its own unit, and concepts count as independent.
        samples: Number of bootstrap samples.
        seed: Seed of the draws.

    Returns:
        A table with `COLUMNS`; ``task`` and ``other`` may be `EVERY`. ``units`` is the number of units drawn from.
    """
    rows: list[dict[str, Any]] = []
    tasks = list(dict.fromkeys(detectors["task"].astype(str)))
    scopes = [([task], task) for task in tasks]
    averaged = [task for task in tasks if task != CONFOUNDED]
    scopes += [(averaged, EVERY)] if averaged else []
    for chosen, name in scopes:
        own = detectors[detectors["task"].isin(chosen)]
        draws = _Draws(own, samples=samples, seed=seed)
        for (m, variant), those in own.groupby(["m", "variant"], sort=False):
            place = {"task": name, "m": int(str(m)), "variant": str(variant), "units": draws.units}
            rows += [{**place, **row} for row in _compared(those, draws)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _compared(rows: pd.DataFrame, draws: _Draws) -> Iterator[dict[str, Any]]:
    """Yield the means of all methods, and the differences between methods.

    A method that was measured on only some of the concepts (a method of a later version, for example) is left out,
    since its mean would be over other concepts.
    """
    every = {str(name): draws.mean(own) for name, own in rows.groupby("method", sort=False)}
    concepts = set().union(*(own for _, _, own in every.values()))
    found = {name: (accuracy, drawn_R) for name, (accuracy, drawn_R, own) in every.items() if own == concepts}
    for name, (accuracy, drawn_R) in found.items():
        low, high = interval(drawn_R)
        yield {"method": name, "other": EVERY, "accuracy": accuracy, "low": low, "high": high}
    for one, other in combinations(found, 2):
        (first, first_R), (second, second_R) = found[one], found[other]
        low, high = interval(first_R - second_R)
        yield {"method": one, "other": other, "accuracy": first - second, "low": low, "high": high}


class _Draws:
    """Bootstrap samples of the units that test texts belong to, for all concepts of some tasks at once."""

    def __init__(self, detectors: pd.DataFrame, *, samples: int, seed: int) -> None:
        self._places: dict[tuple[str, str], NDArray[np.int64]] = {}
        keys = list(zip(detectors["task"].astype(str), detectors["concept"].astype(str), strict=True))
        known = detectors["units"] if "units" in detectors else [None] * len(detectors)
        units: dict[tuple[str, str], NDArray[Any]] = {}
        alone = 0
        for key, packed, right in zip(keys, known, detectors["right"], strict=True):
            if key not in units:
                texts = len(unpack(right))
                mine = np.frombuffer(packed, "<i8") if isinstance(packed, bytes) else np.empty(0, "<i8")
                # These numbers are negative, so they never equal a hash.
                units[key] = mine if len(mine) == texts else -1 - np.arange(alone, alone + texts)
                alone += texts
        every, places = np.unique(np.concatenate(list(units.values())), return_inverse=True)
        ends = np.cumsum([len(own) for own in units.values()])
        self._places = dict(zip(units, np.split(places, ends[:-1]), strict=True))
        self.units = len(every)
        chance = np.random.default_rng(seed)
        # A single unit gives no interval.
        count = samples if self.units > 1 else 0
        self._weights_RU = chance.multinomial(self.units, [1 / self.units] * self.units, size=count).astype(np.float32)

    def mean(self, rows: pd.DataFrame) -> tuple[float, Floats, set[tuple[str, str]]]:
        """(mean over concepts, then over tasks; the same on every draw [R]; the concepts)."""
        sizes = rows.groupby("task")["task"].transform("size").to_numpy()
        weights = 1 / (sizes * rows["task"].nunique())
        keys = list(zip(rows["task"].astype(str), rows["concept"].astype(str), strict=True))
        accuracy, drawn_R = 0.0, np.zeros(len(self._weights_RU))
        for key, packed, weight in zip(keys, rows["right"], weights.tolist(), strict=True):
            right = unpack(packed)
            drawn_RX = self._weights_RU[:, self._places[key]].astype(np.float64)
            texts_R = drawn_RX.sum(axis=1)
            accuracy += weight * float(right.mean())
            drawn_R += weight * np.divide(
                drawn_RX @ right, texts_R, out=np.full(len(drawn_R), math.nan), where=texts_R > 0
            )
        return accuracy, drawn_R, set(keys)


def read_means(run: Run) -> pd.DataFrame:
    """Read the table of `mean_accuracies` of a run; if an older version did not write the table, compute it.

    The table is empty if no concept was detected. The oldest runs do not record which texts were classified correctly.
    For them, the table has no differences, and the intervals assume that concepts are independent.
    """
    if run.evaluation_table(DETECTION).exists():
        return read_table(run.evaluation_table(DETECTION))
    if run.evaluation_table(DETECTORS).exists():
        settings = run.settings
        detectors = read_table(run.evaluation_table(DETECTORS))
        if len(detectors):
            return mean_accuracies(detectors, samples=settings.evaluation.bootstrap, seed=settings.training.seed)
    if not run.evaluation_table(CONCEPTS).exists():
        return pd.DataFrame(columns=list(COLUMNS))
    return _of_concepts(read_table(run.evaluation_table(CONCEPTS)))


def _of_concepts(table: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracies over concepts; the intervals assume that concepts are independent."""
    rows = []
    tasks = list(dict.fromkeys(table["task"].astype(str)))
    for chosen, name in [([task], task) for task in tasks] + [([t for t in tasks if t != CONFOUNDED], EVERY)]:
        own = table[table["task"].isin(chosen)]
        for (method, m, variant), those in own.groupby(["method", "m", "variant"], sort=False):
            weights = 1 / (those.groupby("task")["accuracy"].transform("size") * those["task"].nunique())
            halves = (those["accuracy_high"] - those["accuracy_low"]) / 2
            half = math.sqrt(float(((weights * halves) ** 2).sum()))
            mean = float((weights * those["accuracy"]).sum())
            rows.append((name, int(str(m)), variant, method, EVERY, mean, max(0.0, mean - half), min(1.0, mean + half)))
    columns = ("task", "m", "variant", "method", "other", "accuracy", "low", "high")
    return pd.DataFrame(rows, columns=list(columns)).assign(units=0)


def means_of(table: pd.DataFrame, task: str = EVERY) -> Means:
    """The mean accuracies of a table of `read_means`, of one task or over all."""
    return {key: mean for key, other, mean in _entries(table, task) if other == EVERY}


def above_of(table: pd.DataFrame, task: str = EVERY) -> dict[tuple[str, str], dict[str, list[float | None]]]:
    """The 95 % interval of the difference, by (method, ``m.variant``) and other method, of one task or over all."""
    found: dict[tuple[str, str], dict[str, list[float | None]]] = {}
    for (method, key), other, mean in _entries(table, task):
        if other != EVERY and not math.isnan(mean.low):
            found.setdefault((method, key), {})[other] = [mean.low, mean.high]
            found.setdefault((other, key), {})[method] = [-mean.high, -mean.low]
    return found


def difference_of(table: pd.DataFrame, task: str, m: int, variant: str) -> Mapping[tuple[str, str], Mean]:
    """The difference of two methods, by (method, other method), in both orders."""
    found = {}
    for (method, key), other, mean in _entries(table, task):
        if other != EVERY and key == f"{m}.{variant}":
            found[method, other] = mean
            found[other, method] = Mean(-mean.accuracy, -mean.high, -mean.low)
    return found


def _entries(table: pd.DataFrame, task: str) -> Iterator[tuple[tuple[str, str], str, Mean]]:
    own = table[table["task"] == task]
    columns: Sequence[str] = ("method", "m", "variant", "other", "accuracy", "low", "high")
    for method, m, variant, other, *mean in own[list(columns)].itertuples(index=False):
        yield (str(method), f"{m}.{variant}"), str(other), Mean(*map(float, mean))


def texts_used(task: Mapping[str, Any]) -> str:
    """The numbers of texts per concept, in words: ``168 training and 72 test texts (1,000 and 400 asked for), …``.

    Args:
        task: The task's entry in evaluation/concepts.json.
    """
    counts = {key: [used[key] for used in task["used"].values()] for key in ("train_texts", "test_texts", "test_units")}
    said = {key: f"{min(own):,}" + (f" to {max(own):,}" if min(own) < max(own) else "") for key, own in counts.items()}
    asked = task["asked"]
    return (
        f"{said['train_texts']} training and {said['test_texts']} test texts from {said['test_units']} modules or "
        f"documents ({asked['train_texts']:,} and {asked['test_texts']:,} asked for)"
    )
