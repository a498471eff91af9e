"""Faults of activations, of their files and of trained members, from the command line: one clear sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call, refused
from models import build_model, build_tokenizer

from sae_core.ensembles.ensemble import Ensemble, load_ensemble, save_ensemble
from sae_core.foundation.files.whole_files import read_json, write_json
from sae_core.foundation.run import Run
from sae_core.sae import TopKSAE
from sae_core.training.checkpoint import Progressed, save_checkpoint
from sae_core.training.distribution import Part
from sae_core.training.members import make_trainer
from sae_core.training.stage import Plan


@pytest.fixture
def run(tmp_path: Path, trained_run: Run) -> Run:
    """A copy of the trained run, to be damaged."""
    return Run.open(Path(shutil.copytree(trained_run.path, tmp_path / "run")))


@pytest.mark.parametrize("storage", ["disk", "stream"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_gives_what_is_no_number(tmp_path: Path, labelled_texts: Path, value: float, storage: str) -> None:
    model, folder = build_model(), tmp_path / "model"
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 0] = value
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    words = ["--text", labelled_texts, "--model", folder, "--layer", 1, "--device", "cpu"]
    words += [
        "--set",
        "data.train_tokens=1000",
        "--set",
        "data.evaluation_tokens=200",
        "--set",
        f"data.storage={storage}",
    ]
    refused(call("train", tmp_path / "run", *words), "activation that is not a number", "choose another layer")
    run = Run.open(tmp_path / "run")
    assert not run.is_finished("activations")
    assert not run.ensembles()
    assert not list(run.path.rglob("*.partial"))


def test_an_activation_that_its_number_format_does_not_hold(tmp_path: Path, labelled_texts: Path) -> None:
    model, folder = build_model(), tmp_path / "model"
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3] *= 1e6
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    words = ["--text", labelled_texts, "--model", folder, "--layer", 1, "--device", "cpu"]
    words += ["--set", "data.train_tokens=1000", "--set", "data.evaluation_tokens=200"]
    said = refused(
        call("train", tmp_path / "run", *words), "does not fit float16", "set data.dtype to bfloat16 or float32"
    )
    assert said.startswith("Error: An activation of ")


@pytest.mark.slow
def test_an_ensemble_for_activations_of_another_dimension(run: Run) -> None:
    bagged = run.ensemble("bagged")
    save_ensemble(Ensemble([TopKSAE(64, 48, k=4, seed=seed) for seed in range(3)], wiring="parallel"), bagged)
    bagged.index.unlink()
    run.evaluation("reconstruction").unlink()
    for command in ("index", "evaluate"):
        said = refused(call(command, run.path), str(bagged.path), "dimension 64", "those of this run have 32")
        assert said.endswith("delete that folder and run train again.")
    shutil.rmtree(bagged.path)
    assert call("train", run.path).code == 0
    assert load_ensemble(bagged).d_in == 32


@pytest.mark.slow
def test_a_shard_that_is_damaged_or_missing_when_training_needs_it(run: Run, trained_run: Run) -> None:
    weights = run.ensemble("expanded").member(0) / "sae_weights.safetensors"
    shard = sorted((run.activations / "train").glob("*.safetensors"))[-1]
    whole = shard.read_bytes()
    weights.unlink()
    shard.write_bytes(whole[:-8] + bytes(8))
    refused(call("train", run.path), str(shard), "its checksum is not the recorded one", "delete that file")
    assert not weights.exists()
    shard.unlink()
    assert call("train", run.path).code == 0  # reads that part of the text again
    assert shard.read_bytes() == whole
    expected = trained_run.ensemble("expanded").member(0) / weights.name
    assert weights.read_bytes() == expected.read_bytes()


@pytest.mark.slow
def test_a_checkpoint_of_another_configuration(run: Run) -> None:
    """It lies where that of this training would, as if a folder had been copied; k is another."""
    single = run.ensemble("single")
    shutil.rmtree(single.path)
    settings = run.settings.model_copy(update={"sae": run.settings.sae.model_copy(update={"k": 5})})
    tokens, batch = settings.training.tokens, settings.training.batch_size
    plan = Plan("single", tokens // batch, batch, 1, 0, torch.device("cpu"))
    trainer = make_trainer(settings, torch.zeros(32), plan, member=None, width=settings.sae.width)
    trainer.step(torch.randn(batch, 32))
    checkpoint = single.checkpoint / "stage_00.safetensors"
    save_checkpoint(checkpoint, [trainer], Progressed(1, 1.0), Part(range(1)))
    manifest = read_json(run.manifest_path)
    del manifest["finished"]["train/bagged"]  # of which the single SAE would be a copy
    write_json(run.manifest_path, manifest | {"settings": manifest["settings"] | {"training": single_only(manifest)}})
    before = checkpoint.read_bytes()
    refused(call("train", run.path), str(checkpoint), "checkpoint of a training with other settings", "delete it")
    assert checkpoint.read_bytes() == before
    checkpoint.unlink()
    assert call("train", run.path).code == 0
    assert single.manifest.exists()


def single_only(manifest: dict[str, Any]) -> dict[str, Any]:
    """The settings of training, for the single SAE alone."""
    return dict(manifest["settings"]["training"]) | {"methods": ["single"]}
