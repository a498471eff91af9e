"""Measure spurious correlations in a run: make tasks, pool their texts with the language model, store the figures."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_core.activations.origins.language_model.kept_passages import documents
from sae_core.activations.origins.language_model.reading import LanguageModel
from sae_core.analysis.concepts.labelled_rows import LabelledRows, labelled_rows
from sae_core.analysis.concepts.runs import sample_activations, text_controls
from sae_core.analysis.concepts.task_names import task_name
from sae_core.analysis.concepts.texts_read import TextReader
from sae_core.analysis.shared.names_in_tables import SPURIOUS
from sae_core.analysis.shared.trained import trained_ensembles
from sae_core.analysis.spurious.files import measured_tasks, read_pooled, write_measured, write_pooled
from sae_core.analysis.spurious.removal import PooledTask, measure_spurious, over_seeds, pool_task
from sae_core.analysis.spurious.tasks import (
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
    row_task,
    shared_texts,
)
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.machine.device import resolve_device
from sae_core.foundation.methods import control_name
from sae_core.foundation.progress import Progress, silent
from sae_core.foundation.run import Run


def make_tasks(
    run: Run, names: Sequence[str] = (), file: Path | None = None, columns: Columns | None = None
) -> list[SpuriousTask]:
    """Make the tasks that the user asks for; by default those that need neither the hub nor a file.

    Args:
        run: The run; its text gives the task of docstrings.
        names: `BIOGRAPHIES`, `DOCSTRINGS` or `BIAS_IN_BIOS`.
        file: A file of texts with two labels.
        columns: The columns of the file; for a run whose rows have labels, which of these labels.

    Raises:
        UserError: If the run has no language model, or a task is unknown, is given twice, or cannot get its texts.
    """
    rows = labelled_rows(run)
    if rows is not None:
        return [_row_task(run, rows, names, file, columns)]
    run.settings.origin.require_text(run)
    if columns is not None and file is None:
        raise UserError("--target and --attribute name columns of a file of texts; give it with --file.")
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise UserError(f"Task {twice[0]} is given twice; leave one of them out.")
    texts, embedded = run.settings.evaluation.spurious_texts, run.settings.origin.labels_texts(run.settings)
    if not names and file is None:
        # A small run may hold too few passages for the docstrings. Only a user who names that task is told.
        return [biography_task(texts), *filter(None, [_docstrings(run, texts) if embedded else None])]
    tasks = []
    for name in names:
        if name == BIOGRAPHIES:
            tasks.append(biography_task(texts))
        elif name == BIAS_IN_BIOS:
            tasks.append(bias_in_bios_task(texts))
        elif name == DOCSTRINGS and not embedded:
            raise UserError(f"Task {DOCSTRINGS} needs the embedded text; this run reads {run.settings.text.source}.")
        elif name != DOCSTRINGS:
            raise UserError(f"There is no task {name!r}; use {BIOGRAPHIES}, {DOCSTRINGS} or {BIAS_IN_BIOS}, or --file.")
        elif (task := _docstrings(run, texts)) is None:
            raise UserError(f"No two libraries in the text of {run.path} have enough passages of both kinds.")
        else:
            tasks.append(task)
    if file is not None:
        tasks.append(file_task(file, columns or Columns(), texts, name=task_name(file, measured_tasks(run))))
    return tasks


def _docstrings(run: Run, texts: int) -> SpuriousTask | None:
    return docstring_task([*documents(run, held_out=True), *documents(run, held_out=False)], texts)


def _row_task(
    run: Run, rows: LabelledRows, names: Sequence[str], file: Path | None, columns: Columns | None
) -> SpuriousTask:
    """The task of two labels of a run's rows."""
    if names or file is not None:
        run.settings.origin.require_text(run)
    if columns is None:
        there = ", ".join(rows.columns) or "none"
        raise UserError(f"Say by --target COLUMN=A,B and --attribute COLUMN=A,B which labels of the rows: {there}.")
    return row_task(rows.labels, rows.is_test_R, columns, run.settings.evaluation.spurious_texts)


def require_tasks(run: Run, tasks: Sequence[SpuriousTask], *, seed: int = 0) -> None:
    """Refuse tasks that cannot be measured, before the model reads anything.

    Raises:
        UserError: If the run has no language model, or a task has too few texts.
    """
    if labelled_rows(run) is None:
        run.settings.origin.require_text(run)
    for task in tasks:
        draw_split(task, run.settings.evaluation.spurious_texts, seed=seed)


def evaluate_spurious(
    run: Run,
    tasks: Sequence[SpuriousTask],
    *,
    seeds: Sequence[int],
    retrain: bool = False,
    progress: Progress = silent,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Measure tasks and write evaluation/spurious.json and .parquet, over earlier figures of the same tasks.

    Texts that were pooled before are not read again. A task is not measured again for the same texts, seeds, choice of
    ``retrain`` and methods.

    Args:
        run: A run with trained ensembles and a language model.
        tasks: The tasks.
        seeds: The seeds. Each has its own texts if there are enough; see `draw_split`.
        retrain: Also fit a new probe after each ablation.
        progress: Told about texts and seeds.
        device: The device to encode on; the settings' device by default.

    Returns:
        The entries of ``tasks`` in evaluation/spurious.json, in the order of the arguments.

    Raises:
        UserError: If nothing is trained, the run has no language model, or a task has too few texts.
    """
    require_tasks(run, tasks, seed=seeds[0])
    device = resolve_device(device or run.settings.training.device)
    ensembles = trained_ensembles(run, device)
    for task in tasks:
        _evaluate_task(run, task, ensembles, list(seeds), retrain, device, progress)
    measured = {facts["task"]: facts for facts in measured_tasks(run)}
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
    pooled = {
        "fingerprint": _fingerprint(task, ensembles),
        "controls": [control_name(name) for name, ensemble in ensembles.items() if ensemble.is_staged],
        "weights": _weights(ensembles),
    }
    texts = run.settings.evaluation.spurious_texts
    known = {"seeds": seeds, "retrained": retrain, "texts": texts, **pooled}
    if any(facts["task"] == task.name and _agrees(facts, known) for facts in measured_tasks(run)):
        return
    stage = f"evaluate/{SPURIOUS}/{task.name}"
    if not run.is_finished(stage) or not _agrees(run.facts(stage), pooled):
        started = time.perf_counter()
        read = _pool(run, task, ensembles, device, progress)
        files = [run.spurious(task.name), run.spurious_texts(task.name)]
        run.finish(stage, {"seconds": time.perf_counter() - started, **pooled, "read": read}, files=files)
    dictionaries = {name: ensemble.dictionary.detach().cpu().numpy() for name, ensemble in ensembles.items()}
    # Earlier versions did not record how much of the texts was read.
    known["read"] = run.facts(stage).get("read", {})
    measure_pooled(run, task, read_pooled(run, task.name), dictionaries, known, progress=progress)


def _agrees(facts: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether what is recorded is what is wanted; earlier versions had no controls."""
    return wanted.items() <= {"controls": [], **facts}.items()


def measure_pooled(
    run: Run,
    task: SpuriousTask,
    pooled: PooledTask,
    dictionaries: Mapping[str, NDArray[np.float32]],
    known: Mapping[str, Any],
    *,
    progress: Progress = silent,
) -> None:
    """Measure a task with pooled texts and write its figures, over earlier ones.

    Args:
        run: The run.
        task: The task.
        pooled: The pooled texts.
        dictionaries: The atoms [M, D] of each ensemble.
        known: The facts to write beside the figures, among them ``seeds``, ``retrained`` and ``texts``.
        progress: Told about seeds.
    """
    texts, seeds = known["texts"], known["seeds"]
    table = measure_spurious(pooled, dictionaries, texts, seeds, retrain=known["retrained"], progress=progress)
    splits = [draw_split(task, texts, seed=seed) for seed in seeds]
    facts = {
        "task": task.name,
        **({} if task.file is None else {"file": task.file}),
        "description": task.description,
        "target": task.target,
        "spurious": task.spurious,
        **known,
        **{f"{part}_texts": len(rows) for part, rows in splits[0]._asdict().items()},
        "pool_texts": len(task.texts),
        "shared_texts": shared_texts(splits),
        "figures": over_seeds(table),
    }
    write_measured(run, [facts, *(other for other in measured_tasks(run) if other["task"] != task.name)], table)


def _pool(
    run: Run, task: SpuriousTask, ensembles: Mapping[str, Ensemble], device: str, progress: Progress
) -> dict[str, Any]:
    """Pool the texts or rows of a task, write them, and describe how much of them was read."""
    read = labelled_rows(run) or TextReader(run, device, progress)

    def spans(texts: Sequence[str]) -> list[NDArray[np.int64]]:
        model = LanguageModel.load(run.settings.model, device="cpu")
        return model.char_spans(texts, context=run.settings.evaluation.tokens_per_text)

    pooled = pool_task(
        task,
        ensembles,
        read,
        spans,
        sample_activations(run, read),
        controls=text_controls(run, ensembles, read, device),
        seed=run.settings.training.seed,
        device=device,
        progress=progress,
    )
    described = read.described(task.name, task.texts)
    write_pooled(run, pooled)
    return described


def _fingerprint(task: SpuriousTask, ensembles: Mapping[str, Ensemble]) -> str:
    """Hash the texts, their labels and the names of the ensembles."""
    digest = hashlib.sha256(
        json.dumps([sorted(ensembles), task.texts, task.marked, task.dealt]).encode("utf-8", "surrogatepass")
    )
    for labels_X in (task.target_X, task.spurious_X, task.test_X):
        digest.update(labels_X.tobytes())
    return digest.hexdigest()[:16]


def _weights(ensembles: Mapping[str, Ensemble]) -> str:
    """Hash what the ensembles are, since some may have been trained again under the same names."""
    digest = hashlib.sha256()
    for name in sorted(ensembles):
        for key, tensor in ensembles[name].state_dict().items():
            digest.update(f"{name} {key} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
