"""Store spurious tasks in a run (pooled texts and figures), and open the workbench for ablating features by hand.

No function here reads a text with a language model, so pages need not wait for one.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from sae_core.analysis.shared.names_in_tables import RANDOM, SPURIOUS
from sae_core.analysis.spurious.ablation import Workbench
from sae_core.analysis.spurious.removal import PooledTask
from sae_core.analysis.spurious.tasks import SpuriousTask
from sae_core.ensembles.ensemble import load_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import map_tensors
from sae_core.foundation.files.whole_files import (
    parse_json,
    read_object,
    read_table,
    write_json,
    write_table,
    write_tensors,
)
from sae_core.foundation.run import Run

_PARTS = ("data", "indices", "indptr")


def _atoms(name: str) -> str:
    """The tensor with the atoms of an untrained method; that of the random dictionary has no other of its name."""
    return name if name == RANDOM else f"{name}.atoms"


def write_pooled(run: Run, pooled: PooledTask) -> None:
    """Write a pooled task into the run, texts first."""
    task = pooled.task
    columns = {"text": task.texts, "target": task.target_X, "spurious": task.spurious_X, "test": task.test_X}
    write_table(run.spurious_texts(task.name), pd.DataFrame(columns))
    arrays = {"acts": pooled.acts_XD, **{_atoms(name): atoms_MD for name, atoms_MD in pooled.untrained.items()}}
    for name, codes_XM in pooled.codes.items():
        arrays |= {f"{name}.{part}": getattr(codes_XM, part) for part in _PARTS}
    arrays |= {f"{name}.marked": marked_M for name, marked_M in pooled.marked.items()}
    facts = {
        "name": task.name,
        "description": task.description,
        "target": task.target,
        "spurious": task.spurious,
        "dealt": task.dealt,
        "features": {name: codes_XM.shape[1] for name, codes_XM in pooled.codes.items()},
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    write_tensors(run.spurious(task.name), tensors, {"task": json.dumps(facts)})


def read_pooled(run: Run, task: str) -> PooledTask:
    """Read a pooled task, memory-mapped.

    Raises:
        UserError: If the task is missing or damaged.
    """
    path = run.spurious(task)
    arrays, metadata = map_tensors(path)
    table = read_table(run.spurious_texts(task))
    try:
        facts = parse_json(metadata["task"])
        codes = {
            name: sparse.csr_array(
                tuple(arrays[f"{name}.{part}"] for part in _PARTS), shape=(len(arrays["acts"]), features)
            )
            for name, features in facts["features"].items()
        }
        target, spurious, test = (table[column].to_numpy(dtype=np.bool_) for column in ("target", "spurious", "test"))
        names = tuple(facts["target"]), tuple(facts["spurious"])
        known = SpuriousTask(
            *(facts["name"], facts["description"], *names, table["text"].tolist(), target, spurious, test),
            dealt=facts.get("dealt", False),
        )
        marked = {name: arrays[f"{name}.marked"] for name in codes if f"{name}.marked" in arrays}
        untrained = {name: arrays[_atoms(name)] for name in codes if _atoms(name) in arrays}
        return PooledTask(known, arrays["acts"], codes, marked, untrained)
    except (KeyError, ValueError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged; delete it and run sae-ensemble spurious again.") from None


def open_workbench(run: Run, task: str, ensemble: str, *, seed: int = 0) -> tuple[Workbench, PooledTask]:
    """Open the workbench for ablating features by hand: opening takes a second, each answer takes milliseconds.

    Args:
        run: The run.
        task: Name of a measured task.
        ensemble: Name of an ensemble, a control or `RANDOM`.
        seed: Seed of the texts; a measured seed gives the figures of that seed.

    Returns:
        (the workbench, the texts with their labels and the share of each feature on marked tokens).

    Raises:
        UserError: If the task was not measured, or the ensemble is missing.
    """
    if not any(facts["task"] == task for facts in measured_tasks(run)):
        raise UserError(f"Task {task} was not measured in {run.path}; run: sae-ensemble spurious {run.path}")
    pooled = read_pooled(run, task)
    if ensemble not in pooled.codes:
        raise UserError(f"Task {task} was measured for {', '.join(pooled.codes)}, not for {ensemble}.")
    atoms = pooled.untrained.get(ensemble)
    if atoms is None:
        atoms = load_ensemble(run.ensemble(ensemble)).dictionary.detach().numpy()
    texts = pooled.texts(run.settings.evaluation.spurious_texts, seed=seed)
    return Workbench(texts, pooled.codes[ensemble], atoms), pooled


def measured_tasks(run: Run) -> list[dict[str, Any]]:
    """The ``tasks`` of evaluation/spurious.json; empty if no task was measured."""
    path = run.evaluation(SPURIOUS)
    if not path.exists() or not run.evaluation_table(SPURIOUS).exists():
        return []
    return list(read_object(path, tasks=list)["tasks"])


def write_measured(run: Run, tasks: list[dict[str, Any]], table: pd.DataFrame) -> None:
    """Write the figures of all tasks, and replace the rows of one task in the table.

    The table is written before the JSON file, so an existing JSON file has its table.
    """
    path = run.evaluation_table(SPURIOUS)
    if path.exists():
        rows = read_table(path)
        table = pd.concat([rows[rows["task"] != table["task"].iloc[0]], table], ignore_index=True)
    write_table(path, table)
    write_json(run.evaluation(SPURIOUS), {"tasks": tasks})
