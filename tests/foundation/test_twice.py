"""A second value never replaces the first silently: it is refused by name, or both are kept."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import call, refused

from sae_core.analysis.concepts.task_names import identity_of, task_name
from sae_core.analysis.spurious.files import measured_tasks, write_measured
from sae_core.analysis.spurious.runs import make_tasks
from sae_core.analysis.spurious.tasks import Columns
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.row_files import read_rows
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--text", "a.csv", "--text", "b.csv"), "--text is given twice"),
        (("--model", "a", "--model=b"), "--model is given twice"),
        (("--set", "sae.k=3", "--set", "sae.k=4"), "--set sae.k is given twice"),
        (("--k", "3", "--set", "sae.k=4"), "Both --k and --set sae.k are given"),
        (("--layers", "2,2"), "Layer 2, site residual, is given twice"),
    ],
)
def test_an_option_or_setting_given_twice_is_refused(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    refused(call("train", tmp_path / "run", *words), said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"text,label,text\nx,y,z\n", "has the column 'text' twice"),
        ("a.tsv", b"label\tlabel\ttext\nx\ty\tz\n", "has the column 'label' twice"),
        (
            "a.jsonl",
            b'{"text": "x", "label": 1}\n{"text": "x", "text": "y"}\n',
            "Line 2 of .* has the key 'text' twice",
        ),
        ("a.jsonl", b'{"text": "x", "a\\ud800": 1, "a\\udbff": 2}\n', "has the key 'a\ufffd' twice"),
    ],
)
def test_a_column_given_twice_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        list(read_rows(tmp_path / name, ("text",)))


def test_a_parquet_column_given_twice_is_refused(tmp_path: Path) -> None:
    column = pa.array(["x"])
    pq.write_table(pa.Table.from_arrays([column, column], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet has the column 'text' twice; rename one of them"):
        list(read_rows(tmp_path / "a.parquet", ("text",)))


def test_task_files_of_one_name_have_names_of_their_own(tmp_path: Path) -> None:
    tasks: list[dict[str, str]] = []
    files = [tmp_path / place for place in ("a/t.csv", "b/t.csv", "b/T.csv", "c d/t.csv", "c_d/t.csv", "a_t.csv")]
    for file in files:
        tasks.append({"task": task_name(file, tasks), "file": identity_of(file)})
    names = [task["task"] for task in tasks]
    assert names[:2] == ["t.csv", "b/t.csv"]
    assert len({name.replace("/", "_").replace(" ", "_").casefold() for name in names}) == len(files)
    # Measured again, each file keeps its name.
    assert [task_name(file, tasks) for file in files] == names
    # A task of an older version does not say its file; one of the same name is taken for it.
    assert task_name(files[0], [{"task": "t.csv"}]) == "t.csv"


def test_spurious_files_of_one_name_are_tasks_of_their_own(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", RunSettings())
    files = [tmp_path / place / "t.csv" for place in ("a", "b")]
    rows = [f"text number {number},{number % 2},{number // 2 % 2}\n" for number in range(40)]
    for file in files:
        file.parent.mkdir()
        file.write_text("words,target,attribute\n" + "".join(rows))
    columns = Columns("words", "target", ("0", "1"), "attribute", ("0", "1"))
    for file, name in zip(files, ("t.csv", "b/t.csv"), strict=True):
        (task,) = make_tasks(run, file=file, columns=columns)
        assert (task.name, task.file) == (name, identity_of(file))
        measured = [{"task": task.name, "file": task.file}, *measured_tasks(run)]
        write_measured(run, measured, pd.DataFrame({"task": [task.name], "scr": [0.5]}))
    # Both are kept, and measured again each takes its own place.
    assert {task["task"] for task in measured_tasks(run)} == {"t.csv", "b/t.csv"}
    assert len(read_table(run.evaluation_table("spurious"))) == 2
    assert len({run.spurious(name) for name in ("t.csv", "b/t.csv")}) == 2
    assert [make_tasks(run, file=file, columns=columns)[0].name for file in files] == ["t.csv", "b/t.csv"]
