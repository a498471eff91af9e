"""Detect concepts in a run: measure tasks from its own text, from files and from public data sets, and store them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from sae_core.activations.harvest import evaluation_cache
from sae_core.activations.origins.language_model.kept_passages import documents, passages
from sae_core.activations.origins.text.documents import load_labelled
from sae_core.analysis.concepts import detector_outcomes as details
from sae_core.analysis.concepts.detected import mean_accuracies
from sae_core.analysis.concepts.detection import ActivationsOf, measure_concepts
from sae_core.analysis.concepts.labelled_rows import LabelledRows, labelled_rows
from sae_core.analysis.concepts.public_tasks import TEST_SHARE, public_tasks
from sae_core.analysis.concepts.task_names import identity_of, task_name
from sae_core.analysis.concepts.tasks import Task, docstring_tasks, labelled_task
from sae_core.analysis.concepts.texts_read import TextReader
from sae_core.analysis.reconstruction.control import controls_of
from sae_core.analysis.shared.names_in_tables import CONCEPTS
from sae_core.analysis.shared.random_twin import SAMPLE_ROWS
from sae_core.analysis.shared.sample import training_sample
from sae_core.analysis.shared.trained import trained_ensembles
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.files.whole_files import read_object, read_table, write_json, write_table
from sae_core.foundation.machine.device import resolve_device
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.run import DETECTION, DETECTORS, Run
from sae_core.foundation.settings.run_settings import PUBLIC_TEXTS, EvaluationSettings

SAMPLE_TOKENS, SAMPLE_TEXTS = 2048, 256
"""Held-out activations on which the random dictionary is set up, and texts that commonly hold as many."""


def evaluate_task(
    run: Run,
    path: Path,
    *,
    text_column: str = "text",
    label_column: str = "label",
    progress: Progress = silent,
    device: str | None = None,
) -> None:
    """Detect the labels of a file and add the task to the run's concepts; an earlier task of the file is replaced.

    Args:
        run: A run with trained ensembles.
        path: A CSV, JSONL or Parquet file. The task gets the file's name, with its folder if the name is taken.
        text_column: The column with the text.
        label_column: The column with the label.
        progress: Told about texts and methods.
        device: The device to encode on; the settings' device by default.

    Raises:
        UserError: If the file or a column is missing, or the labels cannot make a task.
    """
    device = resolve_device(device or run.settings.training.device)
    task = task_of_file(run, path, text_column=text_column, label_column=label_column)
    _add_tasks(run, [task], run.settings.evaluation, device, progress, file=identity_of(path))


def task_of_file(run: Run, path: Path, *, text_column: str = "text", label_column: str = "label") -> Task:
    """Make the task of a file, with a name that no other task of the run has; see `evaluate_task`."""
    run.settings.origin.require_text(run)
    texts, labels = load_labelled(path, text_column=text_column, label_column=label_column)
    return labelled_task(task_name(path, _tasks_there(run)), texts, labels, seed=run.settings.training.seed)


def evaluate_public(
    run: Run,
    name: str,
    *,
    train_texts: int = PUBLIC_TEXTS,
    folder: Path | None = None,
    progress: Progress = silent,
    device: str | None = None,
) -> None:
    """Detect the concepts of a public data set and add the tasks to the run's concepts; earlier ones are replaced.

    Args:
        run: A run with trained ensembles.
        name: One of `public_tasks.SETS`.
        train_texts: Training texts of a concept, half of them positive; there are a quarter as many test texts.
        folder: A folder with copies of the data sets by their hub ids, instead of the hub.
        progress: Told about texts and methods.
        device: The device to encode on; the settings' device by default.

    Raises:
        UserError: If the data set cannot be read or has too few texts.
    """
    device = resolve_device(device or run.settings.training.device)
    sizes = {"train_texts": train_texts, "test_texts": round(TEST_SHARE * train_texts)}
    run.settings.origin.require_text(run)
    tasks = public_tasks(name, **sizes, seed=run.settings.training.seed, folder=folder, progress=progress)
    _add_tasks(run, tasks, run.settings.evaluation.model_copy(update=sizes), device, progress)


def _add_tasks(
    run: Run,
    tasks: Sequence[Task],
    settings: EvaluationSettings,
    device: str,
    progress: Progress,
    *,
    file: str | None = None,
) -> None:
    """Measure and store one task after another, since the codes of all texts together would fill the memory."""
    read = TextReader(run, device, progress)
    measure = _measurer(run, trained_ensembles(run, device), read, settings, device, progress)
    for task in tasks:
        facts, table = measure([task])
        if file is not None:
            facts["tasks"] = [{**each, "file": file} for each in facts["tasks"]]
        _add_concepts(run, task.name, facts, table)


def _measurer(
    run: Run,
    ensembles: Mapping[str, Ensemble],
    read: TextReader | LabelledRows,
    settings: EvaluationSettings,
    device: str,
    progress: Progress,
) -> Callable[[Sequence[Task]], tuple[dict[str, Any], pd.DataFrame]]:
    """Return a function that measures tasks; it has the result of `measure_concepts`, with how much text was read."""
    sample_BD, controls = sample_activations(run, read), text_controls(run, ensembles, read, device)

    def measure(tasks: Sequence[Task]) -> tuple[dict[str, Any], pd.DataFrame]:
        facts, table = measure_concepts(
            ensembles,
            tasks,
            read,
            sample_BD,
            settings,
            controls=controls,
            seed=run.settings.training.seed,
            device=device,
            progress=progress,
        )
        return read.describe(facts, tasks), table

    return measure


def _add_concepts(run: Run, name: str, facts: dict, table: pd.DataFrame) -> None:
    """Add the figures of one task to the stored figures."""
    if run.evaluation(CONCEPTS).exists():
        before = read_object(run.evaluation(CONCEPTS), tasks=list)
        kept = [other for other in before["tasks"] if other["task"] != name]
        facts = {**before, "tasks": [*kept, *facts["tasks"]]}
        rows = _read_concepts(run)
        table = pd.concat([part for part in (rows[rows["task"] != name], table) if len(part)], ignore_index=True)
    write_concepts(run, facts, table)


def evaluate_concepts(run: Run, ensembles: Mapping[str, Ensemble], device: str, progress: Progress = silent) -> None:
    """Detect the concepts of the run's own text or rows and write evaluation/concepts, over any earlier figures."""
    settings, rows = run.settings.evaluation, labelled_rows(run)
    tasks = rows.tasks(settings, seed=run.settings.training.seed) if rows else _embedded_tasks(run)
    read = rows or TextReader(run, device, progress)
    facts, table = _measurer(run, ensembles, read, settings, device, progress)(tasks)
    _tasks_lost(run, facts, progress)
    write_concepts(run, facts, table)


def _tasks_there(run: Run) -> list[dict]:
    path = run.evaluation(CONCEPTS)
    return list(read_object(path, tasks=list)["tasks"]) if path.exists() else []


def _tasks_lost(run: Run, facts: dict, progress: Progress) -> None:
    """Report the added tasks that are dropped, because ensembles added since have not been measured on them."""
    before = _tasks_there(run)
    kept = {task["task"] for task in facts["tasks"]}
    lost = [str(task["task"]) for task in before if task["task"] not in kept]
    if lost:
        said = f"The tasks {', '.join(lost)} were measured without ensembles that were added since: give --task again."
        progress(Tick("concepts", 0, 0, note=said))


def _embedded_tasks(run: Run) -> list[Task]:
    """The labelled sets of the embedded corpus; none for other text, which has no labels."""
    if not run.settings.origin.labels_texts(run.settings):
        return []
    settings = run.settings.evaluation
    # Documents that no SAE has seen come first.
    return docstring_tasks(
        [*documents(run, held_out=True), *documents(run, held_out=False)],
        train_texts=settings.train_texts,
        test_texts=settings.test_texts,
        pool_texts=settings.pool_texts,
    )


def sample_activations(run: Run, read: ActivationsOf) -> Tensor:
    """Held-out activations [B, D] for setting up the random dictionary; the model reads them if the cache is gone."""
    if run.activations.exists():
        cache = evaluation_cache(run)
        return cache.read(0, min(SAMPLE_TOKENS, cache.rows))
    return _read_anew(run, read, SAMPLE_TEXTS, held_out=True)[:SAMPLE_TOKENS]


def _read_anew(run: Run, read: ActivationsOf, texts: int, *, held_out: bool) -> Tensor:
    """Activations [B, D] of the first texts of a run, from its language model."""
    first = [passage.text for passage in passages(run, held_out=held_out)[:texts]]
    return torch.cat([batch.acts_TD for batch in read(first)])


def text_controls(
    run: Run, ensembles: Mapping[str, Ensemble], read: ActivationsOf, device: str
) -> Mapping[str, Ensemble]:
    """Stage 1 and random stages for every boosted ensemble: those of evaluation/control.json.

    They are set up on the same training activations; once these are gone, on those of the first training texts.
    """
    if not any(ensemble.is_staged for ensemble in ensembles.values()):
        return {}
    if run.activations.exists():
        sample_BD = training_sample(run, SAMPLE_ROWS)
    else:
        sample_BD = _read_anew(run, read, 2 * SAMPLE_TEXTS, held_out=False)[:SAMPLE_ROWS]
    return controls_of(ensembles, sample_BD.to(device), seed=run.settings.training.seed)


def write_concepts(run: Run, facts: dict, table: pd.DataFrame) -> None:
    """Write the result of `measure_concepts`; the columns for curves go into a separate table.

    The tables are written before the JSON file, so an existing JSON file has its tables.
    """
    own = [*details.COLUMNS, details.UNITS]
    detectors = table[[*details.KEY, *own]].dropna(subset=list(details.COLUMNS))
    samples, seed = run.settings.evaluation.bootstrap, run.settings.training.seed
    write_table(run.evaluation_table(DETECTORS), detectors)
    # Of all tasks together, since the means are over all tasks.
    write_table(run.evaluation_table(DETECTION), mean_accuracies(detectors, samples=samples, seed=seed))
    write_table(run.evaluation_table(CONCEPTS), table.drop(columns=own))
    write_json(run.evaluation(CONCEPTS), facts)


def _read_concepts(run: Run) -> pd.DataFrame:
    """Read the table as it was measured; runs of older versions have no details of their detectors."""
    rows = read_table(run.evaluation_table(CONCEPTS))
    if run.evaluation_table(DETECTORS).exists():
        return rows.merge(read_table(run.evaluation_table(DETECTORS)), on=list(details.KEY), how="left")
    return rows
