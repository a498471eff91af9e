"""Spurious correlations in a run: what is pooled, measured and kept, and the bench for ablating by hand."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

from sae_core.activations.harvest import documents
from sae_core.activations.language_model import LanguageModel
from sae_core.config import EMBEDDED, KNOWN
from sae_core.device import resolve_device
from sae_core.ensemble import Ensemble, load_ensemble
from sae_core.errors import UserError
from sae_core.evaluation.ablation import Workbench
from sae_core.evaluation.evaluate import activations_of, sample_activations
from sae_core.evaluation.spurious import PooledTask, measure_spurious, over_seeds, pool_task
from sae_core.evaluation.spurious_tasks import (
    BIAS_IN_BIOS,
    BIOGRAPHIES,
    DOCSTRINGS,
    Columns,
    SpuriousTask,
    bias_in_bios_task,
    biography_task,
    docstring_task,
    draw_split,
    file_task,
)
from sae_core.evaluation.terms import RANDOM, SPURIOUS
from sae_core.files import read_json, read_table, write_json, write_table, write_tensors
from sae_core.mapped import map_tensors
from sae_core.progress import Progress, silent
from sae_core.run import Run

_PARTS = ("data", "indices", "indptr")


def make_tasks(
    run: Run, names: Sequence[str] = (), file: Path | None = None, columns: Columns | None = None
) -> list[SpuriousTask]:
    """The tasks that are asked for; without any, those that need neither a hub nor a file.

    Args:
        run: The run, whose text the docstrings come from.
        names: `BIOGRAPHIES`, `DOCSTRINGS` or `BIAS_IN_BIOS`.
        file: A file of texts with two labels.
        columns: Its columns.

    Raises:
        UserError: If there is no such task, or its texts cannot be had.
    """
    texts, embedded = run.settings.evaluation.spurious_texts, run.settings.text.source == EMBEDDED
    wanted = list(names)
    if not wanted and file is None:
        wanted = [BIOGRAPHIES, DOCSTRINGS] if embedded else [BIOGRAPHIES]
    tasks = []
    for name in wanted:
        if name == BIOGRAPHIES:
            tasks.append(biography_task(texts))
        elif name == BIAS_IN_BIOS:
            tasks.append(bias_in_bios_task(texts))
        elif name == DOCSTRINGS and embedded:
            task = docstring_task([*documents(run, held_out=True), *documents(run, held_out=False)], texts)
            # A small run may hold too few passages for it; who asks for it by name is told so.
            if task is None and names:
                raise UserError(f"No two libraries in the text of {run.path} have enough passages of both kinds.")
            tasks += [task] if task else []
        elif name == DOCSTRINGS:
            raise UserError(f"Task {DOCSTRINGS} needs the embedded text; this run reads {run.settings.text.source}.")
        else:
            raise UserError(f"There is no task {name!r}; use {BIOGRAPHIES}, {DOCSTRINGS} or {BIAS_IN_BIOS}, or --file.")
    return [*tasks, file_task(file, columns or Columns(), texts)] if file else tasks


def evaluate_spurious(
    run: Run,
    tasks: Sequence[SpuriousTask],
    *,
    seeds: Sequence[int],
    retrain: bool = False,
    progress: Progress = silent,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Measure tasks and write evaluation/spurious.json and .parquet, in place of earlier figures of the same tasks.

    Texts that were pooled before are not read again, and what was measured with the same texts, seeds and choice of
    ``retrain`` is kept.

    Args:
        run: A run with trained ensembles and a language model.
        tasks: The tasks.
        seeds: Each draws its own texts.
        retrain: Also fit a new probe after each ablation.
        progress: Told about texts and seeds.
        device: Where to encode; the one in the settings if not given.

    Returns:
        The ``tasks`` of evaluation/spurious.json, those given first.

    Raises:
        UserError: If nothing is trained, there is no language model, or a task has too few texts.
    """
    if run.settings.model.name == KNOWN:
        raise UserError(f"The activations of {run.path} come from a known dictionary; no text can be read with it.")
    device = resolve_device(device or run.settings.training.device)
    ensembles = {folder.name: load_ensemble(folder, device=device) for folder in run.ensembles()}
    if not ensembles:
        raise UserError(f"{run.path} holds no trained ensemble; run sae-ensemble train on it first.")
    for task in tasks:
        draw_split(task, run.settings.evaluation.spurious_texts, seed=seeds[0])  # refuses before anything is read
    for task in tasks:
        _evaluate_task(run, task, ensembles, list(seeds), retrain, device, progress)
    measured = {facts["task"]: facts for facts in _facts(run)}
    return [measured[task.name] for task in tasks]


def _evaluate_task(
    run: Run,
    task: SpuriousTask,
    ensembles: Mapping[str, Ensemble],
    seeds: list[int],
    retrain: bool,
    device: str,
    progress: Progress,
) -> None:
    texts, fingerprint = run.settings.evaluation.spurious_texts, _fingerprint(task, ensembles)
    identity = {"seeds": seeds, "retrained": retrain, "texts": texts, "fingerprint": fingerprint}
    others = _facts(run)
    if any(facts["task"] == task.name and identity.items() <= facts.items() for facts in others):
        return
    stage = f"evaluate/{SPURIOUS}/{task.name}"
    if not run.is_finished(stage) or run.facts(stage)["fingerprint"] != fingerprint:
        _pool(run, task, ensembles, stage, fingerprint, device, progress)
    pooled = read_pooled(run, task.name)
    dictionaries = {name: ensemble.dictionary.detach().cpu().numpy() for name, ensemble in ensembles.items()}
    table = measure_spurious(pooled, dictionaries, texts, seeds, retrain=retrain, progress=progress)
    split = draw_split(task, texts, seed=seeds[0])
    facts = {
        "task": task.name,
        "description": task.description,
        "target": task.target,
        "spurious": task.spurious,
        **identity,
        **{f"{part}_texts": len(rows) for part, rows in split._asdict().items()},
        "figures": over_seeds(table),
    }
    _write(run, [facts, *(other for other in others if other["task"] != task.name)], table)


def _pool(
    run: Run,
    task: SpuriousTask,
    ensembles: Mapping[str, Ensemble],
    stage: str,
    fingerprint: str,
    device: str,
    progress: Progress,
) -> None:
    started = time.perf_counter()
    read = activations_of(run, device, progress)

    def spans(texts: Sequence[str]) -> list[NDArray[np.int64]]:
        model = LanguageModel.load(run.settings.model, device="cpu")
        return model.char_spans(texts, context=run.settings.evaluation.tokens_per_text)

    pooled = pool_task(
        task,
        ensembles,
        read,
        spans,
        sample_activations(run, read),
        seed=run.settings.training.seed,
        device=device,
        progress=progress,
    )
    write_pooled(run, pooled)
    files = [run.spurious(task.name), run.spurious_texts(task.name)]
    run.finish(stage, {"seconds": time.perf_counter() - started, "fingerprint": fingerprint}, files=files)


def write_pooled(run: Run, pooled: PooledTask) -> None:
    """Keep a pooled task in the run, its texts first."""
    task = pooled.task
    columns = {"text": task.texts, "target": task.target_X, "spurious": task.spurious_X, "test": task.test_X}
    write_table(run.spurious_texts(task.name), pd.DataFrame(columns))
    tensors = {"acts": torch.from_numpy(pooled.acts_XD), "random": torch.from_numpy(pooled.random_ND)}
    for name, codes_XM in pooled.codes.items():
        for part in _PARTS:
            tensors[f"{name}.{part}"] = torch.from_numpy(getattr(codes_XM, part))
        if name in pooled.marked:
            tensors[f"{name}.marked"] = torch.from_numpy(pooled.marked[name])
    facts = {
        "name": task.name,
        "description": task.description,
        "target": task.target,
        "spurious": task.spurious,
        "features": {name: codes_XM.shape[1] for name, codes_XM in pooled.codes.items()},
    }
    write_tensors(run.spurious(task.name), tensors, {"task": json.dumps(facts)})


def read_pooled(run: Run, task: str) -> PooledTask:
    """A pooled task, memory-mapped.

    Raises:
        UserError: If it is missing or damaged.
    """
    path = run.spurious(task)
    arrays, metadata = map_tensors(path)
    table = read_table(run.spurious_texts(task))
    try:
        facts = json.loads(metadata["task"])
        codes = {
            name: sparse.csr_array(
                tuple(arrays[f"{name}.{part}"] for part in _PARTS), shape=(len(arrays["acts"]), features)
            )
            for name, features in facts["features"].items()
        }
        target, spurious, test = (table[column].to_numpy(dtype=np.bool_) for column in ("target", "spurious", "test"))
        names = tuple(facts["target"]), tuple(facts["spurious"])
        known = SpuriousTask(
            facts["name"], facts["description"], *names, table["text"].tolist(), target, spurious, test
        )
        marked = {name: arrays[f"{name}.marked"] for name in codes if f"{name}.marked" in arrays}
        return PooledTask(known, arrays["acts"], codes, marked, arrays["random"])
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path} is damaged; delete it and run sae-ensemble spurious again.") from None


def pooled_tasks(run: Run) -> list[str]:
    """Names of the tasks that were measured; those that `open_workbench` can open."""
    return [str(facts["task"]) for facts in _facts(run)]


def open_workbench(run: Run, task: str, ensemble: str, *, seed: int = 0) -> tuple[Workbench, PooledTask]:
    """What a person needs who ablates features by hand: made in a second, it answers in milliseconds.

    Args:
        run: The run.
        task: Name of a task that was measured.
        ensemble: Name of an ensemble, or `RANDOM`.
        seed: Which texts are drawn; the first of the seeds measured gives that seed's figures.

    Returns:
        (the bench, the texts with their labels and the share of each feature on marked tokens).

    Raises:
        UserError: If the task was not measured, or the ensemble is missing.
    """
    if task not in pooled_tasks(run):
        raise UserError(f"Task {task} was not measured in {run.path}; run: sae-ensemble spurious {run.path}")
    pooled = read_pooled(run, task)
    if ensemble not in pooled.codes:
        raise UserError(f"Task {task} was measured for {', '.join(pooled.codes)}, not for {ensemble}.")
    atoms = pooled.random_ND
    if ensemble != RANDOM:
        atoms = load_ensemble(run.ensemble(ensemble)).dictionary.detach().numpy()
    texts = pooled.texts(run.settings.evaluation.spurious_texts, seed=seed)
    return Workbench(texts, pooled.codes[ensemble], atoms), pooled


def _facts(run: Run) -> list[dict[str, Any]]:
    path = run.evaluation(SPURIOUS)
    return list(read_json(path)["tasks"]) if path.exists() and run.evaluation_table(SPURIOUS).exists() else []


def _write(run: Run, tasks: list[dict[str, Any]], table: pd.DataFrame) -> None:
    """The table first: where there is a JSON file, its table is there too."""
    path = run.evaluation_table(SPURIOUS)
    if path.exists():
        rows = read_table(path)
        table = pd.concat([rows[rows["task"] != table["task"].iloc[0]], table], ignore_index=True)
    write_table(path, table)
    write_json(run.evaluation(SPURIOUS), {"tasks": tasks})


def _fingerprint(task: SpuriousTask, ensembles: Mapping[str, Ensemble]) -> str:
    """Hash of the texts, their labels and of which ensembles there are."""
    digest = hashlib.sha256(json.dumps([sorted(ensembles), task.texts, task.marked]).encode("utf-8", "surrogatepass"))
    for labels_X in (task.target_X, task.spurious_X, task.test_X):
        digest.update(labels_X.tobytes())
    return digest.hexdigest()[:16]
