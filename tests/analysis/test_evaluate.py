"""Evaluating a whole run: all files, finished stages skipped, tasks from a file, and one sentence per fault."""

import itertools
import json
import shutil
from html import escape

import pandas as pd
import pytest
import torch
from models import build_model_folder
from transformers import AutoTokenizer

from sae_core.activations.harvest import evaluation_cache
from sae_core.activations.origins.language_model.substitution import SubstitutedModel
from sae_core.activations.origins.text.documents import Document
from sae_core.activations.store.cache import CacheWriter
from sae_core.analysis import evaluate
from sae_core.analysis.concepts import runs
from sae_core.analysis.concepts.detection import measure_concepts
from sae_core.analysis.concepts.runs import evaluate_task
from sae_core.analysis.concepts.tasks import docstring_tasks
from sae_core.analysis.concepts.texts_read import TextReader
from sae_core.analysis.evaluate import evaluate_run
from sae_core.analysis.reconstruction import reconstruction
from sae_core.analysis.reconstruction.loss import measure_loss
from sae_core.analysis.reconstruction.reconstruction import measure_reconstruction
from sae_core.analysis.shared.names_in_tables import CONTROL_MISSING
from sae_core.analysis.shared.random_twin import random_stages
from sae_core.analysis.shared.sample import training_sample
from sae_core.analysis.stability.retrains import members_are_retrains
from sae_core.analysis.stages import EVALUATIONS
from sae_core.analysis.summary import as_text, summarize
from sae_core.ensembles.ensemble import Ensemble, load_ensemble, save_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json, read_table, write_json, write_table
from sae_core.foundation.methods import BY_DEFAULT
from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings
from sae_core.report.build import render
from sae_core.report.gather import gather
from sae_core.report.runs import find_subject
from sae_core.sae import make_sae

D, N, TOKENS, LOSS_TOKENS = 16, 24, 600, 300
WORDS = {"ant": "gradient", "bee": "column", "cat": "parser"}
SHAPES = {"parameters": "x : int, y : str", "prose": "returns the", "example": ">>> f(3)"}


def texts_table():
    rows = []
    for (library, word), (kind, shape), number in itertools.product(WORDS.items(), SHAPES.items(), range(60)):
        metadata = {"package": library, "module": f"{library}.m{number % 15}", "name": "f", "kind": kind}
        text = f"{shape} {word} {word} number {number}"
        rows.append({"text": text, "tokens": 9, "held_out": number % 10 == 0, "metadata": json.dumps(metadata)})
    return pd.DataFrame(rows)


def write_cache(run):
    acts = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(0)) + 1.0
    for name in ("train", "evaluation"):
        writer = CacheWriter(run.activations / name, d_in=D, dtype="float32", contents="test")
        writer.append(acts if name == "evaluation" else acts.flip(0))
        writer.finish()
    return acts


def write_run(path, model, **overrides):
    settings = load_settings(
        overrides={
            "model.name": str(model),
            "model.layer": 1,
            "sae.width": N,
            "sae.k": 4,
            "training.members": 2,
            "training.device": "cpu",
            "evaluation.bootstrap": 20,
            "evaluation.pool_texts": 200,
            "evaluation.tokens_per_text": 12,
            "evaluation.loss_tokens": LOSS_TOKENS,
            **overrides,
        }
    )
    run = Run.create(path, settings)
    write_table(run.corpus.texts, texts_table())
    counts = {"single": (1, N), "bagged": (2, N), "boosted": (2, N), "expanded": (1, 2 * N)}
    for method in BY_DEFAULT:
        count, width = counts[method]
        members = [make_sae(settings.sae, D, width=width, seed=seed).eval() for seed in range(count)]
        wiring = "residual" if method == "boosted" else "parallel"
        save_ensemble(Ensemble(members, wiring=wiring, method=method), run.ensemble(method))
        run.finish(f"train/{method}", {"seconds": 1.5, "tokens": 100, "steps": 10, "flops": 1e6})
    write_cache(run)
    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_model_folder(tmp_path_factory.mktemp("model"), d=D, layers=2)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, model):
    run = write_run(tmp_path_factory.mktemp("runs") / "run", model)
    evaluate_run(run)
    return run


def untimed(costs):
    """Costs without what a clock has measured."""
    if isinstance(costs, list):
        return [untimed(each) for each in costs]
    if not isinstance(costs, dict):
        return costs
    return {key: untimed(value) for key, value in costs.items() if "seconds" not in key}


def contents(run):
    return {path.name: path.read_bytes() for path in (run.path / "evaluation").iterdir()}


def test_every_file_has_every_ensemble(evaluated):
    assert all(evaluated.is_finished(f"evaluate/{name}") for name in EVALUATIONS)
    for name in ("reconstruction", "dictionary", "cost", "loss"):
        assert list(read_json(evaluated.evaluation(name))["ensembles"]) == list(BY_DEFAULT)
    rows = summarize(evaluated)
    assert [row["ensemble"] for row in rows] == list(BY_DEFAULT)
    for row in rows:
        # A model of random weights predicts no better than without this layer, so there is no loss to recover.
        unknown = {
            key
            for key, value in row.items()
            if value is None
            and "loss_recovered" not in key
            and "truth" not in key  # no dictionary is known
            and (row["stages"] > 1 or not key.startswith("control_"))
        }
        alone = {"member_stability", "member_stability_null"} if row["members"] == 1 else set()
        assert unknown == alone | {
            *("retrains", "retrain_stability", "retrain_stability_null"),
            *("stage_2_stability", "stage_2_stability_noise"),
        }


def test_figures_are_those_of_the_stored_ensembles_on_the_held_out_activations(evaluated):
    ensembles = {folder.name: load_ensemble(folder) for folder in evaluated.ensembles()}
    acts = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(0)) + 1.0
    expected, densities = measure_reconstruction(ensembles, lambda start, stop: acts[start:stop], TOKENS, bootstrap=20)
    assert read_json(evaluated.evaluation("reconstruction")) == json.loads(json.dumps(expected))
    assert read_table(evaluated.evaluation_table("reconstruction")).equals(densities)
    assert all(figures["identity_error"] < 1e-5 for figures in expected["ensembles"].values())


def test_the_loss_is_that_of_held_out_texts_put_back_into_the_model(evaluated):
    ensembles = {folder.name: load_ensemble(folder) for folder in evaluated.ensembles()}
    table = texts_table()
    expected = measure_loss(
        ensembles,
        SubstitutedModel.load(evaluated.settings.model),
        table["text"][table["held_out"]].tolist(),
        evaluation_cache(evaluated).mean_D,
        tokens=LOSS_TOKENS,
        bootstrap=20,
    )
    assert read_json(evaluated.evaluation("loss")) == json.loads(json.dumps(expected))
    assert 0.9 * LOSS_TOKENS < expected["tokens"] <= LOSS_TOKENS
    assert all(figures["kl_recovered"] is not None for figures in expected["ensembles"].values())


def test_an_encoder_has_no_loss_to_recover_nor_have_those_who_want_none(tmp_path, model):
    encoder = build_model_folder(tmp_path / "bert", "bert", d=D, layers=2)
    source = tmp_path / "mine.txt"
    source.write_text("Some text of mine.")
    for name, settings, reason in (
        ("encoder", {"model.name": str(encoder)}, "is an encoder, which predicts no next token"),
        ("none", {"evaluation.loss_tokens": 0}, "evaluation.loss_tokens is 0"),
    ):
        run = write_run(tmp_path / name, model, **{"text.source": str(source), **settings})
        evaluate_run(run)
        loss = read_json(run.evaluation("loss"))
        assert (loss["defined"], loss["ensembles"]) == (False, {})
        assert reason in loss["reason"]
        assert {row["loss_recovered"] for row in summarize(run)} == {None}


def test_the_bag_is_the_single_sae_retrained_unless_its_members_differ_in_more_than_seeds(evaluated):
    figures = read_json(evaluated.evaluation("dictionary"))
    assert figures["single_retrained"] == figures["ensembles"]["bagged"]["member_stability"]
    differing = load_settings(overrides={"training.members": 2, "training.member_k": [4, 8]})
    assert members_are_retrains(evaluated.settings)
    assert not members_are_retrains(differing)


def test_concepts_cover_tasks_methods_and_variants(evaluated):
    facts, table = read_json(evaluated.evaluation("concepts")), read_table(evaluated.evaluation_table("concepts"))
    assert [task["task"] for task in facts["tasks"]] == ["library", "kind", "confounded"]
    assert set(table["method"]) == {*BY_DEFAULT, "stage 1 + random stages", "raw activation", "random"}
    assert set(table["variant"]) == {"plain", "standardised"}
    assert set(table["m"]) == {0, 1, 2, 5, 10, 20}
    concepts = len(table[["task", "concept"]].drop_duplicates())
    assert concepts == 3 + 3 + 1
    assert len(table) == concepts * 2 * (6 * 5 + 1)
    assert table["accuracy"].between(0, 1).all()
    assert (table["accuracy_low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["accuracy_high"]).all()
    for name, width in (("single", N), ("bagged", 2 * N), ("expanded", 2 * N)):
        features = [feature for row in table[table["method"] == name]["features"] for feature in row]
        assert 0 <= min(features) <= max(features) < width
    # The libraries differ in one word each, which even a model with random weights passes on.
    raw = table[(table["method"] == "raw activation") & (table["task"] == "library")]
    assert raw[raw["variant"] == "standardised"]["accuracy"].mean() > 0.75


def test_what_is_finished_is_left_alone_and_the_same_seed_gives_the_same_files(evaluated, model, tmp_path, monkeypatch):
    before = contents(evaluated)
    evaluate_run(evaluated)
    assert contents(evaluated) == before
    again = write_run(tmp_path / "run", model)

    # Stopped after the second stage, it goes on with the third.
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runs, "evaluate_concepts", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate_run(again)
    assert [again.is_finished(f"evaluate/{name}") for name in EVALUATIONS] == [True, True, *[False] * 4]
    monkeypatch.setattr(reconstruction, "measure_reconstruction", stop)
    evaluate_run(again)
    after = contents(again)
    same = [name for name in before if not name.endswith(".parquet") and name != "cost.json"]
    assert all(after[name] == before[name] for name in same)
    one, two = (untimed(read_json(run.evaluation("cost"))) for run in (again, evaluated))
    assert one == two
    assert read_table(again.evaluation_table("concepts")).equals(read_table(evaluated.evaluation_table("concepts")))


def test_the_control_of_boosting_is_made_of_training_activations_by_seed(evaluated):
    ensemble, acts = load_ensemble(evaluated.ensemble("boosted")), evaluation_cache(evaluated).read(0, TOKENS)
    found = read_json(evaluated.evaluation("control"))
    assert list(found["ensembles"]) == ["boosted"]
    own = found["ensembles"]["boosted"]
    sample = training_sample(evaluated, 4096)
    assert (found["fitted_on"], len(sample)) == (608, 608)  # sixteen stretches that cover the 600 there are
    control = random_stages(ensemble, sample, seed=0)
    assert own["gains"] == pytest.approx(control.weights[1:])
    left = (acts - control(acts)).detach().double().square().sum()
    total = (acts - acts.mean(dim=0)).double().square().sum()
    assert own["explained_variance"] == pytest.approx(float(1 - left / total), abs=1e-5)
    row = next(row for row in summarize(evaluated) if row["ensemble"] == "boosted")
    assert as_text(row)["  stage 1 + random stages"] == f"{own['explained_variance']:.4f}"
    assert "loss_recovered" in own


def test_a_run_whose_activations_are_gone_is_used_without_the_control(evaluated, tmp_path):
    earlier = Run.open(shutil.copytree(evaluated.path, tmp_path / "earlier"))
    shutil.rmtree(earlier.activations)
    earlier.evaluation("control").unlink()
    manifest = earlier.read_manifest()
    del manifest["finished"]["evaluate/control"]
    write_json(earlier.manifest_path, manifest)
    ticks = []
    evaluate_run(earlier, progress=ticks.append)
    assert [tick.note for tick in ticks if tick.note] == [f"{evaluate.CONTROL_GONE} {earlier.activations} is gone."]
    assert not earlier.is_finished("evaluate/control")
    row = next(row for row in summarize(earlier) if row["ensemble"] == "boosted")
    assert as_text(row)["  stage 1 + random stages"] == "unmeasured"
    single = next(row for row in summarize(earlier) if row["ensemble"] == "single")
    assert as_text(single)["  stage 1 + random stages"] == "–"
    content = gather(find_subject(earlier.path))
    assert content["ensembles"]["boosted"]["control"] is None
    assert escape(CONTROL_MISSING) in render(content)


def test_the_control_detects_concepts_beside_what_it_is_the_control_of(evaluated):
    """Measured as any ensemble: here once more, as one of the run's own."""
    control = random_stages(load_ensemble(evaluated.ensemble("boosted")), training_sample(evaluated, 4096), seed=0)
    read = TextReader(evaluated, "cpu", lambda tick: None)
    texts = texts_table().sort_values("held_out", ascending=False, kind="stable")
    documents = [
        Document(text, json.loads(about)) for text, about in zip(texts["text"], texts["metadata"], strict=True)
    ]
    settings = evaluated.settings.evaluation
    sizes = {name: getattr(settings, name) for name in ("train_texts", "test_texts", "pool_texts")}
    tasks = docstring_tasks(documents, **sizes)
    _, expected = measure_concepts({"control": control}, tasks, read, torch.zeros(9, D), settings)
    table = read_table(evaluated.evaluation_table("concepts"))
    columns = ["task", "concept", "m", "variant", "accuracy", "auc"]
    mine = table[table["method"] == "stage 1 + random stages"][columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, expected[expected["method"] == "control"][columns].reset_index(drop=True))
    row = next(row for row in summarize(evaluated) if row["ensemble"] == "boosted")
    five = mine[(mine["m"] == 5) & (mine["variant"] == "standardised") & (mine["task"] != "confounded")]
    mean = five.groupby("task")["accuracy"].mean().mean()
    assert as_text(row)["  5: stage 1 + random stages"] == f"{mean:.1%}"
    low, high = (row[f"control_concept_accuracy_5_standardised_{end}"] for end in ("low", "high"))
    assert low < mean < high
    # In the report it is a row of the table, and the trained stages are measured against it on the same texts.
    own = gather(find_subject(evaluated.path))["ensembles"]["boosted"]["control"]
    key = "concepts.5.standardised"
    assert own["figures"][key]["mean"] == pytest.approx(mean)
    above = own["detected_above"][key]
    assert above["mean"] == pytest.approx(row["concept_accuracy_5_standardised"] - mean)
    assert (above["interval"], above["low"] <= above["mean"] <= above["high"]) == ("paired bootstrap", True)
    page = render(gather(find_subject(evaluated.path)))
    assert page.count("boosted − stage 1 + random stages") >= 1


def test_an_earlier_run_says_that_its_control_has_not_detected(evaluated, tmp_path):
    earlier = Run.open(shutil.copytree(evaluated.path, tmp_path / "earlier"))
    for name in ("concepts", "detectors", "detection"):
        table = read_table(earlier.evaluation_table(name))
        write_table(earlier.evaluation_table(name), table[table["method"] != "stage 1 + random stages"])
    shutil.rmtree(earlier.activations)
    rows = {row["ensemble"]: as_text(row) for row in summarize(earlier)}
    assert (rows["boosted"]["  1: stage 1 + random stages"], rows["single"]["  1: stage 1 + random stages"]) == (
        *("unmeasured", "–"),
    )
    # A task that is added has it, by activations of training texts; but no mean over tasks that it was not measured on.
    evaluate_task(earlier, labelled_file(tmp_path / "words.csv"))
    means = read_table(earlier.evaluation_table("detection"))
    assert set(means[means["method"] == "stage 1 + random stages"]["task"]) == {"words.csv"}
    row = next(row for row in summarize(earlier) if row["ensemble"] == "boosted")
    assert as_text(row)["  1: stage 1 + random stages"] == "unmeasured"
    assert gather(find_subject(earlier.path))["ensembles"]["boosted"]["control"]["detected_above"] == {}


def labelled_file(path):
    texts = [f"{word} number {number}" for word in ("gradient", "parser") for number in range(60)]
    pd.DataFrame({"text": texts, "label": ["g"] * 60 + ["p"] * 60}).to_csv(path, index=False)
    return path


def test_a_task_from_a_file_is_added_once_and_keeps_the_others(evaluated, tmp_path):
    before = read_table(evaluated.evaluation_table("concepts"))
    path = labelled_file(tmp_path / "words.csv")
    for _ in range(2):
        evaluate_task(evaluated, path)
        table = read_table(evaluated.evaluation_table("concepts"))
        mine = table[table["task"] == "words.csv"]
        assert set(mine["concept"]) == {"p"}
        assert len(mine) == 2 * (6 * 5 + 1)
        assert table[table["task"] != "words.csv"].reset_index(drop=True).equals(before)
        tasks = read_json(evaluated.evaluation("concepts"))["tasks"]
        assert [task["task"] for task in tasks] == ["library", "kind", "confounded", "words.csv"]


def test_what_is_cut_off_labelled_texts_is_said(tmp_path, model):
    run = write_run(tmp_path / "run", model, **{"model.context": 9, "evaluation.tokens_per_text": 12})
    path, long = tmp_path / "long.csv", "the index sorts every column of the axis"
    texts = [text for n in range(60) for text in (f"{long} {n}", f"a{n}")]
    pd.DataFrame({"text": texts, "label": ["long", "short"] * 60}).to_csv(path, index=False)
    ticks = []
    evaluate_task(run, path, progress=ticks.append)
    facts = read_json(run.evaluation("concepts"))
    counts = [len(AutoTokenizer.from_pretrained(model)(text)["input_ids"]) for text in texts]
    dropped = sum(max(0, count - 9) for count in counts)
    ordinary = sum(count - 1 for count in counts)
    read = facts["tasks"][0]["read"]
    assert read == {
        "tokens_per_text": 9,
        "tokens_per_text_asked": 12,
        "texts": 120,
        "cut_texts": 60,
        "tokens": ordinary - dropped,
        "dropped_tokens": dropped,
        "dropped_share": dropped / ordinary,
        "unknown_share": 0.0,
    }
    assert (facts["settings"]["tokens_per_text"], facts["settings"]["tokens_per_text_asked"]) == (9, 12)
    (note,) = [tick.note for tick in ticks if tick.note]
    assert note == (
        "Task long.csv: At most the first 9 tokens of a text are read (special ones included, not 12, which is "
        "beyond the run's context): 60 of 120 texts are longer, and "
        f"{dropped / ordinary:.1%} of all tokens are cut off."
    )


def test_other_text_has_no_tasks_until_a_file_gives_one(tmp_path, model):
    source = tmp_path / "mine.txt"
    source.write_text("Some text of mine.")
    run = write_run(tmp_path / "run", model, **{"text.source": str(source)})
    evaluate_run(run)
    assert read_json(run.evaluation("concepts"))["tasks"] == []
    assert len(read_table(run.evaluation_table("concepts"))) == 0
    summarize(run)
    evaluate_task(run, labelled_file(tmp_path / "words.csv"))
    assert set(read_table(run.evaluation_table("concepts"))["task"]) == {"words.csv"}


def test_faults_end_in_one_sentence(evaluated, tmp_path, model):
    empty = Run.create(tmp_path / "empty", load_settings())
    with pytest.raises(UserError, match="holds no trained ensemble"):
        evaluate_run(empty, device="cpu")
    with pytest.raises(UserError, match="words"):
        evaluate_task(evaluated, labelled_file(tmp_path / "words.csv"), label_column="category")
    with pytest.raises(UserError, match=r"missing\.csv"):
        evaluate_task(evaluated, tmp_path / "missing.csv")
    with pytest.raises(UserError, match="device"):
        evaluate_run(write_run(tmp_path / "other", model), device="abacus")


def test_detection_is_the_mean_over_concepts_then_tasks_without_the_confounded_one(evaluated):
    table = read_table(evaluated.evaluation_table("concepts"))
    rows = {row["ensemble"]: row for row in summarize(evaluated)}
    for ending, variant in (("", "plain"), ("_standardised", "standardised")):
        chosen = table[(table["method"] == "bagged") & (table["m"] == 5) & (table["variant"] == variant)]
        tasks = set(chosen["task"]) - {"confounded"}
        assert {"library", "kind"} <= tasks < set(chosen["task"])
        means = [chosen[chosen["task"] == task]["accuracy"].mean() for task in tasks]
        assert rows["bagged"][f"concept_accuracy_5{ending}"] == pytest.approx(sum(means) / len(means))
