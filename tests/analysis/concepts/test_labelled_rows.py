"""Labels of rows of arrays: detected by row or by group, and taken apart where two of them go together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sae_core.analysis.concepts.labelled_rows import labelled_rows
from sae_core.analysis.shared.names_in_tables import RAW
from sae_core.analysis.spurious.runs import evaluate_spurious, make_tasks
from sae_core.analysis.spurious.tasks import Columns
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_object, read_table
from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings
from sae_core.runs import pipeline

GROUPS, EACH, D = 120, 4, 8


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, pd.DataFrame, Path]:
    """Rows of which dimension 0 tells the kind, which a group shares, and dimension 1 the state, which it does not."""
    chance, folder = np.random.default_rng(0), tmp_path_factory.mktemp("arrays")
    acts = np.abs(chance.normal(0, 0.2, (GROUPS * EACH, D))).astype(np.float32)
    kind, state = chance.integers(0, 2, GROUPS).repeat(EACH), chance.integers(0, 2, GROUPS * EACH)
    acts[:, 0] += 3 * kind
    acts[:, 1] += 3 * state
    group = [f"patient {number}" for number in chance.permutation(GROUPS).repeat(EACH)]
    table = pd.DataFrame({"group": group, "kind": kind, "state": np.array(["low", "high"])[state]})
    np.save(folder / "acts.npy", acts)
    table.to_csv(folder / "rows.csv", index=False)
    return acts, table, folder


@pytest.fixture(scope="module")
def run(files: tuple[np.ndarray, pd.DataFrame, Path]) -> Run:
    folder = files[2]
    chosen = {
        "origin.kind": "arrays",
        "origin.files": [str(folder / "acts.npy")],
        "origin.rows": str(folder / "rows.csv"),
        "sae.width": 16,
        "sae.k": 2,
        "training.methods": ["single"],
        "training.tokens": 30_000,
        "training.batch_size": 60,
        "training.learning_rate": 3e-2,
        "training.device": "cpu",
        "training.kernels": "plain",
        "evaluation.bootstrap": 20,
        "evaluation.concept_features": [1, 2],
        "evaluation.spurious_texts": 80,
    }
    run = Run.create(folder / "run", load_settings(overrides=chosen))
    pipeline.train(run)
    return run


def test_rows_and_groups_are_read_by_their_names(run: Run, files: tuple[np.ndarray, pd.DataFrame, Path]) -> None:
    acts, table, _ = files
    rows = labelled_rows(run)
    assert rows is not None
    assert rows.columns == ["kind", "state"]
    held_out = rows.labels["_held_out"].to_numpy()
    assert 0 < held_out.sum() < len(held_out) == GROUPS * EACH
    # Every row of the run, found again by its numbers.
    batch = torch.cat([each.acts_TD for each in rows([f"row {number}" for number in range(len(held_out))])]).numpy()
    place = {tuple(row): number for number, row in enumerate(acts.tolist())}
    numbers = [place[tuple(row)] for row in batch.tolist()]
    assert sorted(numbers) == list(range(len(acts)))
    assert rows.labels["_group"].tolist() == table["group"].iloc[numbers].tolist()
    assert rows.labels["state"].tolist() == table["state"].iloc[numbers].tolist()
    (found,) = rows(["group patient 7", "row 3", "group patient 5"])
    assert found.document_T.tolist() == [0] * EACH + [1] + [2] * EACH
    expected = acts[(table["group"] == "patient 7").to_numpy()]
    assert {*map(tuple, found.acts_TD[:EACH].tolist())} == {*map(tuple, expected.tolist())}


def test_a_label_that_groups_share_is_detected_by_group(run: Run) -> None:
    rows = labelled_rows(run)
    assert rows is not None
    kind, state = rows.tasks(run.settings.evaluation, seed=0)
    assert (kind.name, state.name) == ("kind", "state")
    assert "each group, from the mean" in kind.description
    assert "each row" in state.description
    assert len(kind.train_texts) + len(kind.test_texts) <= GROUPS
    group_of = dict(zip([f"row {number}" for number in range(len(rows.labels))], rows.labels["_group"], strict=True))
    assert not {group_of[name] for name in state.train_texts} & {group_of[name] for name in state.test_texts}
    assert not {*kind.train_texts} & {*kind.test_texts}
    held_out = set(rows.labels["_group"][rows.labels["_held_out"]])
    assert not held_out & {group_of[name] for name in state.train_texts}


def test_concepts_are_detected_by_the_feature_that_has_them(run: Run) -> None:
    pipeline.evaluate(run, stages=["concepts"])
    table = read_table(run.evaluation_table("concepts"))
    assert set(table["task"]) == {"kind", "state"}
    accuracy = table[table["variant"] == "standardised"].set_index(["task", "method", "m"])["accuracy"]
    for task in ("kind", "state"):
        assert accuracy[task, RAW, 0] > 0.98
        assert accuracy[task, "single", 2] > 0.85
    tasks = read_object(run.evaluation("concepts"))["tasks"]
    assert [task["classes"] for task in tasks] == [
        ["0", "1"],
        ["high", "low"],
    ]


def test_two_labels_of_rows_make_a_spurious_correlation(run: Run) -> None:
    columns = Columns("", "kind", ("0", "1"), "state", ("low", "high"))
    tasks = make_tasks(run, [], None, columns)
    (facts,) = evaluate_spurious(run, tasks, seeds=[0])
    assert facts["task"] == "kind and state"
    by_method = {(row["method"], row["n"]): row for row in facts["figures"] if row["ranking"] in ("", "probe")}
    assert by_method["oracle", 0]["target"]["mean"] > 0.95
    for names, file, columns, says in (
        (["biographies"], None, None, "arrays in files"),
        ([], None, None, "kind, state"),
        ([], None, Columns("", "kind", ("0", "1"), "kind", ("0", "1")), "name two labels"),
        ([], None, Columns("", "kind", ("0", "2"), "state", ("low", "high")), "never is '2'"),
        ([], None, Columns("", "height", ("0", "1"), "state", ("low", "high")), "no column 'height'"),
    ):
        with pytest.raises(UserError, match=says):
            make_tasks(run, names, file, columns)


def test_text_runs_have_no_labelled_rows(tmp_path: Path) -> None:
    assert labelled_rows(Run.create(tmp_path / "run", load_settings())) is None
