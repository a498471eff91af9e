"""Names and thresholds for writing and reading tables, separate from the code that computes the tables.

So the first page of the dashboard, which only reads figures, imports neither torch nor scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from sae_core.foundation.method import RANDOM_STAGES
from sae_core.foundation.methods import EVERY, is_control

THRESHOLD = 0.7
"""The cosine from which two atoms count as the same feature (the paper's threshold)."""
CORRELATED, OVERLAPPING = 0.5, 1 / 3
"""The correlation of activations, and the overlap of top contexts, from which two features count as the same."""
FAMILY_THRESHOLDS = {"cosine": THRESHOLD, "correlation": CORRELATED, "overlap": OVERLAPPING}
"""The score on each of the three measures from which two features may be in one family."""

RAW, RANDOM = "raw activation", "random"
"""Names of the two baselines beside the ensembles."""
_COLOURS = {RAW: "#a68a3c", RANDOM: "#a9b1bb", RANDOM_STAGES: "#e3a27f"}


def colour_of(name: str) -> str | None:
    """The colour of a method, baseline or control, in every chart; None for others."""
    if name in EVERY:
        return EVERY[name].colour
    return _COLOURS.get(RANDOM_STAGES if is_control(name) else name)


CONFOUNDED = "confounded"
"""Name of the task whose labels go together with another property in training, but not in testing. The task measures
which property a detector uses, and not whether a concept is found, so means leave the task out."""
PLAIN, STANDARDISED = "plain", "standardised"
"""Coefficients for a detector: plain, or scaled to unit variance on the training texts."""
SCALED = (
    "Plain coefficients feel the scale of an ensemble: bagging weighs each member by one over their number, and a "
    "probe with an L2 penalty finds smaller coefficients harder to use. Standardised ones do not."
)
"""The reason for comparing methods by standardised coefficients."""

CONCEPTS = "concepts"
"""Name of the evaluation of how well concepts are detected."""
FOUND = "truth"
"""Name of the evaluation of what is found of a known dictionary."""
SPURIOUS = "spurious"
"""Name of that evaluation; a pooled task is recorded as ``evaluate/spurious/<task>``."""
BY_PROBE, BY_ATTRIBUTE, BY_TRUTH = "biased probe", "attribute probe", "known tokens"
"""Rankings by |(f̄₊ − f̄₋)·(w·d_i)| with the w of the biased probe, or of a probe for S (SAEBench), and, where it is
known on which tokens S stands, by the first among the features that fire mainly there: what a perfect person picks."""
MAINLY = 0.5
"""The share of activation on marked tokens from which a feature means S."""
BIASED, ORACLE = "biased", "oracle"
MEASURED = ("target", "spurious", "worst_group", "scr")
SPURIOUS_KEYS = ("method", "ranking", "n", "retrained")
"""The columns that identify a row of the figures over seeds."""

PRECISION = "precision"
"""A mean over de-duplicated atoms. No two ensembles share atoms, so differences are not paired."""
COVERED = (
    "Intervals of one training draw its true features anew (of precision its atoms): they do not say what another "
    "training would find."
)
"""The caveat to show with these intervals."""

CONTROL = (
    "Stage 1 as it was trained, followed by untrained random stages: unit atoms of random directions, as wide and with "
    "as many active features as the trained ones, and one gain each, fitted by least squares on training activations. "
    "What it explains needs no training of the later stages."
)
"""The definition of the control of a boosted ensemble."""
CONTROL_MISSING = (
    f"How much of that {RANDOM_STAGES} would explain is not measured; sae-ensemble evaluate adds it while the run's "
    "activations are there."
)


def untrained_share(first: float | None, control: float | None, trained: float | None) -> float | None:
    """The share of the later stages' gain in explained variance that random stages have too; None if there is no gain.

    Args:
        first: Explained variance of stage 1.
        control: Explained variance of stage 1 with random stages.
        trained: Explained variance of all trained stages.
    """
    if first is None or control is None or trained is None or trained <= first:
        return None
    return (control - first) / (trained - first)


NOISE_NULL = (
    "Noise: two SAEs trained as that stage, with two seeds, on Gaussian noise of the mean and covariance of what it "
    "reads, and matched one to one. They share nothing but that covariance, so only what a stage has above them is "
    "structure that two trainings agree on. Random: unit atoms of uniformly random directions."
)
"""The definition of the null of boosted stages over trainings."""
WORTH = 0.01
"""The explained variance that a member must add per training arithmetic of the first member to be worth its cost."""
RULE = (
    f"Stop before the first member that adds less than {WORTH:g} of explained variance for as much training arithmetic "
    "as the first member took."
)


def texts_in_words(facts: Mapping[str, Any]) -> str:
    """The seeds behind the figures of a spurious task, in words: the texts per seed, and the share that two seeds have.

    Args:
        facts: A task of evaluation/spurious.json; older runs do not record shared texts.
    """
    seeds, shared = len(facts["seeds"]), facts.get("shared_texts") or {}
    sizes = [
        f"{facts[key]:,} {part}" for part in ("confounded", "balanced", "test") if (key := f"{part}_texts") in facts
    ]
    each = f" of {', '.join(sizes)} texts" if sizes else ""
    said = f"{seeds} draw{'' if seeds == 1 else 's'}{each}"
    if seeds == 1:
        return said
    if shared.get("test") is None:
        return f"{said}, which share an unknown part of their texts"
    if not shared["test"] and not shared["train"]:
        return f"{said}, which share none"
    both = f"{shared['test']:.0%} of their test and {shared['train']:.0%} of their training texts"
    return f"{said}; two of them share {both}"


def where_to_stop(steps: Sequence[Mapping[str, Any]], *, worth: float = WORTH) -> int | None:
    """The number of members at which `RULE` says to stop; None if the last member is worth its cost.

    Args:
        steps: The result of `sae_core.analysis.cost.cost.marginal`.
        worth: The explained variance that a member must add for the cost of the first member.
    """
    for before, step in pairwise(steps):
        if step["added_per_cost"] is not None and step["added_per_cost"] < worth:
            return int(before["members"])
    return None
