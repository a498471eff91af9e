"""The command line: from a CSV file to labels, the demo, JSON, settings files, no repeated work, Ctrl-C."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from command_line import PROGRAM, Outcome, call, run_program, start_program

from sae_core.foundation.run import Run
from sae_core.foundation.settings.presets import DEMO

SMALL = {
    "data.train_tokens": 3000,
    "data.index_tokens": 1500,
    "data.evaluation_tokens": 400,
    "sae.width": 32,
    "sae.k": 4,
    "training.members": 2,
    "training.tokens": 8000,
    "training.batch_size": 128,
    "evaluation.train_texts": 60,
    "evaluation.test_texts": 30,
    "evaluation.tokens_per_text": 24,
    "evaluation.bootstrap": 20,
}
FILE = """
[model]
layer = 1
context = 48

[sae]
width = 32
k = 9

[training]
methods = ["single", "bagged"]
"""


def assignments(**changes: object) -> list[str]:
    """``SMALL`` and changes to it (``sae__k=3``) as --set options."""
    settings = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def snapshot(run: Path) -> dict[str, tuple[int, int]]:
    """When each file was written, and how large it is."""
    files = [path for path in run.rglob("*") if path.is_file()]
    return {str(path.relative_to(run)): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def printed_json(outcome: Outcome) -> object:
    """What a command printed with --json: JSON and nothing else."""
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


@pytest.fixture(scope="session")
def csv_texts(tmp_path_factory: pytest.TempPathFactory, labelled_texts: Path) -> Path:
    """The labelled texts as a CSV file with the columns passage, label and topic."""
    path = tmp_path_factory.mktemp("csv") / "passages.csv"
    pd.read_json(labelled_texts, lines=True).rename(columns={"text": "passage"}).to_csv(path, index=False)
    return path


class Worked:
    """A run that was made by commands, and what each of them printed."""

    def __init__(self, path: Path, model: Path, texts: Path) -> None:
        self.path = path
        settings = path.with_name("settings.toml")
        settings.write_text(FILE)
        given = ["--text", texts, "--text-column", "passage", "--model", model, "--device", "cpu"]
        task = ["--task", texts, "--text-column", "passage"]
        self.again: dict[str, Callable[[], Outcome]] = {
            "train": lambda: call("train", path, "--json", "--config", settings, *given, *assignments()),
            "index": lambda: call("index", path, "--json"),
            "evaluate": lambda: call("evaluate", path, "--json"),
        }
        self.said = {name: command() for name, command in self.again.items()}
        self.said["task"] = call("evaluate", path, *task, "--json")


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory, small_model: Path, csv_texts: Path) -> Worked:
    return Worked(tmp_path_factory.mktemp("cli") / "my run", small_model, csv_texts)


@pytest.mark.slow
def test_a_run_comes_from_a_csv_file_and_a_settings_file(worked: Worked, csv_texts: Path) -> None:
    facts = printed_json(worked.said["train"])
    assert list(facts) == ["single", "bagged"]
    run = Run.open(worked.path)
    # From the file, from options and from --set, of which the later ones win.
    assert (run.settings.model.context, run.settings.sae.width) == (48, 32)
    assert (run.settings.text.source, run.settings.sae.k) == (str(csv_texts), 4)
    assert run.settings.training.tokens == facts["bagged"]["tokens"] + 8000 % 128 == 8000
    documents = pd.read_parquet(run.corpus.documents)
    assert set(documents["source"]) == {"passages.csv"}
    assert {"label", "topic"} <= set(documents.columns)


@pytest.mark.slow
def test_index_and_evaluate_print_their_figures_as_json(worked: Worked) -> None:
    indexed = printed_json(worked.said["index"])
    assert list(indexed) == ["single", "bagged"]
    # Every token has at most k active features of each member, and with TopK as good as always k.
    tokens = Run.open(worked.path).facts("corpus")["tokens"]
    assert 0.9 * 4 * tokens < indexed["single"]["entries"] <= 4 * tokens
    rows = {row["ensemble"]: row for row in printed_json(worked.said["evaluate"])}
    assert {name: row["members"] for name, row in rows.items()} == {"single": 1, "bagged": 2}
    assert all(0 < row["explained_variance"] < 1 for row in rows.values())
    assert rows["bagged"]["concept_accuracy_1"] is None
    with_task = {row["ensemble"]: row for row in printed_json(worked.said["task"])}
    assert with_task["bagged"]["concept_accuracy_1"] >= 0.4
    assert with_task["bagged"]["explained_variance"] == rows["bagged"]["explained_variance"]


@pytest.mark.slow
def test_info_says_what_is_finished(worked: Worked, tmp_path: Path) -> None:
    program = run_program("info", worked.path, "--json")
    assert program.err == ""
    manifest = printed_json(program)
    assert manifest["settings"]["sae"]["width"] == 32
    assert {"corpus", "activations", "train/bagged", "atoms/single", "evaluate/cost"} <= set(manifest["finished"])
    assert [row["ensemble"] for row in manifest["summary"]] == ["single", "bagged"]

    people = call("info", worked.path)
    assert people.code == 0
    assert "Not finished" not in people.err
    assert "bagged" in people.out
    copy = Path(shutil.copytree(worked.path, tmp_path / "run"))
    (copy / "ensembles" / "bagged" / "atoms.parquet").unlink()
    assert f"to go on: sae-ensemble index {copy}" in call("info", copy).err


@pytest.mark.slow
def test_a_second_time_nothing_is_done(worked: Worked) -> None:
    before = snapshot(worked.path)
    for name, command in worked.again.items():
        assert command() == Outcome(0, worked.said["task" if name == "evaluate" else name].out, "")
    train = call("train", worked.path)  # without the settings: with the run's own
    assert train.code == 0
    assert re.search(r"single \d+ s, bagged \d+ s; peak memory \d\.\d GB\.\nNext: ", train.err), train.err
    assert snapshot(worked.path) == before


@pytest.mark.slow
def test_labels_go_out_and_come_back(worked: Worked, tmp_path: Path) -> None:
    file, back = tmp_path / "in.csv", tmp_path / "out.csv"
    # The empty label says that a label may be taken back; a name that is no formula comes back as it is.
    file.write_text("ensemble,member,latent,label,note\nbagged,1,3,the article,sure\nsingle,0,31,=SUM(1),\n")
    assert call("labels", "import", worked.path, file) == Outcome(0, "", "Imported 2 labels.\n")
    assert call("labels", "export", worked.path, "--out", back) == Outcome(0, "", f"Wrote {back}.\n")
    printed = call("labels", "export", worked.path)
    assert printed.out == back.read_text(encoding="utf-8")
    rows = list(csv.DictReader(printed.out.splitlines()))
    assert [(row["ensemble"], row["member"], row["latent"], row["label"]) for row in rows] == [
        ("bagged", "1", "3", "the article"),
        ("single", "0", "31", "'=SUM(1)"),
    ]
    assert {row["run"] for row in rows} == {"my run"}
    assert call("labels", "import", worked.path, back).code == 0
    assert call("labels", "export", worked.path).out == printed.out


@pytest.mark.slow
def test_labels_that_differ_are_kept_or_replaced_as_asked(worked: Worked, tmp_path: Path) -> None:
    team = f"sqlite:///{tmp_path}/team.sqlite"
    file, crlf = tmp_path / "in.csv", tmp_path / "crlf.csv"
    file.write_text("ensemble,member,latent,label,note\nbagged,1,3,first,\nbagged,1,4,same,\n")
    assert call("labels", "import", worked.path, file, "--labels", team).err == "Imported 2 labels.\n"
    crlf.write_bytes(b'ensemble,member,latent,label,note\r\nbagged,1,3,second,"a\r\nb"\r\nbagged,1,4,same,\r\n')
    refused = call("labels", "import", worked.path, crlf, "--labels", team)
    assert refused.code == 2
    assert "there 'first'" in refused.err
    assert "in the file 'second'" in refused.err
    assert "--existing keep or --existing replace" in refused.err
    keep = call("labels", "import", worked.path, crlf, "--labels", team, "--existing", "keep")
    assert keep.err == "Imported 0 labels; 1 were there, 1 were kept.\n"
    replace = call("labels", "import", worked.path, crlf, "--labels", team, "--existing", "replace")
    assert replace.err == "Imported 1 label; 1 were there.\n"
    out = tmp_path / "out.csv"
    assert call("labels", "export", worked.path, "--labels", team, "--out", out).code == 0
    assert b'second,"a\r\nb",' in out.read_bytes()
    assert call("labels", "import", worked.path, out, "--labels", team).err == "Imported 0 labels; 2 were there.\n"


@pytest.mark.slow
def test_activations_may_be_deleted_when_all_is_measured(worked: Worked, csv_texts: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(worked.path, tmp_path / "run"))
    shutil.rmtree(copy / "activations")
    before = snapshot(copy)
    for command in ("train", "index", "evaluate"):
        assert call(command, copy).code == 0
    assert snapshot(copy) == before
    assert call("evaluate", copy, "--task", csv_texts, "--text-column", "passage").code == 0
    assert not (copy / "activations").exists()
    # An older run lacks what the index of a later version has, and is given it without them.
    suggestions = Run.open(copy).ensemble("bagged").suggestions
    table = suggestions.read_bytes()
    suggestions.unlink()
    assert call("index", copy).code == 0
    assert suggestions.read_bytes() == table
    assert not (copy / "activations").exists()
    # What needs them gathers them again, bit by bit the same.
    index = Run.open(copy).ensemble("bagged").index
    entries = index.read_bytes()
    index.unlink()
    assert call("index", copy).code == 0
    assert index.read_bytes() == entries


@pytest.mark.slow
def test_the_demo_runs_on_the_embedded_text_and_model(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    tiny = assignments(
        data__train_tokens=8000, data__evaluation_tokens=2000, training__batch_size=256, evaluation__pool_texts=60
    )
    rows = printed_json(call("demo", "--no-serve", "--run", run, "--json", *tiny))
    assert [row["ensemble"] for row in rows] == ["single", "bagged", "boosted", "expanded"]
    assert all(0 < row["explained_variance"] < 1 for row in rows)
    opened = Run.open(run)
    assert (opened.settings.text.source, opened.settings.model.name) == ("embedded", "embedded")
    assert opened.settings.training.learning_rate == DEMO["training.learning_rate"]
    assert opened.settings.training.batch_size == 256
    assert opened.facts("corpus")["n_layers"] == 6
    documents = pd.read_parquet(opened.corpus.documents)
    assert {"torch", "transformers"} <= set(documents["package"])
    texts = pd.read_parquet(opened.ensemble("bagged").promoted)["promoted"]
    assert len(texts) == 64
    assert all(len(tokens) for tokens in texts)

    before = snapshot(run)
    assert printed_json(call("demo", "--no-serve", "--run", run, "--json")) == rows
    assert snapshot(run) == before


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_going_on_finishes(tmp_path: Path, small_model: Path, csv_texts: Path) -> None:
    run = tmp_path / "my run"
    given = ["--text", csv_texts, "--text-column", "passage", "--model", small_model, "--layer", 1]
    training = start_program("train", run, *given, *assignments(training__tokens=150_000))
    read = []
    for line in training.stderr:
        read.append(line)
        if line.startswith("train "):
            training.send_signal(signal.SIGINT)
            break
    out, rest = training.communicate()
    assert training.returncode == 130, "".join([*read, rest])
    assert out == ""
    assert "Traceback" not in rest
    sentence = rest.strip().splitlines()[-1]
    assert sentence.startswith("Stopped")
    program, *words = shlex.split(re.sub(r".*To go on: ", "", sentence))
    assert (program, words) == (PROGRAM.name, ["train", str(run)])
    finished = Run.open(run).read_manifest()["finished"]
    assert "activations" in finished
    assert "train/expanded" not in finished
    assert not [path for path in run.rglob(".*") if path.name != ".gitignore"]

    corpus = snapshot(run / "corpus")
    assert call(*words).code == 0
    assert snapshot(run / "corpus") == corpus
    assert {f"train/{name}" for name in ("single", "bagged", "boosted", "expanded")} <= set(
        Run.open(run).read_manifest()["finished"]
    )


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_is_answered_once(tmp_path: Path) -> None:
    demo = start_program("demo", "--no-serve", "--run", tmp_path / "demo")
    for line in demo.stderr:
        if line.startswith("gather text"):
            os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: to the program and to its children
            break
    _, rest = demo.communicate()
    assert demo.returncode == 130, rest
    assert "Traceback" not in rest
    assert rest.strip().splitlines()[-1].endswith(f"To go on: sae-ensemble demo --run {tmp_path / 'demo'}")


def test_threads_wait_briefly_unless_the_surroundings_say_otherwise() -> None:
    """It has to be said before torch is imported, so the command line must not import it by itself."""
    code = "import os, sys, sae_core.cli.program as cli; sys.argv[1:] = ['--help']\n"
    code += "try: cli.main()\nexcept SystemExit: print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    for given, expected in (({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")):
        surroundings = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"} | given
        out = subprocess.run([sys.executable, "-c", code], env=surroundings, capture_output=True, text=True, check=True)
        assert out.stdout.splitlines()[-1] == f"{expected} False"
