"""Several layers and sites in one forward pass: the same bits as one by one, resumed, from the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call, refused
from models import build_model_folder, sample_texts

from sae_core.activations.harvest import evaluation_cache, harvest, harvest_together, train_cache
from sae_core.activations.origins.language_model import reading as language_model
from sae_core.activations.origins.language_model.reading import LanguageModel, Place
from sae_core.foundation.files.whole_files import read_json
from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run, find_runs, layer_folder
from sae_core.foundation.settings.run_settings import ModelSettings, RunSettings, Site
from sae_core.runs import pipeline

FAMILIES = ("gpt2", "gpt_neox", "bert")
PLACES = (Place(2, "residual"), Place(0, "residual"), Place(0, "mlp"), Place(2, "attention"), Place(1, "mlp"))
TEXTS = sample_texts(150, seed=9)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    return path


def make_run(folder: Path, model: Path, corpus: Path, layer: int, site: Site = "residual") -> Run:
    settings = {
        "text": {"source": str(corpus)},
        "model": {"name": str(model), "layer": layer, "site": site, "context": 40, "batch_size": 8},
        "data": {"train_tokens": 2000, "index_tokens": 700, "evaluation_tokens": 200},
        "sae": {"width": 32, "k": 4},
        "training": {"device": "cpu", "methods": ["single"], "tokens": 3000, "batch_size": 64},
    }
    return Run.create(folder, RunSettings.model_validate(settings))


def contents(folder: Path, *, without: Sequence[str] = ()) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in without)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_place_gives_what_it_gives_alone(tmp_path: Path, family: str) -> None:
    folder = build_model_folder(tmp_path / "model", family)
    together = LanguageModel.load(ModelSettings(name=str(folder), layer=0, context=40), places=PLACES)
    (all_of_them,) = together.activations(TEXTS[:40])
    assert all_of_them.acts_PTD.shape[0] == len(PLACES)
    for place, acts_TD in zip(PLACES, all_of_them.acts_PTD, strict=True):
        settings = ModelSettings(name=str(folder), layer=place.layer, site=place.site, context=40)
        (alone,) = LanguageModel.load(settings).activations(TEXTS[:40])
        assert torch.equal(alone.acts_TD, acts_TD), place
        assert torch.equal(alone.tokens_T, all_of_them.tokens_T)
    assert not torch.equal(all_of_them.acts_PTD[0], all_of_them.acts_PTD[1])


def test_the_model_stops_at_the_last_layer_that_is_wanted(tmp_path: Path) -> None:
    folder = build_model_folder(tmp_path / "model", "gpt2", layers=5)
    model = LanguageModel.load(ModelSettings(name=str(folder), layer=4), places=[Place(1, "residual"), Place(2, "mlp")])
    assert len(model._base.h) == 3  # type: ignore[union-attr, arg-type]
    ran: list[str] = []
    model._base.h[2].register_forward_hook(lambda *_: ran.append("end of block 2"))  # type: ignore[index, union-attr]
    model._base.h[1].register_forward_hook(lambda *_: ran.append("end of block 1"))  # type: ignore[index, union-attr]
    list(model.activations(TEXTS[:1]))
    assert ran == ["end of block 1"]


@pytest.mark.parametrize("family", FAMILIES)
def test_caches_filled_together_are_those_filled_one_by_one(tmp_path: Path, corpus: Path, family: str) -> None:
    model = build_model_folder(tmp_path / "model", family)
    chosen = ((0, "residual"), (2, "residual"), (1, "mlp"))
    together = [make_run(tmp_path / f"{layer}{site}", model, corpus, layer, site) for layer, site in chosen]  # type: ignore[arg-type]
    harvest_together(together)
    for run, (layer, site) in zip(together, chosen, strict=True):
        alone = make_run(tmp_path / f"alone{layer}{site}", model, corpus, layer, site)  # type: ignore[arg-type]
        harvest(alone)
        assert contents(run.corpus.path) == contents(alone.corpus.path)
        # What is remembered of checked files are their times.
        caches = [contents(each.activations, without=["verified.json"]) for each in (run, alone)]
        assert caches[0] == caches[1]
        facts, expected = run.facts("corpus"), alone.facts("corpus")
        assert {**facts, "seconds": 0} == {**expected, "seconds": 0}
        assert run.is_finished("activations")


def test_what_one_run_has_already_is_not_written_again(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run is finished, one was interrupted, one has lost a shard and one has nothing yet."""
    monkeypatch.setattr(language_model, "WINDOW_BYTES", 4 * 32 * 150)
    model = build_model_folder(tmp_path / "model")
    whole = [make_run(tmp_path / f"whole{layer}", model, corpus, layer) for layer in (0, 1, 2)]
    harvest_together(whole)
    runs = [make_run(tmp_path / f"run{layer}", model, corpus, layer) for layer in (0, 1, 2)]

    def interrupt(tick: Tick) -> None:
        if tick.stage == "read activations" and tick.done > 1200:
            raise KeyboardInterrupt

    harvest(runs[0])
    sorted((runs[0].activations / "train").glob("*.safetensors"))[1].unlink()
    with pytest.raises(KeyboardInterrupt):
        harvest(runs[1], progress=interrupt)
    corpus.unlink()
    harvest_together(runs)
    for run, expected in zip(runs, whole, strict=True):
        for cache in (train_cache, evaluation_cache):
            here, there = cache(run), cache(expected)
            assert (here.fingerprint, here.mean_D.tolist()) == (there.fingerprint, there.mean_D.tolist())
        assert contents(run.corpus.path) == contents(expected.corpus.path)


@pytest.mark.slow
def test_layers_from_the_command_line(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model_folder(tmp_path / "model")
    run = make_run(tmp_path / "alone", model, corpus, 2, "mlp")
    pipeline.train(run)
    (tmp_path / "same.toml").write_text(_toml(run.settings))
    options: list[Any] = ["--config", tmp_path / "same.toml"]
    real, passes = LanguageModel.activations, 0

    def counting(*args: Any, **options: Any) -> Any:
        nonlocal passes
        passes += 1
        return real(*args, **options)

    monkeypatch.setattr(LanguageModel, "activations", counting)
    folder = tmp_path / "layers"
    output = call("train", folder, "--layers", "0,2", "--sites", "residual,mlp", *options).err
    assert passes == 2  # training and held-out texts
    names = ["layer_00", "layer_00_mlp", "layer_02", "layer_02_mlp"]
    assert [path.name for path in find_runs(folder)] == names
    assert all(str(folder / name) in output for name in names)
    member = "ensembles/single/member_00/sae_weights.safetensors"
    assert (layer_folder(folder, 2, "mlp") / member).read_bytes() == (run.path / member).read_bytes()
    assert (layer_folder(folder, 0, "mlp") / member).read_bytes() != (run.path / member).read_bytes()
    facts = json.loads(call("train", folder, "--json").out)
    assert sorted(facts) == names
    assert sorted(json.loads(call("index", folder, "--json").out)) == names
    assert passes == 2
    for name in names:
        assert "index/single" in read_json(folder / name / "run.json")["finished"]


def test_layers_that_make_no_sense_are_refused(tmp_path: Path, corpus: Path) -> None:
    model = build_model_folder(tmp_path / "model")
    run = make_run(tmp_path / "run", model, corpus, 0)
    for expected, arguments in {
        "holds a run, so runs of several layers cannot lie in it": [run.path, "--layers", "1,2"],
        "--layers 1,x is not of the form": [tmp_path / "new", "--layers", "1,x"],
        "Both --layers and model.layer are given": [tmp_path / "new", "--layers", "1,2", "--layer", "1"],
        "Setting model.layer in the command line is not usable": [tmp_path / "new", "--layers", "-1,2"],
        "Setting model.layer in the command line is not usable: ": [tmp_path / "new", "--layers", "2,-1"],
        "Setting model.site in the command line is not usable": [tmp_path / "new", "--sites", "mpl"],
        "Setting model.site in the command line is not usable: ": [tmp_path / "new", "--sites", "mlp,mpl"],
        "must be 0 to 2, not 3": [tmp_path / "new", "--layers", "0,3,1", "--model", model, "--text", corpus],
        "must be 0 to 11, not 12": [tmp_path / "new", "--layers", "12,2", "--model", "gpt2", "--text", corpus],
        "'./nowhere' is neither a folder nor a hub id": [tmp_path / "new", "--layers", "0", "--model", "./nowhere"],
    }.items():
        refused(call("train", *arguments), expected)
    assert not (tmp_path / "new").exists()
    taken = tmp_path / "taken"
    (taken / "layer_01").mkdir(parents=True)
    (taken / "layer_01" / "thesis.txt").write_text("years of work")
    refused(call("train", taken, "--layers", "0,1", "--model", model, "--text", corpus), "layer_01 is not empty")
    assert [path.name for path in taken.iterdir()] == ["layer_01"]


def _toml(settings: RunSettings) -> str:
    lines = []
    for section, values in settings.model_dump(mode="json", exclude={"model": {"layer", "site"}}).items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    return "\n".join(lines)
