"""Presets: the figures of the paper, what takes precedence, plans, and training on the same classes built small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import call, refused
from models import build_model_folder, sample_texts

from sae_core.ensembles.ensemble import load_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.methods import BY_DEFAULT
from sae_core.foundation.run import Run
from sae_core.foundation.settings.presets import PRESETS, preset_settings
from sae_core.sae import JumpReLUSAE, ReLUSAE, TopKSAE

# Model, layer, width, architecture, k or sparsity, context, tokens, learning rate: the table of the paper's settings.
PAPER = {
    "gelu-1l": ("transformer-lens:gelu-1l", 0, 512 * 32, "relu", 0.75, 1024, 8e8, 3e-4),
    "pythia-160m": ("EleutherAI/pythia-160m", 8, 768 * 21, "topk", 128, 2048, 8e8, 3e-4),
    "gemma-2-2b": ("google/gemma-2-2b", 12, 2304 * 7, "jumprelu", 0.75, 8192, 8e8, 3e-4),
    "pythia-70m": ("EleutherAI/pythia-70m-deduped", 4, 512 * 64, "relu", 0.1, 128, 1e8, 1e-4),
}


@pytest.mark.parametrize("name", PAPER)
def test_settings_are_those_of_the_paper(name: str) -> None:
    settings = preset_settings(name)
    model, sae, training = settings.model, settings.sae, settings.training
    active = sae.k if sae.architecture == "topk" else sae.sparsity
    size = (model.name, model.layer, sae.width, sae.architecture, active, model.context)
    assert (*size, training.tokens, training.learning_rate) == PAPER[name]
    assert (settings.text.source, settings.data.train_tokens) == ("monology/pile-uncopyrighted", training.tokens)
    assert (training.members, training.batch_size, training.beta1) == (8, 10_000, 0.0)
    assert (settings.data.evaluation_tokens, training.methods, model.site) == (7_000_000, BY_DEFAULT, "residual")
    assert list(PRESETS) == [*PAPER, "demo"]


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no preset 'pythia'"):
        preset_settings("pythia")
    refused(call("train", tmp_path / "run", "--preset", "pythia"), "no preset 'pythia'", "gelu-1l, pythia-160m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PAPER)
def test_plans_need_no_hub(name: str, tmp_path: Path) -> None:
    done = call("plan", tmp_path / "run", "--preset", name, "--machine", "H100", "--k", 64, "--members", 4, "--json")
    assert done.code == 0, done.err
    plan: dict[str, Any] = json.loads(done.out)
    settings, d = preset_settings(name), plan["model"]["d_model"]
    assert plan["model"]["name"] == PAPER[name][0]
    assert plan["training"]["tokens"] == settings.training.tokens
    # Options take precedence: four members, not eight.
    assert plan["training"]["parameters"]["bagged"] == pytest.approx(4 * 2 * d * settings.sae.width, rel=1e-2)
    assert list(tmp_path.iterdir()) == []


SMALL = {
    **{"model.context": 48, "data.train_tokens": 2500, "data.index_tokens": 600, "data.evaluation_tokens": 200},
    **{"training.members": 2, "training.tokens": 3000, "training.batch_size": 100},
}
CLASSES = {
    "pythia-160m": ("gpt_neox", TopKSAE, ["--k", 6]),
    "gemma-2-2b": ("gemma2", JumpReLUSAE, []),
    "pythia-70m": ("gpt_neox", ReLUSAE, []),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_a_preset_trains_a_model_of_its_class_that_was_built_small(name: str, tmp_path: Path) -> None:
    family, kind, own = CLASSES[name]
    model, texts, file = build_model_folder(tmp_path / "model", family), tmp_path / "texts.jsonl", tmp_path / "own.toml"
    texts.write_text("\n".join(json.dumps({"text": text}) for text in sample_texts(400)), encoding="utf-8")
    file.write_text("[sae]\nwidth = 40\n[training]\nlearning_rate = 0.02\n")
    given = [word for setting, value in SMALL.items() for word in ("--set", f"{setting}={value}")]
    words = ["--preset", name, "--model", model, "--text", texts, "--layer", 1, "--device", "cpu", "--config", file]
    done = call("train", tmp_path / "run", *words, *own, *given)
    assert done.code == 0, done.err
    run, preset = Run.open(tmp_path / "run"), preset_settings(name)
    # Options before the file, the file before the preset, the preset before the defaults.
    assert (run.settings.model.layer, run.settings.training.members) == (1, 2)
    assert (run.settings.sae.width, run.settings.training.learning_rate) == (40, 0.02)
    assert (run.settings.sae.architecture, run.settings.sae.sparsity) == (preset.sae.architecture, preset.sae.sparsity)
    assert (run.settings.data.storage, run.settings.training.beta1) == ("stream", 0.0)
    for folder in run.ensembles():
        ensemble = load_ensemble(folder)
        assert all(type(member) is kind for member in ensemble)
        assert {member.d_in for member in ensemble} == {32}
    assert [folder.name for folder in run.ensembles()] == list(BY_DEFAULT)
    # Called again with the same words there is nothing to do; with other words it is another run.
    assert call("train", tmp_path / "run", *words, *own, *given).code == 0
    refused(call("train", tmp_path / "run", "--preset", name), "holds a run with other settings")


def test_layers_go_with_a_preset(tmp_path: Path) -> None:
    words = ["--preset", "pythia-160m", "--layers", "8,2", "--machine", "H100", "--json"]
    plan = json.loads(call("plan", tmp_path / "run", *words).out)
    alone = json.loads(call("plan", tmp_path / "run", *words[:2], *words[4:]).out)
    stages, one = ({stage["name"]: stage for stage in each["stages"]} for each in (plan, alone))
    assert stages["train bagged"]["flops"] == 2 * one["train bagged"]["flops"]
