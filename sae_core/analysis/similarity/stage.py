"""The stages that compare an ensemble's features: across members, within a member, and by what they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_core.analysis.index.stage import INDEX
from sae_core.analysis.shared.jobs import EnsembleJob, of_ensemble
from sae_core.foundation.files.whole_files import read_table, write_json, write_table
from sae_core.foundation.progress import Progress
from sae_core.foundation.stages import Sizes


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


def cosines_held(sizes: Sizes) -> float:
    """Bytes of the cosines between two members that are held at a time."""
    from sae_core.analysis.similarity.cosines import HELD_CELLS

    return 8.0 * min(max(sizes.widths) ** 2, HELD_CELLS) * (len(sizes.widths) > 1)


def _families_cost(sizes: Sizes) -> float:
    from sae_core.analysis.similarity.firing import ENTRIES, PRODUCTS
    from sae_core.analysis.similarity.pair_scores import CONTEXT, TOP_CONTEXTS

    others, contexts = len(sizes.widths) - 1, max(1, sizes.indexed // CONTEXT)
    # Of a long text, one of so many tokens is looked at.
    stride = max(1.0, sizes.indexed * max(sizes.active) / ENTRIES, sizes.products / PRODUCTS)
    top = min(TOP_CONTEXTS, contexts, sizes.entries / sizes.features)
    visited = sizes.entries * others / 2 / stride + sizes.features * top * others / 2
    products = sizes.products / stride + sizes.cells * top**2 / contexts
    alone = sizes.features * (3.3e-5 + 3e-5 * (others > 0))
    return alone + 8e-8 * visited + 1.5e-9 * products + 3e-9 * sizes.cells


MATCH = of_ensemble(
    "match",
    _match,
    lambda folder: [folder.matches, folder.match_summary],
    cost=lambda sizes: 7e-8 * sizes.cells,
    flops=lambda sizes: 2 * sizes.d_in * sizes.cells,
    memory=cosines_held,
    written=lambda sizes: 18 * sizes.features * (len(sizes.widths) - 1),
)
NEAREST = of_ensemble(
    "nearest",
    _nearest,
    lambda folder: [folder.nearest],
    cost=lambda sizes: 2e-9 * sum(width**2 for width in sizes.widths),
    flops=lambda sizes: 2 * sizes.d_in * sum(width**2 for width in sizes.widths),
    memory=lambda sizes: 2**27,
    written=lambda sizes: 68 * sizes.features,
)
FAMILIES = of_ensemble(
    "families",
    _families,
    lambda folder: [folder.firing_matches, folder.families, folder.family_summary],
    cost=_families_cost,
    memory=lambda sizes: 32 * min(sizes.indexed * max(sizes.active), 2**25) + 200 * sizes.features * len(sizes.widths),
    written=lambda sizes: sizes.features * (22 * (len(sizes.widths) - 1) + 6),
    needs=(INDEX, MATCH),
)
