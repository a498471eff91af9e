"""The stage that suggests a label for each feature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_core.analysis.index.stage import INDEX
from sae_core.analysis.shared.jobs import EnsembleJob, of_ensemble
from sae_core.foundation.files.whole_files import write_table
from sae_core.foundation.progress import Progress


def _suggest(job: EnsembleJob, progress: Progress) -> Mapping[str, Any]:
    from sae_core.analysis.index.activation_index import ActivationIndex
    from sae_core.analysis.suggestions.suggest import suggest_labels

    seed = job.run.settings.training.seed
    table = suggest_labels(ActivationIndex.open(job.folder.index), job.corpus, seed=seed, progress=progress)
    write_table(job.folder.suggestions, table)
    return {"suggested": int((table["suggestion"] != "").sum())}


SUGGEST = of_ensemble(
    "suggest",
    _suggest,
    lambda folder: [folder.suggestions],
    cost=lambda sizes: 2.6e-7 * sizes.entries + 1.3e-6 * sizes.indexed,
    memory=lambda sizes: 40 * sizes.indexed + 100 * sizes.vocabulary + 500 * sizes.features,
    written=lambda sizes: 70 * sizes.features,
    needs=(INDEX,),
)
