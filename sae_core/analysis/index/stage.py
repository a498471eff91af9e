"""The stages that index an ensemble: activations by feature, features by token, features that fire together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_core.analysis.shared.jobs import EnsembleJob, of_ensemble
from sae_core.foundation.progress import Progress


def _build(job: EnsembleJob, progress: Progress) -> None:
    from sae_core.activations.harvest import train_cache
    from sae_core.analysis.index.activation_index import build_index_together

    cache = job.processes.together(lambda: train_cache(job.run))
    build_index_together(
        job.ensemble,
        cache.read,
        len(job.corpus),
        job.folder.index,
        shards=job.folder.index_shards,
        processes=job.processes,
        progress=progress,
    )


def _index(job: EnsembleJob, progress: Progress) -> Mapping[str, Any]:
    from sae_core.analysis.index.activation_index import ActivationIndex

    return {"entries": ActivationIndex.open(job.folder.index).entries, "processes": job.processes.size}


def _tokens(job: EnsembleJob, progress: Progress) -> Mapping[str, Any]:
    from sae_core.analysis.index.activation_index import ActivationIndex
    from sae_core.analysis.index.by_token import write_by_token

    index = ActivationIndex.open(job.folder.index)
    return {"rows": write_by_token(index, job.corpus, job.folder.by_token, progress=progress)}


def _together(job: EnsembleJob, progress: Progress) -> Mapping[str, Any]:
    from sae_core.analysis.index.activation_index import ActivationIndex
    from sae_core.analysis.index.together import write_together

    write_together(ActivationIndex.open(job.folder.index), job.folder.together, progress=progress)
    return {}


INDEX = of_ensemble(
    "index",
    _index,
    lambda folder: [folder.index],
    cost=lambda sizes: sizes.indexed * sizes.parameters,
    shared=_build,
    reads_activations=True,
)
TOKENS = of_ensemble(
    "tokens", _tokens, lambda folder: [folder.by_token], cost=lambda sizes: sizes.entries, needs=(INDEX,)
)
TOGETHER = of_ensemble(
    "together",
    _together,
    lambda folder: [folder.together],
    cost=lambda sizes: sizes.entries * sum(sizes.active),
    needs=(INDEX,),
)
