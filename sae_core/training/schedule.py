"""Schedule the learning rate and the weight of the sparsity penalty over the steps."""

from __future__ import annotations

from sae_core.foundation.settings.run_settings import TrainingSettings


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """Learning rate of a step (counted from 0): a linear rise, a constant part and a linear fall.

    No step has a rate of 0: the first of w warm-up steps and the last of w decay steps have 1/w of the peak.
    """
    rise = (step + 1) / max(1, round(settings.warmup * steps))
    fall = (steps - step) / max(1, round(settings.decay * steps))
    return settings.learning_rate * min(1.0, rise, fall)


def sparsity_weight(step: int, steps: int, settings: TrainingSettings) -> float:
    """Share of the sparsity penalty's full weight at a step (counted from 0): a linear rise to 1."""
    return min(1.0, (step + 1) / max(1, round(settings.sparsity_warmup * steps)))
