"""The figures of a report: of every ensemble, as a mean with an interval, from the evaluation files of its runs.

With several seeds the interval is of the mean over them (Student's t). With one run it is the bootstrap interval of the
evaluation itself, which does not know what another seed would have changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sae_core.analysis.concepts.detected import above_of, means_of, read_means
from sae_core.analysis.concepts.stage import CONCEPTS
from sae_core.analysis.cost.figures import OF_MEMBERS
from sae_core.analysis.cost.stage import COST
from sae_core.analysis.figures import REPORTED
from sae_core.analysis.reconstruction.figures import EXPLAINED_VARIANCE, L0
from sae_core.analysis.reconstruction.stage import RECONSTRUCTION
from sae_core.analysis.shared.bootstrap import ABOVE
from sae_core.analysis.shared.jobs import measured
from sae_core.analysis.shared.names_in_tables import CONFOUNDED
from sae_core.analysis.shared.seeds import difference, mean_interval, within
from sae_core.analysis.summary import ensembles_measured
from sae_core.analysis.truth.stage import TRUTH
from sae_core.foundation.figures import Figure
from sae_core.foundation.methods import REFERENCE
from sae_core.foundation.run import Run

Found = dict[str, Any]
"""``mean``, ``low``, ``high`` (None where undefined), ``values`` (one a run), ``interval`` (seeds, bootstrap, None).

Of one run also ``above``: by other methods the interval of the difference to them."""


def ensemble_figures(runs: Sequence[Run]) -> dict[str, dict[str, Found]]:
    """For each ensemble that all runs have, its figures by ``evaluation.name``; those that no run has are left out."""
    names = [folder.name for folder in runs[0].ensembles()]
    names = [name for name in names if all(run.ensemble(name).manifest.exists() for run in runs)]
    found: dict[str, dict[str, Found]] = {name: {} for name in names}
    sources = {each.source for each in REPORTED}
    contents = {source: [ensembles_measured(run, source) for run in runs] for source in sources}
    for name in names:
        for declared in REPORTED:
            figure = figure_of([content.get(name, {}) for content in contents[declared.source]], declared)
            if figure["mean"] is not None:
                found[name][declared.key] = figure
    for (method, key), figure in concept_means(runs).items():
        if method in found:
            found[method][f"concepts.{key}"] = figure
    return found


def figure_of(own: Sequence[Mapping[str, Any]], declared: Figure) -> Found:
    """A figure over the runs of which an evaluation holds these figures, with its interval.

    Args:
        own: The figures of an ensemble, one mapping a run.
        declared: Which of them.
    """
    values = [declared.of(each) for each in own]
    figure = mean_interval([None if value is None else float(value) for value in values])
    figure = within(figure, 0.0, 1.0) if declared.share else figure
    if figure["low"] is not None:
        return {**figure, "interval": "seeds"}
    if len(own) == 1 and (above := f"{declared.path}{ABOVE}") in own[0]:
        figure = {**figure, "above": own[0][above]}
    low, high = declared.interval(own[0]) if len(own) == 1 else (None, None)
    if low is None or high is None:
        return {**figure, "interval": None}
    return {**figure, "low": low, "high": high, "interval": "bootstrap"}


def concept_means(runs: Sequence[Run]) -> dict[tuple[str, str], Found]:
    """Mean accuracy of detecting a concept by (method, ``m.variant``), over concepts, then over tasks.

    The confounded task is left out. The interval of one run is that of `sae_core.analysis.concepts.detected`.
    """
    tables = [read_means(run) for run in runs]
    by_run = [means_of(table) for table in tables]
    above = above_of(tables[0]) if len(runs) == 1 else {}
    found = {}
    for key in dict.fromkeys(key for each in by_run for key in each):
        figure = within(mean_interval([each[key].accuracy if key in each else None for each in by_run]), 0.0, 1.0)
        own = by_run[0].get(key)
        if figure["low"] is not None:
            found[key] = {**figure, "interval": "seeds"}
        elif len(runs) == 1 and own is not None and not math.isnan(own.low):
            ends = {"low": own.low, "high": own.high}
            found[key] = {**figure, **ends, "interval": "bootstrap", "above": above.get(key, {})}
        else:
            found[key] = {**figure, "interval": None}
    return found


def by_members(runs: Sequence[Run], name: str) -> list[dict[str, Any]]:
    """Figures of the first 1, 2, … J members of an ensemble: explained variance, L0, what they cost and what they find.

    Where it is measured, that is ``recall`` of true features and ``detection_<m>``, the accuracy of detecting a concept
    with m standardised features, meant over the tasks but the confounded one.
    """
    reconstruction, costs = (
        [ensembles_measured(run, stage.name).get(name, {}).get("by_members", []) for run in runs]
        for stage in (RECONSTRUCTION, COST)
    )
    steps = []
    for number in range(min(len(each) for each in reconstruction)):
        step: dict[str, Any] = {"members": reconstruction[0][number]["members"]}
        for key in (EXPLAINED_VARIANCE.path, L0.path):
            step[key] = mean_interval([each[number].get(key) for each in reconstruction])
        for key in (figure.path for figure in OF_MEMBERS):
            step[key] = mean_interval([each[number].get(key) if number < len(each) else None for each in costs])
        steps.append(step)
    return _with_findings(runs, name, steps)


def _with_findings(runs: Sequence[Run], name: str, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to the steps what their members find, where that was measured for all of them in every run."""
    recalled = [ensembles_measured(run, TRUTH.name).get(name, {}).get("by_members", []) for run in runs]
    for by_run in (recalled, [_detected(run, name) for run in runs]):
        if any(len(own) != len(steps) for own in by_run):
            continue
        for number, step in enumerate(steps):
            for key in by_run[0][number]:
                if key not in step:  # what is reconstructed is there already
                    step[key] = within(mean_interval([own[number].get(key) for own in by_run]), 0.0, 1.0)
    return steps


def _detected(run: Run, name: str) -> list[dict[str, Any]]:
    """The steps of detection of an ensemble, meant over tasks; none where they were not measured."""
    tasks = measured(run, CONCEPTS).get("tasks", [])
    by_task = [task.get("by_members", {}).get(name) for task in tasks if task["task"] != CONFOUNDED]
    if not by_task or not all(by_task):
        return []
    keys = by_task[0][0].keys()
    return [{key: sum(task[key] for task in same) / len(same) for key in keys} for same in zip(*by_task, strict=True)]


def compared(figures: Mapping[str, Mapping[str, Found]], name: str, key: str, other: str = REFERENCE) -> Found | None:
    """What a figure of one ensemble is above that of another one, with an interval; None if one of both is missing.

    With several seeds it is paired, seed by seed. With one run it is paired, too, draw by draw of the tokens or texts
    that both were measured on; only where an earlier evaluation did not keep that, the two bootstrap intervals are
    taken for independent, which makes the interval of the difference rather too wide.
    """
    return apart(figures.get(name, {}).get(key), figures.get(other, {}).get(key), other)


def apart(one: Found | None, two: Found | None, other: str, *, by_draw: bool = True) -> Found | None:
    """What one figure is above another one, as `compared` has it.

    Args:
        one: The figure.
        two: The other one.
        other: By which name the first one has the interval of the difference, with one run.
        by_draw: Whether that is of the same draws for both.
    """
    if one is None or two is None:
        return None
    paired = difference(one["values"], two["values"])
    if paired["low"] is not None:
        return {**paired, "interval": "seeds"}
    low, high = one.get("above", {}).get(other) or (None, None)
    if low is not None and high is not None:
        return {**paired, "low": low, "high": high, "interval": "paired bootstrap" if by_draw else "bootstrap"}
    if one["interval"] == two["interval"] == "bootstrap":
        half = math.hypot((one["high"] - one["low"]) / 2, (two["high"] - two["low"]) / 2)
        return {**paired, "low": paired["mean"] - half, "high": paired["mean"] + half, "interval": "bootstrap"}
    return {**paired, "interval": None}


def verdict_on(figure: Found | None) -> str | None:
    """Whether a difference is ``higher``, ``lower`` or ``open`` (its interval holds 0); None without an interval."""
    if figure is None or figure["low"] is None:
        return None
    if figure["low"] > 0:
        return "higher"
    return "lower" if figure["high"] < 0 else "open"
