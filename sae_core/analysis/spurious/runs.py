"""Spurious correlations in a run: its tasks are made, their texts pooled with the language model, and measured."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_core.activations.origins.language_model.kept_passages import documents
from sae_core.activations.origins.language_model.reading import LanguageModel
from sae_core.analysis.concepts.labelled_rows import LabelledRows, labelled_rows
from sae_core.analysis.concepts.runs import sample_activations
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
from sae_core.foundation.progress import Progress, silent
from sae_core.foundation.run import Run


def make_tasks(
    run: Run, names: Sequence[str] = (), file: Path | None = None, columns: Columns | None = None
) -> list[SpuriousTask]:
    """The tasks that are asked for; without any, those that need neither a hub nor a file.

    Args:
        run: The run, whose text the docstrings come from.
        names: `BIOGRAPHIES`, `DOCSTRINGS` or `BIAS_IN_BIOS`.
        file: A file of texts with two labels.
        columns: Its columns; or of a run whose rows have labels, which of these.

    Raises:
        UserError: If there is no such task, or its texts cannot be had.
    """
    rows = labelled_rows(run)
    if rows is not None:
        return [_row_task(run, rows, names, file, columns)]
    if columns is not None and file is None:
        raise UserError("--target and --attribute name columns of a file of texts; give it with --file.")
    texts, embedded = run.settings.evaluation.spurious_texts, run.settings.origin.labels_texts(run.settings)
    wanted = list(names)
    if twice := [name for number, name in enumerate(wanted) if name in wanted[:number]]:
        raise UserError(f"Task {twice[0]} is given twice; leave one of them out.")
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
    if file is None:
        return tasks
    name = task_name(file, measured_tasks(run))
    return [*tasks, file_task(file, columns or Columns(), texts, name=name)]


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
    """Refuse tasks that could not be measured, before anything is read.

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
    """Measure tasks and write evaluation/spurious.json and .parquet, in place of earlier figures of the same tasks.

    Texts that were pooled before are not read again, and what was measured with the same texts, seeds and choice of
    ``retrain`` is kept.

    Args:
        run: A run with trained ensembles and a language model.
        tasks: The tasks.
        seeds: Each has texts of its own, as far as there are enough; see `draw_split`.
        retrain: Also fit a new probe after each ablation.
        progress: Told about texts and seeds.
        device: Where to encode; the one in the settings if not given.

    Returns:
        The ``tasks`` of evaluation/spurious.json, those given first.

    Raises:
        UserError: If nothing is trained, there is no language model, or a task has too few texts.
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
    texts, fingerprint = run.settings.evaluation.spurious_texts, _fingerprint(task, ensembles)
    identity = {"seeds": seeds, "retrained": retrain, "texts": texts, "fingerprint": fingerprint}
    others = measured_tasks(run)
    if any(facts["task"] == task.name and identity.items() <= facts.items() for facts in others):
        return
    stage = f"evaluate/{SPURIOUS}/{task.name}"
    if not run.is_finished(stage) or run.facts(stage)["fingerprint"] != fingerprint:
        _pool(run, task, ensembles, stage, fingerprint, device, progress)
    dictionaries = {name: ensemble.dictionary.detach().cpu().numpy() for name, ensemble in ensembles.items()}
    # An earlier version kept nothing of what was read.
    known = {**identity, "read": run.facts(stage).get("read", {})}
    measure_pooled(run, task, read_pooled(run, task.name), dictionaries, known, progress=progress)


def measure_pooled(
    run: Run,
    task: SpuriousTask,
    pooled: PooledTask,
    dictionaries: Mapping[str, NDArray[np.float32]],
    known: Mapping[str, Any],
    *,
    progress: Progress = silent,
) -> None:
    """Measure a task whose texts are pooled and write its figures, in place of earlier ones.

    Args:
        run: The run.
        task: The task.
        pooled: Its pooled texts.
        dictionaries: The atoms [M, D] of each ensemble.
        known: What is written beside the figures: ``seeds``, ``retrained``, ``texts``, ``fingerprint`` and ``read``.
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
    run: Run,
    task: SpuriousTask,
    ensembles: Mapping[str, Ensemble],
    stage: str,
    fingerprint: str,
    device: str,
    progress: Progress,
) -> None:
    started = time.perf_counter()
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
        seed=run.settings.training.seed,
        device=device,
        progress=progress,
    )
    facts = {"fingerprint": fingerprint, "read": read.described(task.name, task.texts)}
    write_pooled(run, pooled)
    files = [run.spurious(task.name), run.spurious_texts(task.name)]
    run.finish(stage, {"seconds": time.perf_counter() - started, **facts}, files=files)


def _fingerprint(task: SpuriousTask, ensembles: Mapping[str, Ensemble]) -> str:
    """Hash of the texts, their labels and of which ensembles there are."""
    digest = hashlib.sha256(
        json.dumps([sorted(ensembles), task.texts, task.marked, task.dealt]).encode("utf-8", "surrogatepass")
    )
    for labels_X in (task.target_X, task.spurious_X, task.test_X):
        digest.update(labels_X.tobytes())
    return digest.hexdigest()[:16]
