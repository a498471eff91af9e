"""Prepare a trained run for looking: index, match, map and describe every ensemble; what is finished is skipped.

Several processes share the index, which is most of the work; the first one does the rest while the others wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sae_core.activations.corpus import Corpus
from sae_core.activations.harvest import train_cache
from sae_core.analysis.atoms.atom_map import cluster_map, map_atoms
from sae_core.analysis.atoms.feature_table import atom_table
from sae_core.analysis.atoms.logit_lens import promoted_tokens
from sae_core.analysis.atoms.stage_energy import measure_stage_energy
from sae_core.analysis.index.building import build_index_together
from sae_core.analysis.index.counting_together import write_together
from sae_core.analysis.index.reading import ActivationIndex
from sae_core.analysis.index.telling_tokens import write_by_token
from sae_core.analysis.similarity.family_table import relate_members
from sae_core.analysis.similarity.finding_nearest import write_nearest
from sae_core.analysis.similarity.matching import match_members
from sae_core.analysis.suggestions.suggest import suggest_labels
from sae_core.ensembles.ensemble import Ensemble, load_ensemble
from sae_core.foundation.files.whole_files import read_table, read_tensors, write_json, write_table
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.run import Run
from sae_core.training.processes import ALONE, Processes


@dataclass(frozen=True, slots=True)
class _Job:
    """What every stage of one ensemble works with."""

    run: Run
    folder: EnsembleFolder
    corpus: Corpus
    ensemble: Ensemble
    processes: Processes


def prepare_run(run: Run, *, device: str = "auto", progress: Progress = silent, processes: Processes = ALONE) -> None:
    """Prepare every ensemble of a run, and record its stages as ``index/<name>``, ``match/<name>`` and so on.

    Args:
        run: A run with trained ensembles, its corpus and (for the index) its activations.
        device: Where encoders run: auto, cpu, cuda or cuda:N.
        progress: Told what is being done.
        processes: Those that prepare it together, each of which calls this; all must see the run folder.

    Raises:
        UserError: If a file that is needed is missing or damaged.
    """
    corpus: Corpus | None = None
    for folder in run.ensembles():
        missing = _missing(run, folder, processes)
        if not missing:
            continue
        place = str(processes.place(device))
        corpus = corpus or processes.together(lambda: Corpus.open(run))
        d_in = run.facts("corpus").get("d_in")
        ensemble = processes.together(lambda: load_ensemble(folder, device=place, d_in=d_in))  # noqa: B023
        job = _Job(run, folder, corpus, ensemble, processes)
        for name in missing:
            _finish_stage(job, name, progress)


def _missing(run: Run, folder: EnsembleFolder, processes: Processes) -> list[str]:
    """The stages of an ensemble that are not finished, as the first process sees it."""
    finished = processes.of_first(*(run.is_finished(f"{name}/{folder.name}") for name in STAGES))
    return [name for name, there in zip(STAGES, finished, strict=True) if not there]


def _finish_stage(job: _Job, name: str, progress: Progress) -> None:
    stage = f"{name} {job.folder.name}"
    start = time.perf_counter()

    def tell(tick: Tick) -> None:
        progress(replace(tick, stage=stage))

    def finish() -> None:
        facts = STAGES[name](job, tell)
        seconds = round(time.perf_counter() - start, 3)
        job.run.finish(f"{name}/{job.folder.name}", {"seconds": seconds, **facts}, files=_files(job.folder, name))

    if name == "index":
        _build_index(job, tell)
    job.processes.first(finish)


def _files(folder: EnsembleFolder, stage: str) -> list[Path]:
    """What a stage wrote; nothing, where it had nothing to write."""
    files = {
        "index": [folder.index],
        "tokens": [folder.by_token],
        "together": [folder.together],
        "match": [folder.matches, folder.match_summary],
        "nearest": [folder.nearest],
        "families": [folder.firing_matches, folder.families, folder.family_summary],
        "lens": [folder.promoted],
        "map": [folder.map],
        "atoms": [folder.atoms],
        "suggest": [folder.suggestions],
        "energy": [folder.stage_energy, folder.stage_energy_summary],
    }
    return [file for file in files[stage] if file.exists()]


def _build_index(job: _Job, progress: Progress) -> None:
    """The one stage in which all processes work."""
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


def _index(job: _Job, progress: Progress) -> dict[str, Any]:
    return {"entries": ActivationIndex.open(job.folder.index).entries, "processes": job.processes.size}


def _tokens(job: _Job, progress: Progress) -> dict[str, Any]:
    index = ActivationIndex.open(job.folder.index)
    return {"rows": write_by_token(index, job.corpus, job.folder.by_token, progress=progress)}


def _together(job: _Job, progress: Progress) -> dict[str, Any]:
    write_together(ActivationIndex.open(job.folder.index), job.folder.together, progress=progress)
    return {}


def _match(job: _Job, progress: Progress) -> dict[str, Any]:
    table, summary = match_members(job.ensemble, progress=progress)
    write_table(job.folder.matches, table)
    write_json(job.folder.match_summary, summary)
    return {}


def _nearest(job: _Job, progress: Progress) -> dict[str, Any]:
    write_nearest(job.ensemble, job.folder.nearest, progress=progress)
    return {}


def _families(job: _Job, progress: Progress) -> dict[str, Any]:
    index, matches = ActivationIndex.open(job.folder.index), read_table(job.folder.matches)
    dictionaries = [member.dictionary for member in job.ensemble]
    firing, table, summary = relate_members(index, dictionaries, matches, progress=progress)
    write_table(job.folder.firing_matches, firing)
    write_table(job.folder.families, table)
    write_json(job.folder.family_summary, summary)
    return {"tokens": summary["pairs"]["tokens"]}


def _energy(job: _Job, progress: Progress) -> dict[str, Any]:
    if not job.ensemble.is_staged:
        return {"skipped": "only stages of a boosted ensemble remove residual energy"}
    if not job.run.activations.exists():
        return {"skipped": "the activations were deleted"}
    read = train_cache(job.run).read
    table, summary = measure_stage_energy(job.ensemble, read, len(job.corpus), progress=progress)
    write_table(job.folder.stage_energy, table)
    write_json(job.folder.stage_energy_summary, summary)
    return {"tokens": summary["sample"]}


def _lens(job: _Job, progress: Progress) -> dict[str, Any]:
    if not job.run.corpus.lens.exists():
        return {"skipped": "the model's path to its logits is not known; the facts of the corpus say why"}
    lens = read_tensors(job.run.corpus.lens)
    write_table(job.folder.promoted, promoted_tokens(job.ensemble, lens, job.corpus.texts, progress=progress))
    return {}


def _map(job: _Job, progress: Progress) -> dict[str, Any]:
    xy_M2 = map_atoms(job.ensemble.dictionary, seed=job.run.settings.training.seed, progress=progress)
    cluster_M = cluster_map(xy_M2)
    write_table(job.folder.map, pd.DataFrame({"x": xy_M2[:, 0], "y": xy_M2[:, 1], "cluster": cluster_M}))
    return {"clusters": int(cluster_M.max(initial=-1)) + 1}


def _atoms(job: _Job, progress: Progress) -> dict[str, Any]:
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


def _suggest(job: _Job, progress: Progress) -> dict[str, Any]:
    seed = job.run.settings.training.seed
    table = suggest_labels(ActivationIndex.open(job.folder.index), job.corpus, seed=seed, progress=progress)
    write_table(job.folder.suggestions, table)
    return {"suggested": int((table["suggestion"] != "").sum())}


STAGES: dict[str, Callable[[_Job, Progress], dict[str, Any]]] = {
    "index": _index,
    "tokens": _tokens,
    "together": _together,
    "match": _match,
    "nearest": _nearest,
    "families": _families,
    "lens": _lens,
    "map": _map,
    "atoms": _atoms,
    "suggest": _suggest,
    "energy": _energy,
}
"""The stages of each ensemble, in order."""
