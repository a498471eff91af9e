"""The evaluation of how stable features are over trainings. It needs other runs, so `evaluate_retrains` makes it."""

from __future__ import annotations

from sae_core.analysis.shared.jobs import evaluation

STABILITY = evaluation(
    "stability",
    None,
    cost=lambda sizes: sizes.features * sizes.parameters,
    tables=("stability",),
    command="evaluate --retrain",
)
