"""The stages on atoms: the tokens they promote, their map, their table, the energy they remove; and dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sae_core.analysis.index.stage import INDEX
from sae_core.analysis.shared.jobs import EnsembleJob, Evaluation, evaluation, of_ensemble
from sae_core.analysis.similarity.stage import MATCH, cosines_held
from sae_core.ensembles.manifest import read_manifest
from sae_core.foundation.files.whole_files import read_table, read_tensors, write_json, write_table
from sae_core.foundation.methods import REPEATS
from sae_core.foundation.progress import Progress
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import is_pattern
from sae_core.foundation.stages import Sizes


def _lens(job: EnsembleJob, progress: Progress) -> Mapping[str, Any]:
    from sae_core.analysis.atoms.logit_lens import promoted_tokens

    lens = read_tensors(job.run.corpus.lens)
    write_table(job.folder.promoted, promoted_tokens(job.ensemble, lens, job.corpus.texts, progress=progress))
    return {}


def _no_lens(run: Run, _: str) -> str:
    origin = run.settings.origin
    if not origin.reads_text:
        return f"the activations come from {origin.title}, not from a language model that promotes tokens"
    if is_pattern(run.settings.model.site):
        return f"what {run.settings.model.site} gives need not be added to the residual stream, which promotes tokens"
    known = run.corpus.lens.exists()
    return "" if known else "the model's path to its logits is not known; the facts of the corpus say why"


def _map(job: EnsembleJob, progress: Progress) -> Mapping[str, Any]:
    import pandas as pd

    from sae_core.analysis.atoms.atom_map import cluster_map, map_atoms

    xy_M2 = map_atoms(job.ensemble.dictionary, seed=job.run.settings.training.seed, progress=progress)
    cluster_M = cluster_map(xy_M2)
    write_table(job.folder.map, pd.DataFrame({"x": xy_M2[:, 0], "y": xy_M2[:, 1], "cluster": cluster_M}))
    return {"clusters": int(cluster_M.max(initial=-1)) + 1}


def _atoms(job: EnsembleJob, progress: Progress) -> Mapping[str, Any]:
    from sae_core.analysis.atoms.feature_table import atom_table
    from sae_core.analysis.index.activation_index import ActivationIndex

    table = atom_table(
        ActivationIndex.open(job.folder.index),
        job.corpus,
        matches=read_table(job.folder.matches),
        places=read_table(job.folder.map),
        offsets=job.ensemble.offsets,
        progress=progress,
    )
    write_table(job.folder.atoms, table)
    return {"dead": int(table["dead"].sum())}


def _energy(job: EnsembleJob, progress: Progress) -> Mapping[str, Any]:
    from sae_core.activations.harvest import learned_cache
    from sae_core.activations.store.left_out import left_out_rows
    from sae_core.analysis.atoms.stage_energy import measure_stage_energy

    if not job.run.activations.exists():
        return {"skipped": "the activations were deleted"}
    cache = learned_cache(job.run)
    rows = len(job.corpus) - int(np.searchsorted(left_out_rows(cache.folder), len(job.corpus)))
    table, summary = measure_stage_energy(job.ensemble, cache.read, rows, progress=progress)
    write_table(job.folder.stage_energy, table)
    write_json(job.folder.stage_energy_summary, summary)
    return {"tokens": summary["sample"]}


def _no_energy(run: Run, name: str) -> str:
    manifest = read_manifest(run.ensemble(name))
    return "" if manifest.is_staged else "only stages of a boosted ensemble remove residual energy"


def _dictionary(job: Evaluation, progress: Progress) -> Mapping[str, Any]:
    from sae_core.activations.harvest import evaluation_cache
    from sae_core.analysis.atoms.dictionary import measure_dictionary
    from sae_core.analysis.stability.retrains import members_are_retrains

    cache, run = evaluation_cache(job.run), job.run
    figures = measure_dictionary(
        job.ensembles, cache.read, cache.rows, seed=run.settings.training.seed, device=job.device, progress=progress
    )
    bag = figures["ensembles"].get(REPEATS, {}).get("member_stability")
    # The single SAE, trained as often as the bag has members, which are such trainings.
    figures["single_retrained"] = bag if members_are_retrains(run.settings) else None
    write_json(run.evaluation(DICTIONARY.name), figures)
    return {}


def _energy_tokens(sizes: Sizes) -> int:
    from sae_core.analysis.atoms.stage_energy import SAMPLE

    return min(sizes.indexed, SAMPLE)


def _dictionary_memory(sizes: Sizes) -> float:
    return 2**26 + cosines_held(sizes)


LENS = of_ensemble(
    "lens",
    _lens,
    lambda folder: [folder.promoted],
    cost=lambda sizes: 1.2e-8 * sizes.features * sizes.vocabulary,
    flops=lambda sizes: 2 * sizes.parameters * sizes.vocabulary,
    memory=lambda sizes: 4 * sizes.d_in * sizes.vocabulary + 16 * min(16_000_000, sizes.features * sizes.vocabulary),
    written=lambda sizes: 210 * sizes.features * (sizes.vocabulary > 0),
    skipped=_no_lens,
)
MAP = of_ensemble(
    "map",
    _map,
    lambda folder: [folder.map],
    cost=lambda sizes: 3.6e-4 * sizes.features + 5e-9 * sizes.features**2,
    flops=lambda sizes: 2 * sizes.features * sizes.parameters,
    memory=lambda sizes: sizes.features * (8 * sizes.d_in + 3000) + 8 * min(2**25, sizes.features**2),
    written=lambda sizes: 13 * sizes.features,
)
ATOMS = of_ensemble(
    "atoms",
    _atoms,
    lambda folder: [folder.atoms],
    cost=lambda sizes: 4e-5 * sizes.features,
    memory=lambda sizes: 1000 * sizes.features,
    written=lambda sizes: 54 * sizes.features,
    needs=(INDEX, MATCH, MAP),
)
ENERGY = of_ensemble(
    "energy",
    _energy,
    lambda folder: [folder.stage_energy, folder.stage_energy_summary],
    cost=lambda sizes: 5e-10 * sizes.staged * _energy_tokens(sizes) * sum(sizes.active) * sizes.d_in,
    flops=lambda sizes: sizes.staged * _energy_tokens(sizes) * sizes.run_flops,
    written=lambda sizes: 27 * sizes.staged * sizes.features,
    skipped=_no_energy,
    reads_activations=True,
)
DICTIONARY = evaluation(
    "dictionary",
    _dictionary,
    cost=lambda sizes: 7e-8 * sizes.cells + 5e-11 * min(10_000, sizes.evaluated) * sizes.features,
    flops=lambda sizes: (
        2 * sizes.features * sizes.parameters
        + 4 * sizes.d_in * sizes.cells
        + min(10_000, sizes.evaluated) * sizes.run_flops
    ),
    memory=_dictionary_memory,
)
