"""The stages on atoms: the tokens they promote, their map, their table, the energy they remove; and dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_core.analysis.index.stage import INDEX
from sae_core.analysis.shared.jobs import EnsembleJob, Evaluation, evaluation, of_ensemble
from sae_core.analysis.similarity.stage import MATCH
from sae_core.ensembles.manifest import read_manifest
from sae_core.foundation.files.whole_files import read_table, read_tensors, write_json, write_table
from sae_core.foundation.methods import REPEATS
from sae_core.foundation.progress import Progress
from sae_core.foundation.run import Run


def _lens(job: EnsembleJob, progress: Progress) -> Mapping[str, Any]:
    from sae_core.analysis.atoms.logit_lens import promoted_tokens

    lens = read_tensors(job.run.corpus.lens)
    write_table(job.folder.promoted, promoted_tokens(job.ensemble, lens, job.corpus.texts, progress=progress))
    return {}


def _no_lens(run: Run, _: str) -> str:
    origin = run.settings.origin
    if not origin.reads_text:
        return f"the activations come from {origin.title}, not from a language model that promotes tokens"
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
    from sae_core.activations.harvest import train_cache
    from sae_core.analysis.atoms.stage_energy import measure_stage_energy

    if not job.run.activations.exists():
        return {"skipped": "the activations were deleted"}
    read = train_cache(job.run).read
    table, summary = measure_stage_energy(job.ensemble, read, len(job.corpus), progress=progress)
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
    write_json(run.evaluation("dictionary"), figures)
    return {}


LENS = of_ensemble(
    "lens",
    _lens,
    lambda folder: [folder.promoted],
    cost=lambda sizes: sizes.parameters * sizes.vocabulary,
    skipped=_no_lens,
)
MAP = of_ensemble("map", _map, lambda folder: [folder.map], cost=lambda sizes: sizes.features)
ATOMS = of_ensemble(
    "atoms", _atoms, lambda folder: [folder.atoms], cost=lambda sizes: sizes.features, needs=(INDEX, MATCH, MAP)
)
ENERGY = of_ensemble(
    "energy",
    _energy,
    lambda folder: [folder.stage_energy, folder.stage_energy_summary],
    cost=lambda sizes: sizes.parameters,
    skipped=_no_energy,
    reads_activations=True,
)
DICTIONARY = evaluation("dictionary", _dictionary, cost=lambda sizes: sizes.features * sizes.parameters)
