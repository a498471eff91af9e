"""Which runs a report is about: one, or those of several seeds; of a sweep those of the setting that is chosen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from sae_core.analysis.reconstruction.stage import RECONSTRUCTION
from sae_core.analysis.truth.stage import TRUTH
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run, find_runs, first_difference
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.runs.sweep.combinations import is_sweep, open_sweep
from sae_core.runs.sweep.results import SEED, collect

FREE = ("seed", "device", "precision", "kernels", "group", "residuals")
"""Settings of training in which runs may differ and still be repetitions of one another."""

NEEDED = (RECONSTRUCTION.name, TRUTH.name)
"""One of these a run must have been measured for."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a report is about.

    Attributes:
        path: The folder that was given.
        runs: Runs that differ in their seeds alone.
        sweep: The figures of the sweep that they are part of (see `sweep.results.collect`); None without one.
        left_out: Names of runs that are not measured yet.
    """

    path: Path
    runs: list[Run]
    sweep: dict[str, Any] | None = None
    left_out: list[str] = field(default_factory=list)


def find_subject(path: Path) -> Subject:
    """The runs in a folder that a report can be about.

    Raises:
        UserError: If there is no run, none is measured, or runs differ in more than their seeds and are no sweep.
    """
    runs = [Run.open(found) for found in find_runs(path)]
    measured = [run for run in runs if run.ensembles() and any(run.evaluation(name).exists() for name in NEEDED)]
    if not measured:
        raise UserError(f"Nothing in {path} is measured yet; run sae-ensemble evaluate on it first.")
    left_out = [run.name for run in runs if run not in measured]
    groups: dict[str, list[Run]] = {}
    for run in measured:
        groups.setdefault(json.dumps(_alike(run.settings), sort_keys=True), []).append(run)
    if is_sweep(path):
        sweep = open_sweep(path)
        results = collect(sweep, [Run(path / each.folder, each.settings) for each in sweep.combinations])
        return Subject(path, _by_seed(_chosen(list(groups.values()), results)), results, left_out)
    if len(groups) > 1:
        one, other = (those[0] for those in list(groups.values())[:2])
        difference = first_difference(_alike(one.settings), _alike(other.settings))
        raise UserError(
            f"The runs {one.name} and {other.name} in {path} differ in more than their seeds ({difference}); give one "
            "of them, or a folder of runs that differ in training.seed alone."
        )
    repeated = _by_seed(measured)
    for before, run in pairwise(repeated):
        if before.settings.training.seed == run.settings.training.seed:
            raise UserError(
                f"The runs {before.name} and {run.name} in {path} have the same seed, so one repeats nothing of the "
                "other; move one of them away."
            )
    return Subject(path, repeated, None, left_out)


def _alike(settings: RunSettings) -> dict[str, Any]:
    """The settings in which repetitions agree."""
    values = settings.model_dump(mode="json")
    for name in FREE:
        values["training"].pop(name, None)
    return values


def _by_seed(runs: Sequence[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: run.settings.training.seed)


def _chosen(groups: Sequence[list[Run]], results: dict[str, Any]) -> list[Run]:
    """The setting that the sweep's rule takes, or that comes closest; of several that with most seeds and members."""
    values = (results["choice"]["closest"] or {}).get("values", {})
    by_name = {each["run"]: each["values"] for each in results["runs"]}

    def rank(group: list[Run]) -> tuple[bool, int, int]:
        own = by_name.get(group[0].name, {})
        fits = all(own.get(name) == value for name, value in values.items() if name != SEED)
        return fits, len(group), group[0].settings.training.members

    return max(groups, key=rank)
