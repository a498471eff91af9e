"""The evaluation of how well concepts are detected with few features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_core.analysis.shared.jobs import Evaluation, evaluation
from sae_core.analysis.shared.names_in_tables import CONCEPTS as NAME
from sae_core.foundation.progress import Progress
from sae_core.foundation.run import DETECTION, DETECTORS


def _concepts(job: Evaluation, progress: Progress) -> Mapping[str, Any]:
    from sae_core.analysis.concepts.runs import evaluate_concepts

    evaluate_concepts(job.run, job.ensembles, job.device, progress)
    return {}


CONCEPTS = evaluation(
    NAME,
    _concepts,
    # Detectors are fitted on few features; a random dictionary, and random stages, are encoded beside the members.
    cost=lambda sizes: sizes.detected * (3e-6 / sizes.ensembles + 1e-7 * sum(sizes.active)),
    flops=lambda sizes: sizes.detected * (sizes.token_flops / sizes.ensembles + (1 + sizes.staged) * sizes.run_flops),
    memory=lambda sizes: (sizes.detected > 0) * (sizes.model_bytes + 2e8) + 20 * sizes.detected * sum(sizes.active),
    written=lambda sizes: 20_000 * (sizes.detected > 0),
    tables=(NAME, DETECTORS, DETECTION),
)
