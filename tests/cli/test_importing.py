"""The commands import and compare: what a run becomes by them, and what they refuse before they write anything."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from app_pages import html, open_page
from checkpoints import D, dictionary_learning, saelens, sparsify
from command_line import call, refused
from huggingface_hub import constants
from small_hub import SmallHub, small_hub

from sae_core.ensembles.ensemble import Ensemble, load_ensemble, save_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import write_json
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.runs import given, pipeline
from sae_core.sae.formats.saelens import load_sae, save_sae
from sae_core.sae.relu import ReLUSAE
from sae_core.sae.topk import TopKSAE

D_MODEL = 32


def topk(folder: Path, *, width: int = 48, seed: int = 0, d: int = D_MODEL) -> Path:
    """An SAE for the small model's activations, in SAELens' format."""
    save_sae(TopKSAE(d, width, k=4, seed=seed).eval(), folder)
    return folder


def narrow(folder: Path, **said: Any) -> Path:
    """The same of dictionary_learning, with 40 features."""
    sae = TopKSAE(D_MODEL, 40, k=3, seed=7)
    tensors = {"encoder.weight": sae.W_enc.T, "encoder.bias": sae.b_enc, "decoder.weight": sae.W_dec.T}
    tensors |= {"b_dec": sae.b_dec, "k": torch.tensor(3, dtype=torch.int), "threshold": torch.tensor(-1.0)}
    folder.mkdir()
    torch.save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / "ae.pt")
    trainer = {"dict_class": "AutoEncoderTopK", "activation_dim": D_MODEL, "dict_size": 40, "k": 3, **said}
    write_json(folder / "config.json", {"trainer": trainer})
    return folder


def options(model: Path, text: Path) -> list[object]:
    small = {"data.index_tokens": 1500, "data.train_tokens": 1500, "data.evaluation_tokens": 300, "model.context": 48}
    return [
        "--model",
        model,
        "--text",
        text,
        *(word for item in small.items() for word in ("--set", "{}={}".format(*item))),
    ]


def test_a_new_run_takes_the_place_that_checkpoints_say(
    tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = topk(tmp_path / "one"), narrow(tmp_path / "two", layer=1, submodule_name="resid_post_layer_1")
    done = call("import", tmp_path / "run", one, two, "--model", small_model)
    assert done.code == 0, done.err
    assert (
        "dictionary_learning AutoEncoderTopK, 40 features of dimension 32, here topk; of layer 1, residual" in done.err
    )
    assert f"{one} does not say its model and layer and site; taken to be of {small_model}, layer 1" in done.err
    run = Run.open(tmp_path / "run")
    assert (run.settings.model.layer, run.settings.model.site) == (1, "residual")
    assert run.settings.training.methods == ("imported",)
    ensemble = load_ensemble(run.ensemble("imported"))
    assert (ensemble.widths, ensemble.wiring, ensemble.weights) == ([48, 40], "parallel", [0.5, 0.5])
    acts_BD = torch.randn(9, D_MODEL)
    torch.testing.assert_close(ensemble[0](acts_BD), load_sae(one)(acts_BD))
    facts = run.facts("train/imported")["imported"]
    assert [each["from"] for each in facts] == [str(one), str(two)]
    assert all(len(hashed) == 64 for each in facts for hashed in each["sha256"].values())
    assert facts[1]["sha256"].keys() == {"ae.pt", "config.json"}
    # Nothing is left to train, the same SAEs may be imported again, and others need another name.
    assert run.is_finished("train/imported")
    assert call("import", tmp_path / "run", one, two).code == 0
    refused(call("import", tmp_path / "run", one), "called imported already", "--as")
    monkeypatch.chdir(tmp_path)
    assert call("import", "run", "one", "./two").code == 0
    again = call("import", "run", "one", one, "--as", "twice")
    assert f"{one} is the same SAE as {one}, byte for byte" in again.err
    refused(call("compare", "run", "one"), "nothing to compare with")
    assert call("import", tmp_path / "run", one, "--as", "alone").code == 0
    info = call("info", tmp_path / "run")
    assert f"Imported as imported: SAELens topk from {one}; dictionary_learning AutoEncoderTopK from {two}" in info.err
    refused(call("train", tmp_path / "new", "--methods", "imported"), "imported", "trains nothing")


def test_wiring_is_that_of_an_ensemble_or_as_it_is_asked_for(tmp_path: Path, small_model: Path) -> None:
    members = [TopKSAE(D_MODEL, 48, k=4, seed=seed).eval() for seed in range(2)]
    folder = EnsembleFolder(tmp_path / "boosted")
    save_ensemble(Ensemble(members, wiring="residual", weights=[1.0, 0.5]), folder)
    run, model = tmp_path / "run", ("--model", small_model, "--layer", "1")
    assert call("import", run, folder.path, *model, "--as", "again").code == 0
    again = load_ensemble(Run.open(run).ensemble("again"))
    assert (again.wiring, again.weights, again.method) == ("residual", [1.0, 0.5], "imported")
    refused(call("import", run, folder.path, "--as", "third", "--wiring", "parallel"), "wiring is residual")
    one = topk(tmp_path / "one", seed=5)
    assert call("import", run, one, folder.path, "--as", "nested", "--wiring", "residual").code == 0
    nested = load_ensemble(Run.open(run).ensemble("nested"))
    assert (nested.widths, nested.wiring) == ([48, 96], "residual")
    acts_BD = torch.randn(9, D_MODEL)
    left_BD = acts_BD - load_sae(one)(acts_BD)
    torch.testing.assert_close(nested(acts_BD), acts_BD - left_BD + load_ensemble(folder)(left_BD))
    refused(call("import", run, Run.open(run).path, "--as", "run"), "is a run; give one of its ensembles", "nested")


def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path: Path, small_model: Path) -> None:
    run = tmp_path / "run"
    one, other = topk(tmp_path / "one"), topk(tmp_path / "other", d=16)
    placed = narrow(tmp_path / "placed", layer=1, submodule_name="mlp_layer_1")
    named = narrow(tmp_path / "named", layer=1, lm_name="EleutherAI/pythia-70m")
    hooked = narrow(tmp_path / "hooked", layer=None, submodule_name="embedding")
    bag = EnsembleFolder(tmp_path / "bag")
    save_ensemble(Ensemble([TopKSAE(D_MODEL, 48, k=4).eval()], wiring="parallel"), bag)
    (tmp_path / "notes.txt").touch()
    model = ("--model", small_model)
    for words, said in (
        ((other, *model, "--layer", "1"), ("dimension 16", "have 32")),
        ((one, other, *model, "--layer", "1"), ("dimension 16",)),
        ((placed, *model, "--layer", "0"), ("of layer 1", "of layer 0")),
        ((placed, *model, "--site", "attention"), ("of site mlp", "of site attention")),
        ((named, "--model", "gpt2"), ("of the model EleutherAI/pythia-70m", "of gpt2")),
        ((named,), ("dimension 32", "have 512")),
        ((hooked, *model), ("reads embedding, which is no site here",)),
        ((one, *model, "--layer", "7"), ("layer",)),
        ((one, one, *model), ("given twice",)),
        ((one, "--as", "bagged"), ("name of a method",)),
        ((one, "--as", "../x"), ("not a name",)),
        ((tmp_path / "none",), ("does not exist",)),
        ((one, "--wiring", "crossed"), ("crossed",)),
        ((bag.path, *model, "--wiring", "residual"), ("wiring is parallel",)),
        ((tmp_path / "notes.txt",), ("notes.txt holds no SAE of a known format",)),
    ):
        refused(call("import", run, *words), *said)
        assert not run.exists()
    two = [dictionary_learning(tmp_path / "pythia", "AutoEncoder").folder, saelens(tmp_path / "lens").folder]
    refused(call("import", run, *two), "of layer 2", "of layer 3", "only SAEs of the same activations")
    refused(call("import", run, sparsify(tmp_path / "gpt").folder, two[0]), "model")


def test_a_run_that_was_evaluated_is_to_be_evaluated_again(tmp_path: Path, small_model: Path) -> None:
    settings = {"model": {"name": str(small_model), "layer": 1}, "training": {"methods": ["single"]}}
    run = Run.create(tmp_path / "run", RunSettings.model_validate(settings))
    run.finish("corpus", {"d_in": D_MODEL})
    run.finish("train/single")
    run.finish("evaluate/cost")
    assert call("import", run.path, topk(tmp_path / "one")).code == 0
    assert run.is_finished("train/single")
    assert not run.is_finished("evaluate/cost")
    assert Run.open(run.path).settings == run.settings


def put(served: SmallHub, name: str, folder: Path) -> None:
    """A public repository with the files of a folder."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    served.commits[name], served.private[name] = [files], False


def test_ids_on_the_hub(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sparsify(tmp_path / "sparsify")
    (tmp_path / "sparsify" / "large.bin").write_bytes(b"0" * 100)
    settings = {"model": {"name": str(small_model), "layer": 1}, "training": {"methods": ["bagged"]}}
    run = Run.create(tmp_path / "run", RunSettings.model_validate(settings))
    bag = Ensemble([ReLUSAE(D, 8, seed=seed).eval() for seed in range(2)], wiring="parallel")
    save_ensemble(bag, run.ensemble("bagged"))
    with small_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        template = f"{served.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        put(served, "EleutherAI/sae-pythia", tmp_path / "sparsify")
        put(served, "me/run", run.path)
        found = given.read_given("EleutherAI/sae-pythia/layers.5")
        assert (found.kind, found.coder.d_in, found.place.model) == ("sparsify topk", D, "EleutherAI/pythia-160m")
        assert found.source == "EleutherAI/sae-pythia/layers.5"
        kept = {path.name for path in (tmp_path / "hub").rglob("snapshots/*/**/*") if path.is_file()}
        assert kept == {"config.json", "cfg.json", "sae.safetensors"}
        ours = given.read_given("me/run/ensembles/bagged")
        assert (ours.coder.width, ours.place.layer) == (16, 1)
        for source, said in (
            ("EleutherAI/sae-pythia", r"holds some \(EleutherAI/sae-pythia/layers.5\)"),
            ("EleutherAI/none", "cannot be fetched from the hub"),
            ("me/run/elsewhere", "holds no SAE of a known format"),
        ):
            with pytest.raises(UserError, match=said):
                given.read_given(source)
    # Without the hub, what was fetched is still there.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert given.read_given("EleutherAI/sae-pythia/layers.5").files == found.files
    with pytest.raises(UserError, match=r"is no path, and the hub .* cannot be reached"):
        given.read_given("EleutherAI/other")


@pytest.mark.slow
def test_compared_saes_are_browsed_and_evaluated(
    tmp_path: Path, small_model: Path, labelled_texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = topk(tmp_path / "one"), narrow(tmp_path / "two", layer=1)
    twin = topk(tmp_path / "twin")  # has all features of the first
    path = tmp_path / "run"
    done = call("compare", path, one, two, twin, *options(small_model, labelled_texts), "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    first, second, third = found["members"]
    assert [member["features"] for member in found["members"]] == [48, 40, 48]
    assert first["shared"] == third["shared"] == 1.0
    assert first["explained_variance"] == third["explained_variance"] != second["explained_variance"]
    assert second["shared_by_chance"] < 0.05
    assert {(pair["a"], pair["b"]): pair["shared"] for pair in found["pairs"]}[0, 2] == 1.0
    with Path(found["csv"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 136
    assert {row["source"] for row in rows} == {str(one), str(two), str(twin)}
    run = Run.open(path)
    assert pipeline.is_prepared(run)
    again = call("compare", path, one, two, twin)
    assert "explained variance" in again.out
    assert "Families of features by cosine: " in again.err
    new = ("--width", 24, "--k", 2, "--tokens", 2000, "--device", "cpu", "--set", "training.batch_size=100")
    domain = tmp_path / "domain"
    done = call("train", domain, "--boost-from", one, *options(small_model, labelled_texts), *new, "--layer", 1)
    assert done.code == 0, done.err
    extended = load_ensemble(Run.open(domain).ensemble("extended"))
    assert (extended.widths, extended.wiring) == ([48, 24], "residual")
    assert call("train", domain, "--boost-from", one).code == 0
    assert call("index", domain).code == call("evaluate", domain).code == call("report", domain).code == 0
    refused(call("train", domain, "--boost-from", two), "called given already")
    refused(call("train", path, "--boost-from", one), "in a run of its own")
    refused(call("plan", domain), "depends on the given SAE")
    pipeline.evaluate(run)
    assert pipeline.is_evaluated(run)
    assert call("report", path).code == 0
    assert call("info", path).code == 0
    for page in ("overview", "features", "compare", "map"):
        app = open_page(monkeypatch, tmp_path, page, run="run", ensemble="compared")
        assert not app.exception
        assert "Not finished" not in html(app)
        assert page != "overview" or f"SAELens topk from {one}" in html(app)
