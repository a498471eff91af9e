"""The evaluation of how well concepts are detected with few features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_core.analysis.shared.jobs import Evaluation, evaluation
from sae_core.foundation.progress import Progress
from sae_core.foundation.run import DETECTION, DETECTORS


def _concepts(job: Evaluation, progress: Progress) -> Mapping[str, Any]:
    from sae_core.analysis.concepts.runs import evaluate_concepts

    evaluate_concepts(job.run, job.ensembles, job.device, progress)
    return {}


CONCEPTS = evaluation(
    "concepts", _concepts, cost=lambda sizes: sizes.detected, tables=("concepts", DETECTORS, DETECTION)
)
