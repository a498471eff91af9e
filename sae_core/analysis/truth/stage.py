"""The evaluation of ensembles whose activations come from a known dictionary: what of it they find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_core.analysis.shared.jobs import Evaluation, evaluation
from sae_core.analysis.shared.names_in_tables import FOUND
from sae_core.foundation.files.whole_files import write_json, write_table
from sae_core.foundation.progress import Progress


def _truth(job: Evaluation, progress: Progress) -> Mapping[str, Any]:
    """The activations are drawn anew, so the caches may be gone."""
    from sae_core.activations.origins.known.drawing import known_activations
    from sae_core.analysis.shared.random_twin import SAMPLE_ROWS
    from sae_core.analysis.truth.scores import measure_truth

    run, settings = job.run, job.run.settings
    facts, table = measure_truth(
        dict(job.ensembles),
        known_activations(run, "evaluation"),
        settings.data.evaluation_tokens,
        fit_BD=known_activations(run, "train").read(0, min(SAMPLE_ROWS, settings.data.train_tokens)),
        bootstrap=settings.evaluation.bootstrap,
        seed=settings.training.seed,
        device=job.device,
        progress=progress,
    )
    write_table(run.evaluation_table(FOUND), table)
    write_json(run.evaluation(FOUND), facts)
    return {}


TRUTH = evaluation(
    FOUND, _truth, cost=lambda sizes: 2e-11 * sizes.evaluated * sizes.parameters, tables=(FOUND,), command="truth"
)
