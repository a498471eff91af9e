"""Compare the training effort of two methods: tokens, steps and arithmetic, as counted."""

from __future__ import annotations

from dataclasses import dataclass

from sae_core.ensembles.manifest import read_manifest
from sae_core.foundation.numbers import decimal
from sae_core.foundation.run import Run
from sae_core.training.declared import TRAIN

ABOUT = 0.15
"""The share by which counted arithmetic may differ and still count as about equal."""
MEANINGS = {
    "tokens": "Activations that each SAE is trained on",
    "steps": "Steps of the optimiser one after another: of sequential stages those of all of them together",
    "FLOPs": "Counted operations of training: products of activations and weights, without AuxK and the optimiser",
}


@dataclass(frozen=True, slots=True)
class Effort:
    """The training effort of an ensemble; None for a figure that was not recorded.

    Attributes:
        tokens: Number of activations that each SAE was trained on.
        steps: Number of optimiser steps, one after another.
        flops: Counted operations.
    """

    tokens: float | None
    steps: float | None
    flops: float | None


def steps_taken(run: Run, name: str) -> int | None:
    """Steps of the optimiser one after another; None where training recorded none.

    Members side by side take theirs together, and so do pipelined stages; sequential stages take them in turn.
    """
    facts = TRAIN.facts(run, name)
    if facts.get("steps") is None:
        return None
    in_turn = run.settings.training.boosting == "sequential"
    # Only ensembles of ensembles record how many passes come one after another.
    turns: int = facts.get("turns", read_manifest(run.ensemble(name)).stages if in_turn else 1)
    return int(facts["steps"]) * turns


def effort_of(run: Run, name: str) -> Effort:
    """The training effort of an ensemble of a run."""
    facts = TRAIN.facts(run, name)
    return Effort(facts.get("tokens"), steps_taken(run, name), facts.get("flops"))


def at_equal(one: Effort, other: Effort) -> str:
    """Say at equal what (tokens, steps, FLOPs) two trainings are compared, in words; empty if nothing is known.

    Args:
        one: The training that the sentence is about.
        other: The training that it is compared with.

    Returns:
        For example ``at equal tokens, with 4 times the steps and about equal FLOPs (1.09 times)``.
    """
    equal, unequal = [], []
    for word in MEANINGS:
        mine, theirs = (getattr(effort, word.lower()) for effort in (one, other))
        if not mine or not theirs:
            continue
        times = mine / theirs
        if abs(times - 1) < 0.005:
            equal.append(word)
        elif word == "FLOPs" and abs(times - 1) <= ABOUT:
            unequal.append(f"about equal FLOPs ({decimal(times)} times)")
        else:
            unequal.append(f"{_times(times)} times the {word}")
    parts = [f"at equal {_and(equal)}" if equal else "", f"with {_and(unequal)}" if unequal else ""]
    return ", ".join(part for part in parts if part)


def _times(value: float) -> str:
    return f"{value:.0f}" if abs(value - round(value)) < 0.005 else decimal(value)


def _and(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
