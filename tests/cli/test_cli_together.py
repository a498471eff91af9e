"""The command line under torchrun: several processes make the same run, and one of them prints."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from command_line import call, run_together
from small_runs import weights

from sae_core.foundation.run import Run

SETTINGS = """
[model]
layer = 1
context = 48

[data]
train_tokens = 2000
index_tokens = 1000
evaluation_tokens = 300

[sae]
width = 32
k = 4

[training]
methods = ["bagged"]
members = 3
tokens = 6400
batch_size = 128
device = "cpu"
"""


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("Error")]


@pytest.mark.slow
def test_a_run_trained_by_two_processes_is_that_of_one(small_model: Path, labelled_texts: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(SETTINGS)
    given = ["--config", settings, "--text", labelled_texts, "--model", small_model, "--json"]
    together = run_together(2, "train", tmp_path / "together", *given)
    assert together.code == 0, together.err
    assert call("train", tmp_path / "alone", *given).code == 0
    assert json.loads(together.out)["bagged"]["processes"] == 2
    ends = re.findall(r"^(read activations|train bagged)  100 %", together.err, flags=re.MULTILINE)
    assert ends == ["read activations", "train bagged"]
    run, alone = (Run.open(tmp_path / name) for name in ("together", "alone"))
    for name, tensor in weights(run).items():
        assert torch.equal(tensor, weights(alone)[name]), name
    assert not list(run.path.glob(".*"))
    # Evaluating would be done twice; and what is wrong with a command is said once.
    refused = run_together(2, "evaluate", run.path)
    assert refused.code != 0
    sentence = "Error: Only train and index run in several processes; call evaluate without torchrun."
    assert errors(refused.err) == [sentence]
    wrong = run_together(2, "train", run.path, "--k", 5)
    assert wrong.code != 0
    assert len(errors(wrong.err)) == 1
    assert "holds a run with other settings (sae.k is 4 there, 5 here)" in errors(wrong.err)[0]


@pytest.mark.slow
def test_an_index_built_by_two_processes_is_that_of_one(trained_run: Run, tmp_path: Path) -> None:
    """Only the index is missing; match, map and the rest stay as they are."""
    run = Run.open(Path(shutil.copytree(trained_run.path, tmp_path / "run")))
    for folder in run.ensembles():
        folder.index.unlink()
    done = run_together(2, "index", run.path, "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    for folder in run.ensembles():
        assert folder.index.read_bytes() == trained_run.ensemble(folder.name).index.read_bytes()
        assert facts[folder.name]["processes"] == 2
        assert facts[folder.name]["entries"] == trained_run.facts(f"index/{folder.name}")["entries"]
        before = trained_run.ensemble(folder.name).index.parent
        assert {path.name for path in folder.index.parent.iterdir()} == {path.name for path in before.iterdir()}
    nothing = run_together(2, "index", tmp_path / "nothing")
    assert nothing.code != 0
    assert len(errors(nothing.err)) == 1
    assert "holds no run" in errors(nothing.err)[0]
