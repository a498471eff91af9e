"""Concept detection in a run: tasks of its own text, of files and of public data sets, measured and kept together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from sae_core.activations.harvest import documents, evaluation_cache, passages
from sae_core.activations.origins.text.documents import load_labelled
from sae_core.analysis.concepts import details
from sae_core.analysis.concepts.detected import mean_accuracies
from sae_core.analysis.concepts.detection import ActivationsOf, measure_concepts
from sae_core.analysis.concepts.public_tasks import TEST_SHARE, public_tasks
from sae_core.analysis.concepts.task_names import identity_of, task_name
from sae_core.analysis.concepts.tasks import Task, docstring_tasks, labelled_task
from sae_core.analysis.concepts.texts_read import TextReader
from sae_core.analysis.reconstruction.control import controls_of
from sae_core.analysis.shared.random_twin import SAMPLE_ROWS
from sae_core.analysis.shared.sample import training_sample
from sae_core.analysis.shared.trained import trained_ensembles
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_object, read_table, write_json, write_table
from sae_core.foundation.machine.device import resolve_device
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.run import DETECTION, DETECTORS, Run
from sae_core.foundation.settings.sections import EMBEDDED, KNOWN, PUBLIC_TEXTS, EvaluationSettings

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
    """Detect the labels in a file and add them to the run's concepts, in place of an earlier task of that file.

    Args:
        run: A run with trained ensembles.
        path: CSV, JSONL or Parquet; the task is called after it, and after its folder where another one is called so.
        text_column: Column that holds the text.
        label_column: Column that holds the label.
        progress: Told about texts and methods.
        device: Where to encode; the one in the settings if not given.

    Raises:
        UserError: If the file or a column is missing, or the labels cannot make a task.
    """
    device = resolve_device(device or run.settings.training.device)
    task = task_of_file(run, path, text_column=text_column, label_column=label_column)
    _add_tasks(run, [task], run.settings.evaluation, device, progress, file=identity_of(path))


def task_of_file(run: Run, path: Path, *, text_column: str = "text", label_column: str = "label") -> Task:
    """The task of a file, by the name that it has beside the run's tasks; see `evaluate_task`."""
    require_language_model(run)
    texts, labels = load_labelled(path, text_column=text_column, label_column=label_column)
    return labelled_task(task_name(path, _tasks_there(run)), texts, labels, seed=run.settings.training.seed)


def require_language_model(run: Run) -> None:
    """Refuse a run that no text can be read with.

    Raises:
        UserError: One sentence that says so.
    """
    if run.settings.model.name == KNOWN:
        raise UserError(f"The activations of {run.path} come from a known dictionary; no text can be read with it.")


def evaluate_public(
    run: Run,
    name: str,
    *,
    train_texts: int = PUBLIC_TEXTS,
    folder: Path | None = None,
    progress: Progress = silent,
    device: str | None = None,
) -> None:
    """Detect the concepts of a public data set and add them to the run's, in place of earlier tasks of these names.

    Args:
        run: A run with trained ensembles.
        name: One of `public_tasks.SETS`.
        train_texts: Training texts of a concept, half of them positive; there are a quarter as many for testing.
        folder: Where copies of the data sets lie by their hub ids, instead of the hub.
        progress: Told about texts and methods.
        device: Where to encode; the one in the settings if not given.

    Raises:
        UserError: If the data set cannot be read or has too few texts.
    """
    device = resolve_device(device or run.settings.training.device)
    sizes = {"train_texts": train_texts, "test_texts": round(TEST_SHARE * train_texts)}
    require_language_model(run)
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
    """Measure tasks one after another, as the codes of many texts fill the memory, and keep each when it is done."""
    ensembles, read = trained_ensembles(run, device), TextReader(run, device, progress)
    sample_BD, controls = sample_activations(run, read), _controls(run, ensembles, read, device)
    for task in tasks:
        facts, table = measure_concepts(
            ensembles,
            [task],
            read,
            sample_BD,
            settings,
            controls=controls,
            seed=run.settings.training.seed,
            device=device,
            progress=progress,
        )
        facts = read.describe(facts, [task])
        if file is not None:
            facts["tasks"] = [{**each, "file": file} for each in facts["tasks"]]
        _add_concepts(run, task.name, facts, table)


def _add_concepts(run: Run, name: str, facts: dict, table: pd.DataFrame) -> None:
    """Put the figures of one task beside those that are there."""
    if run.evaluation("concepts").exists():
        before = read_object(run.evaluation("concepts"), tasks=list)
        kept = [other for other in before["tasks"] if other["task"] != name]
        facts = {**before, "tasks": [*kept, *facts["tasks"]]}
        rows = _read_concepts(run)
        table = pd.concat([part for part in (rows[rows["task"] != name], table) if len(part)], ignore_index=True)
    write_concepts(run, facts, table)


def evaluate_concepts(run: Run, ensembles: Mapping[str, Ensemble], device: str, progress: Progress = silent) -> None:
    """Detect the concepts of the run's own text and write evaluation/concepts, in place of what is there."""
    read, tasks = TextReader(run, device, progress), _embedded_tasks(run)
    facts, table = measure_concepts(
        ensembles,
        tasks,
        read,
        sample_activations(run, read),
        run.settings.evaluation,
        controls=_controls(run, ensembles, read, device),
        seed=run.settings.training.seed,
        device=device,
        progress=progress,
    )
    facts = read.describe(facts, tasks)
    _tasks_lost(run, facts, progress)
    write_concepts(run, facts, table)


def _tasks_there(run: Run) -> list[dict]:
    path = run.evaluation("concepts")
    return list(read_object(path, tasks=list)["tasks"]) if path.exists() else []


def _tasks_lost(run: Run, facts: dict, progress: Progress) -> None:
    """Say which tasks that were added earlier are dropped, as further ensembles have not been measured on them."""
    before = _tasks_there(run)
    kept = {task["task"] for task in facts["tasks"]}
    lost = [str(task["task"]) for task in before if task["task"] not in kept]
    if lost:
        said = f"The tasks {', '.join(lost)} were measured without ensembles that were added since: give --task again."
        progress(Tick("concepts", 0, 0, note=said))


def _embedded_tasks(run: Run) -> list[Task]:
    """The labelled sets that come with the embedded corpus; none for other text, whose labels are not known."""
    if run.settings.text.source != EMBEDDED:
        return []
    settings = run.settings.evaluation
    # Those that no SAE has seen come first.
    return docstring_tasks(
        [*documents(run, held_out=True), *documents(run, held_out=False)],
        train_texts=settings.train_texts,
        test_texts=settings.test_texts,
        pool_texts=settings.pool_texts,
    )


def sample_activations(run: Run, read: ActivationsOf) -> Tensor:
    """Held-out activations [B, D] on which the random dictionary is set up; from the model once the cache is gone."""
    if run.activations.exists():
        cache = evaluation_cache(run)
        return cache.read(0, min(SAMPLE_TOKENS, cache.rows))
    return _read_anew(run, read, SAMPLE_TEXTS, held_out=True)[:SAMPLE_TOKENS]


def _read_anew(run: Run, read: ActivationsOf, texts: int, *, held_out: bool) -> Tensor:
    """Activations [B, D] of the first texts of a run, from its language model."""
    first = [passage.text for passage in passages(run, held_out=held_out)[:texts]]
    return torch.cat([batch.acts_TD for batch in read(first)])


def _controls(run: Run, ensembles: Mapping[str, Ensemble], read: ActivationsOf, device: str) -> Mapping[str, Ensemble]:
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
    """Write what `measure_concepts` gives; what only curves need lies by itself.

    The tables come first: where there is a JSON file, its tables are there too.
    """
    own = [*details.COLUMNS, details.UNITS]
    detectors = table[[*details.KEY, *own]].dropna(subset=list(details.COLUMNS))
    samples, seed = run.settings.evaluation.bootstrap, run.settings.training.seed
    write_table(run.evaluation_table(DETECTORS), detectors)
    # Of all tasks together, as means are over all of them.
    write_table(run.evaluation_table(DETECTION), mean_accuracies(detectors, samples=samples, seed=seed))
    write_table(run.evaluation_table("concepts"), table.drop(columns=own))
    write_json(run.evaluation("concepts"), facts)


def _read_concepts(run: Run) -> pd.DataFrame:
    """The table as it was measured; earlier runs have no details of their detectors."""
    rows = read_table(run.evaluation_table("concepts"))
    if run.evaluation_table(DETECTORS).exists():
        return rows.merge(read_table(run.evaluation_table(DETECTORS)), on=list(details.KEY), how="left")
    return rows
