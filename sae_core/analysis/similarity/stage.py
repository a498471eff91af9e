"""The stages that compare an ensemble's features: across members, within a member, and by what they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_core.analysis.index.stage import INDEX
from sae_core.analysis.shared.jobs import EnsembleJob, of_ensemble
from sae_core.foundation.files.whole_files import read_table, write_json, write_table
from sae_core.foundation.progress import Progress


def _match(job: EnsembleJob, progress: Progress) -> Mapping[str, Any]:
    from sae_core.analysis.similarity.matching import match_members

    table, summary = match_members(job.ensemble, progress=progress)
    write_table(job.folder.matches, table)
    write_json(job.folder.match_summary, summary)
    return {}


def _nearest(job: EnsembleJob, progress: Progress) -> Mapping[str, Any]:
    from sae_core.analysis.similarity.nearest import write_nearest

    write_nearest(job.ensemble, job.folder.nearest, progress=progress)
    return {}


def _families(job: EnsembleJob, progress: Progress) -> Mapping[str, Any]:
    from sae_core.analysis.index.activation_index import ActivationIndex
    from sae_core.analysis.similarity.family_table import relate_members

    index, matches = ActivationIndex.open(job.folder.index), read_table(job.folder.matches)
    dictionaries = [member.dictionary for member in job.ensemble]
    firing, table, summary = relate_members(index, dictionaries, matches, progress=progress)
    write_table(job.folder.firing_matches, firing)
    write_table(job.folder.families, table)
    write_json(job.folder.family_summary, summary)
    return {"tokens": summary["pairs"]["tokens"]}


MATCH = of_ensemble(
    "match",
    _match,
    lambda folder: [folder.matches, folder.match_summary],
    cost=lambda sizes: sizes.cells * sizes.d_in,
)
NEAREST = of_ensemble(
    "nearest",
    _nearest,
    lambda folder: [folder.nearest],
    cost=lambda sizes: sizes.d_in * sum(width**2 for width in sizes.widths),
)
FAMILIES = of_ensemble(
    "families",
    _families,
    lambda folder: [folder.firing_matches, folder.families, folder.family_summary],
    cost=lambda sizes: sizes.entries * (len(sizes.widths) - 1) + sizes.cells,
    needs=(INDEX, MATCH),
)
