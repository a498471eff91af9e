"""Detect concepts with few features (sparse probing): ensembles beside the raw activation and a random dictionary.

Source: Karvonen et al. 2025, *SAEBench*; Gadgil, Lin, Lee, *Ensembling Sparse Autoencoders*, section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from torch import Tensor

from sae_core.analysis.concepts.detector_outcomes import COLUMNS as DETAILS
from sae_core.analysis.concepts.detector_outcomes import UNITS
from sae_core.analysis.concepts.probes import Features, Problem, probe_rows
from sae_core.analysis.concepts.tasks import Task, build_problems
from sae_core.analysis.shared.names_in_tables import RAW, STANDARDISED
from sae_core.analysis.shared.pooling import Batch, Pooled, pool
from sae_core.analysis.shared.random_twin import beside_untrained
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.settings.run_settings import EvaluationSettings

COLUMNS = (
    *("task", "concept", "method", "m", "variant", "accuracy", "accuracy_low", "accuracy_high", "auc", "f1"),
    *("detection_rate", "false_positive_rate", "train_texts", "test_texts", "features", "signs", *DETAILS, UNITS),
)
CHANCE = 0.5
"""Accuracy of guessing: problems are balanced."""

BY_MEMBERS = (1, 5)
"""Numbers of features for which the detection by an ensemble's first members is measured too."""

ActivationsOf = Callable[[Sequence[str]], Iterable[Batch]]
"""Returns the activations of texts, cut to the pooled tokens."""


def measure_concepts(
    ensembles: Mapping[str, Ensemble],
    tasks: Sequence[Task],
    activations_of: ActivationsOf,
    sample_BD: Tensor,
    settings: EvaluationSettings,
    *,
    controls: Mapping[str, Ensemble] | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = silent,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Detect every concept of every task with every method.

    Every different text passes once through the model and once through each ensemble. Methods: those of
    `beside_untrained`, and `RAW` (all dimensions of the mean activation, m = 0). The table's ``features`` are global in
    their ensemble, best first.

    Args:
        ensembles: Ensembles by name, on ``device``.
        tasks: The tasks; none gives an empty table.
        activations_of: Returns the activations of texts.
        sample_BD: Some activations for setting up the random dictionary.
        settings: Numbers of features, texts and bootstrap samples.
        controls: The controls of boosted ensembles by the ensembles' names (see `random_stages`).
        seed: Seed of the draws: negative texts, bootstrap, random atoms.
        device: The device to encode on.
        progress: Told about texts, then about methods.

    Returns:
        (content of evaluation/concepts.json, the table with `COLUMNS`).
    """
    methods = beside_untrained(ensembles, controls or {}, sample_BD.to(device), seed=seed)
    texts = list(dict.fromkeys(text for task in tasks for text in (*task.train_texts, *task.test_texts)))
    problems = build_problems(
        tasks,
        {text: row for row, text in enumerate(texts)},
        train_texts=settings.train_texts,
        test_texts=settings.test_texts,
        seed=seed,
    )
    rows: list[dict[str, Any]] = []
    steps: dict[str, Any] = {}
    if problems:
        pooled = pool(methods, activations_of(texts), len(texts), device=device, progress=progress)
        # The fits are many and small, so several threads would only slow each other down.
        with threadpool_limits(limits=1):
            rows = _probe_methods(pooled, problems, settings, seed=seed, progress=progress)
            steps = detection_by_members(pooled, ensembles, problems, settings)
    facts = {
        "tasks": [{**_task_facts(task, problems, settings), "by_members": steps.get(task.name, {})} for task in tasks],
        "settings": {
            "seed": seed,
            "texts": len(texts),
            **settings.model_dump(mode="json"),
            "probe": "logistic regression, L2, C = 1; of all dimensions 1000 iterations at most",
            "selection": "largest |mean of positive - mean of negative| on the training texts; standardised: over the "
            "standard deviation there",
            "interval": "bootstrap over the modules or documents that test texts come from",
        },
    }
    return facts, pd.DataFrame(rows, columns=list(COLUMNS))


def _probe_methods(
    pooled: Pooled, problems: Sequence[Problem], settings: EvaluationSettings, *, seed: int, progress: Progress
) -> list[dict[str, Any]]:
    """All rows of the table, method after method."""
    chance = np.random.default_rng(seed)
    resamples = [problem.resamples(settings.bootstrap, chance) for problem in problems]
    counts = sorted(set(settings.concept_features))
    rows: list[dict[str, Any]] = []
    methods: dict[str, Features] = {**pooled.codes, RAW: pooled.raw}
    for done, (name, features) in enumerate(methods.items()):
        progress(Tick("fit concept detectors", done, len(methods), unit="methods"))
        found = probe_rows(features, problems, resamples, counts=counts, whole=name == RAW)
        rows += [{"method": name, **row} for row in found]
    progress(Tick("fit concept detectors", len(methods), len(methods), unit="methods"))
    return rows


def detection_by_members(
    pooled: Pooled, ensembles: Mapping[str, Ensemble], problems: Sequence[Problem], settings: EvaluationSettings
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By task and ensemble of several members: mean accuracy over concepts with the features of its first 1 … J ones.

    Coefficients are standardised, as the weights of a smaller ensemble would be others. Each step has ``members`` and,
    for those of `BY_MEMBERS` that are measured anyway, ``detection_<m>``.
    """
    counts = [m for m in BY_MEMBERS if m in settings.concept_features]
    nothing = [np.ones((1, len(problem.test))) for problem in problems]  # no interval is asked for
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, ensemble in ensembles.items():
        if len(ensemble) == 1 or not counts:
            continue
        for members, stop in enumerate(ensemble.offsets[1:], start=1):
            rows = probe_rows(pooled.codes[name][:, :stop], problems, nothing, counts=counts, variants=[STANDARDISED])
            means = pd.DataFrame(rows).groupby(["task", "m"], sort=False)["accuracy"].mean()
            for task in dict.fromkeys(problem.task for problem in problems):
                step = {"members": members, **{f"detection_{m}": float(means[task, m]) for m in counts}}
                found.setdefault(task, {}).setdefault(name, []).append(step)
    return found


def _task_facts(task: Task, problems: Sequence[Problem], settings: EvaluationSettings) -> dict[str, Any]:
    """Describe a task, with the numbers of texts asked for and used for each concept."""
    return {
        "task": task.name,
        "description": task.description,
        "classes": task.classes,
        "train_texts": len(task.train_texts),
        "test_texts": len(task.test_texts),
        "asked": {"train_texts": settings.train_texts, "test_texts": settings.test_texts},
        "used": {
            problem.concept: {
                "train_texts": len(problem.train),
                "test_texts": len(problem.test),
                "test_units": len(np.unique(problem.drawn_from)),
            }
            for problem in problems
            if problem.task == task.name
        },
        "chance": CHANCE,
    }
