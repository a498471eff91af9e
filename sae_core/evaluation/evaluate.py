"""All evaluations of a run, stage by stage; what is finished is skipped, what is missing is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.activations.harvest import (
    documents,
    evaluation_cache,
    passages,
)
from sae_core.activations.language_model import ActivationBatch, LanguageModel
from sae_core.activations.substitution import SubstitutedModel, UnpredictingError
from sae_core.activations.text import load_labelled
from sae_core.config import EMBEDDED, PUBLIC_TEXTS, EvaluationSettings
from sae_core.device import resolve_device
from sae_core.ensemble import Ensemble, load_ensemble
from sae_core.errors import UserError
from sae_core.evaluation import details
from sae_core.evaluation.concepts import ActivationsOf, measure_concepts
from sae_core.evaluation.control import measure_controls
from sae_core.evaluation.cost import TIMED_TOKENS, measure_cost
from sae_core.evaluation.detected import mean_accuracies
from sae_core.evaluation.dictionary import measure_dictionary
from sae_core.evaluation.loss import measure_loss, undefined
from sae_core.evaluation.public_tasks import TEST_SHARE, public_tasks
from sae_core.evaluation.random_twin import SAMPLE_ROWS
from sae_core.evaluation.reconstruction import measure_reconstruction
from sae_core.evaluation.retrains import members_are_retrains
from sae_core.evaluation.sample import training_sample
from sae_core.evaluation.task_names import identity_of, task_name
from sae_core.evaluation.tasks import Task, docstring_tasks, labelled_task
from sae_core.files import read_object, read_table, write_json, write_table
from sae_core.progress import Progress, Tick, silent
from sae_core.run import CONTROL_STAGE, DETECTION, DETECTORS, EVALUATION_STAGES, Run

SAMPLE_TOKENS, SAMPLE_TEXTS = 2048, 256
"""Held-out activations on which the random dictionary is set up, and texts that commonly hold as many."""

CONTROL_GONE = "What random stages would explain in the place of trained ones cannot be measured:"

TABLES = {"reconstruction": ("reconstruction",), "concepts": ("concepts", DETECTORS, DETECTION)}
"""Tables that an evaluation writes beside its JSON file."""

Ensembles = dict[str, Ensemble]


def evaluate_run(
    run: Run,
    *,
    stages: Collection[str] = EVALUATION_STAGES,
    progress: Progress = silent,
    device: str | None = None,
) -> None:
    """Measure reconstruction, dictionaries, concept detection, cost and loss recovered, and write evaluation/.

    Args:
        run: A run with trained ensembles and its activation cache.
        stages: Which of `EVALUATION_STAGES`; cost needs the reconstruction.
        progress: Told about every block.
        device: Where to encode; the one in the settings if not given.

    Raises:
        UserError: If nothing is trained yet, or the activation cache or the language model is gone.
    """
    missing = [name for name in EVALUATION_STAGES if name in stages and not run.is_finished(f"evaluate/{name}")]
    if CONTROL_STAGE in missing and run.is_finished("evaluate/reconstruction") and not run.activations.exists():
        # A run of an earlier version, whose activations may be gone: everything else of it can still be used.
        missing.remove(CONTROL_STAGE)
        progress(Tick("measure random stages", 0, 0, note=f"{CONTROL_GONE} {run.activations} is gone."))
    if not missing:
        return
    device = resolve_device(device or run.settings.training.device)
    ensembles = _load(run, device)
    measures: dict[str, Callable[[Run, Ensembles, str, Progress], None]] = {
        "reconstruction": _reconstruction,
        "dictionary": _dictionary,
        "concepts": _concepts,
        "cost": _cost,
        "loss": _loss,
        CONTROL_STAGE: _control,
    }
    for name in missing:
        started = time.perf_counter()
        measures[name](run, ensembles, device, progress)
        files = [run.evaluation(name), *map(run.evaluation_table, TABLES.get(name, ()))]
        run.finish(f"evaluate/{name}", {"seconds": time.perf_counter() - started, "device": device}, files=files)


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
    texts, labels = load_labelled(path, text_column=text_column, label_column=label_column)
    there = _tasks_there(run)
    task = labelled_task(task_name(path, there), texts, labels, seed=run.settings.training.seed)
    _add_tasks(run, [task], run.settings.evaluation, device, progress, file=identity_of(path))


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
    ensembles, read = _load(run, device), activations_of(run, device, progress)
    sample_BD = sample_activations(run, read)
    for task in tasks:
        facts, table = measure_concepts(
            ensembles,
            [task],
            read,
            sample_BD,
            settings,
            seed=run.settings.training.seed,
            device=device,
            progress=progress,
        )
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
    _write_concepts(run, facts, table)


def _load(run: Run, device: str) -> Ensembles:
    d_in = run.facts("corpus").get("d_in")
    ensembles = {folder.name: load_ensemble(folder, device=device, d_in=d_in) for folder in run.ensembles()}
    if not ensembles:
        raise UserError(f"{run.path} holds no trained ensemble; run sae-ensemble train on it first.")
    return ensembles


def _reconstruction(run: Run, ensembles: Ensembles, device: str, progress: Progress) -> None:
    cache = evaluation_cache(run)
    figures, densities = measure_reconstruction(
        ensembles,
        cache.read,
        cache.rows,
        document_T=held_out_documents(run, cache.rows),
        stretch=run.settings.model.context,
        bootstrap=run.settings.evaluation.bootstrap,
        seed=run.settings.training.seed,
        device=device,
        progress=progress,
    )
    write_table(run.evaluation_table("reconstruction"), densities)
    write_json(run.evaluation("reconstruction"), figures)


def held_out_documents(run: Run, rows: int) -> NDArray[np.int64] | None:
    """The number of the document that each row of the evaluation cache is of [rows]; None where there are no texts.

    A long document may lie there in several passages.
    """
    if not run.corpus.texts.exists():
        return None
    document_T = np.repeat(*_held_out_passages(run))
    return document_T if len(document_T) == rows else None


def _held_out_passages(run: Run) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(the number of the document of each held-out passage, its tokens); in older runs each is one of its own."""
    table = read_table(run.corpus.texts)
    held_out = table[table["held_out"]]
    numbers = held_out["document"].to_numpy(np.int64) if "document" in held_out else np.arange(len(held_out))
    return numbers, held_out["tokens"].to_numpy(np.int64)


def _dictionary(run: Run, ensembles: Ensembles, device: str, progress: Progress) -> None:
    cache = evaluation_cache(run)
    figures = measure_dictionary(
        ensembles, cache.read, cache.rows, seed=run.settings.training.seed, device=device, progress=progress
    )
    bag = figures["ensembles"].get("bagged", {}).get("member_stability")
    # The single SAE, trained as often as the bag has members, which are such trainings.
    figures["single_retrained"] = bag if members_are_retrains(run.settings) else None
    write_json(run.evaluation("dictionary"), figures)


def _concepts(run: Run, ensembles: Ensembles, device: str, progress: Progress) -> None:
    read = activations_of(run, device, progress)
    facts, table = measure_concepts(
        ensembles,
        _embedded_tasks(run),
        read,
        sample_activations(run, read),
        run.settings.evaluation,
        seed=run.settings.training.seed,
        device=device,
        progress=progress,
    )
    _tasks_lost(run, facts, progress)
    _write_concepts(run, facts, table)


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


def _cost(run: Run, ensembles: Ensembles, device: str, progress: Progress) -> None:
    cache = evaluation_cache(run)
    acts_BD = cache.read(0, min(TIMED_TOKENS, cache.rows)).to(device)
    progress(Tick("measure cost", 0, len(ensembles), unit="ensembles"))
    write_json(run.evaluation("cost"), measure_cost(run, ensembles, acts_BD))
    progress(Tick("measure cost", len(ensembles), len(ensembles), unit="ensembles"))


def _loss(run: Run, ensembles: Ensembles, device: str, progress: Progress) -> None:
    reason = _no_loss(run)
    if reason:
        write_json(run.evaluation("loss"), undefined(reason))
        return
    write_json(run.evaluation("loss"), _recovered(run, ensembles, device, progress))


def _recovered(run: Run, ensembles: Ensembles, device: str, progress: Progress) -> dict:
    settings = run.settings
    try:
        model = SubstitutedModel.load(settings.model, device=device)
    except UnpredictingError as error:
        return undefined(str(error))
    return measure_loss(
        ensembles,
        model,
        [passage.text for passage in passages(run, held_out=True)],
        evaluation_cache(run).mean_D,
        tokens=settings.evaluation.loss_tokens,
        documents=_held_out_passages(run)[0].tolist(),
        bootstrap=settings.evaluation.bootstrap,
        seed=settings.training.seed,
        progress=progress,
    )


def _control(run: Run, ensembles: Ensembles, device: str, progress: Progress) -> None:
    cache = evaluation_cache(run)
    facts, controls = measure_controls(
        ensembles,
        cache.read,
        cache.rows,
        lambda: training_sample(run, SAMPLE_ROWS),
        document_T=held_out_documents(run, cache.rows),
        stretch=run.settings.model.context,
        bootstrap=run.settings.evaluation.bootstrap,
        seed=run.settings.training.seed,
        device=device,
        progress=progress,
    )
    if controls and _no_loss(run) is None:
        for name, found in _recovered(run, controls, device, progress)["ensembles"].items():
            kept = ("loss_recovered", "loss_recovered_interval", "loss_recovered_mean", "cross_entropy", "kl_recovered")
            facts["ensembles"][name] |= {key: found[key] for key in kept}
    write_json(run.evaluation(CONTROL_STAGE), facts)


def _no_loss(run: Run) -> str | None:
    """Why the loss recovered is not defined, or not wanted."""
    if not run.corpus.texts.exists():
        return "The activations come from no language model."
    if run.settings.evaluation.loss_tokens == 0:
        return "It was left out (evaluation.loss_tokens is 0)."
    return None


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
    texts = [passage.text for passage in passages(run, held_out=True)[:SAMPLE_TEXTS]]
    return torch.cat([batch.acts_TD for batch in read(texts)])[:SAMPLE_TOKENS]


def activations_of(run: Run, device: str, progress: Progress) -> ActivationsOf:
    """The run's language model, opened when the first text needs it."""
    opened: list[LanguageModel] = []

    def activations(texts: Sequence[str]) -> Iterator[ActivationBatch]:
        if not opened:
            opened.append(LanguageModel.load(run.settings.model, device=device))
        yield from opened[0].activations(texts, context=run.settings.evaluation.tokens_per_text, progress=progress)

    return activations


def _write_concepts(run: Run, facts: dict, table: pd.DataFrame) -> None:
    """The tables first: where there is a JSON file, its tables are there too. What only curves need lies by itself."""
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
