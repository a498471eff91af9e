"""The evaluation of what ensembles cost, to train, to keep and to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_core.analysis.reconstruction.stage import RECONSTRUCTION
from sae_core.analysis.shared.jobs import Evaluation, evaluation
from sae_core.foundation.files.whole_files import write_json
from sae_core.foundation.progress import Progress, Tick


def _cost(job: Evaluation, progress: Progress) -> Mapping[str, Any]:
    from sae_core.activations.harvest import evaluation_cache
    from sae_core.analysis.cost.cost import TIMED_TOKENS, measure_cost

    cache, ensembles = evaluation_cache(job.run), len(job.ensembles)
    acts_BD = cache.read(0, min(TIMED_TOKENS, cache.rows)).to(job.device)
    progress(Tick("measure cost", 0, ensembles, unit="ensembles"))
    write_json(job.run.evaluation(COST.name), measure_cost(job.run, job.ensembles, acts_BD))
    progress(Tick("measure cost", ensembles, ensembles, unit="ensembles"))
    return {}


COST = evaluation(
    "cost",
    _cost,
    cost=lambda sizes: 5e-8 * min(1024, sizes.evaluated) * sum(sizes.active),
    flops=lambda sizes: 6 * min(1024, sizes.evaluated) * sizes.run_flops,
    needs=(RECONSTRUCTION,),
)
