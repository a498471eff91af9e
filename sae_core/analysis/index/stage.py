"""The stages that index an ensemble: activations by feature, features by token, features that fire together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sae_core.analysis.shared.jobs import EnsembleJob, of_ensemble
from sae_core.foundation.progress import Progress
from sae_core.foundation.stages import Sizes


def _build(job: EnsembleJob, progress: Progress) -> None:
    from sae_core.activations.harvest import train_cache
    from sae_core.activations.store.left_out import left_out_rows
    from sae_core.analysis.index.activation_index import build_index_together

    cache = job.processes.together(lambda: train_cache(job.run))
    build_index_together(
        job.ensemble,
        cache.read,
        len(job.corpus),
        job.folder.index,
        shards=job.folder.index_shards,
        processes=job.processes,
        left_out=left_out_rows(cache.folder),
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


def _told(sizes: Sizes) -> float:
    """How many different tokens a text has, by Heaps' law as the embedded one follows it: 6,700 in 150,000."""
    return min(sizes.indexed, sizes.vocabulary, 11 * math.pow(sizes.indexed, 0.54))


def _kept(sizes: Sizes) -> int:
    from sae_core.analysis.index.by_token import FEATURES_A_TOKEN

    return min(FEATURES_A_TOKEN, sizes.features)


INDEX = of_ensemble(
    "index",
    _index,
    lambda folder: [folder.index],
    cost=lambda sizes: 5e-8 * sizes.entries,
    flops=lambda sizes: sizes.indexed * sizes.run_flops,
    moved=lambda sizes: 8 * sizes.indexed * sizes.features,
    written=lambda sizes: 8 * (sizes.features + 1 + sizes.entries),
    shared=_build,
    reads_activations=True,
)
TOKENS = of_ensemble(
    "tokens",
    _tokens,
    lambda folder: [folder.by_token],
    cost=lambda sizes: 3e-8 * sizes.entries + 8e-7 * sizes.indexed,
    memory=lambda sizes: 20 * _kept(sizes) * _told(sizes) + 40 * sizes.indexed,
    written=lambda sizes: 12 * _told(sizes) * (1 + min(0.87 * _kept(sizes), 3.3 * sum(sizes.active))),
    needs=(INDEX,),
)
TOGETHER = of_ensemble(
    "together",
    _together,
    lambda folder: [folder.together],
    cost=lambda sizes: sizes.entries * (7e-8 + 1.2e-9 * sum(sizes.active)),
    memory=lambda sizes: 8 * sizes.indexed + 4 * min(sizes.entries, 32_000_000),
    written=lambda sizes: 168 * sizes.features,
    needs=(INDEX,),
)
