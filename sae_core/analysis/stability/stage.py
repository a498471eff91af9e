"""The evaluation of how stable features are over trainings. It needs other runs, so `evaluate_retrains` makes it."""

from __future__ import annotations

from sae_core.analysis.shared.jobs import evaluation

STABILITY = evaluation(
    "stability",
    None,
    cost=lambda sizes: 7e-8 * sizes.features**2,
    flops=lambda sizes: 2 * sizes.features * sizes.parameters,
    tables=("stability",),
    command="evaluate --retrain",
)
