"""Tasks with a spurious attribute from every source, pooling with marked tokens, and repeated whole runs."""

from __future__ import annotations

import json
import shutil
import sys
import types
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import call, refused

from sae_core.activations.origins.language_model.reading import ActivationBatch, LanguageModel
from sae_core.activations.origins.text import hub
from sae_core.activations.origins.text.documents import Document
from sae_core.analysis.shared.names_in_tables import BY_ATTRIBUTE, BY_PROBE, BY_TRUTH, RANDOM, texts_in_words
from sae_core.analysis.shared.pooling import pool
from sae_core.analysis.shared.random_twin import SAMPLE_ROWS, random_stages
from sae_core.analysis.shared.sample import training_sample
from sae_core.analysis.spurious.ablation import Texts
from sae_core.analysis.spurious.files import measured_tasks, open_workbench, read_pooled
from sae_core.analysis.spurious.removal import (
    ABLATED,
    COLUMNS,
    as_text,
    measure_spurious,
    over_seeds,
    overlaps,
    pool_task,
)
from sae_core.analysis.spurious.runs import evaluate_spurious
from sae_core.analysis.spurious.tasks import (
    GROUPS,
    Columns,
    SpuriousTask,
    bias_in_bios_task,
    biography_task,
    docstring_task,
    draw_split,
    file_task,
    shared_texts,
)
from sae_core.ensembles.ensemble import Ensemble, load_ensemble, save_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json, read_table, write_json
from sae_core.foundation.methods import control_name
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import ModelSettings
from sae_core.sae import TopKSAE

D = 8
CONTROL = control_name("boosted")


def made_task(sizes: dict[tuple[bool, bool, bool], int], name: str = "made") -> SpuriousTask:
    """A task with so many texts by (T, S, for testing)."""
    rows = [(f"{key} {number}", *key) for key, count in sizes.items() for number in range(count)]
    columns = [np.array(column, dtype=bool) for column in zip(*(row[1:] for row in rows), strict=True)]
    return SpuriousTask(name, "made", ("a", "b"), ("c", "d"), [row[0] for row in rows], *columns)


def even(count: int) -> dict[tuple[bool, bool, bool], int]:
    return {(*group, test): count for group in GROUPS for test in (False, True)}


def check_split(task: SpuriousTask, texts: int, seed: int) -> None:
    split = draw_split(task, texts, seed=seed)
    assert len(set(np.concatenate(split))) == sum(map(len, split))
    assert (task.target_X[split.confounded] == task.spurious_X[split.confounded]).all()
    assert task.target_X[split.confounded].mean() == 0.5
    assert not task.test_X[split.confounded].any()
    assert not task.test_X[split.balanced].any()
    assert task.test_X[split.test].all()
    for rows in (split.balanced, split.test):
        counts = [((task.target_X[rows] == t) & (task.spurious_X[rows] == s)).sum() for t, s in GROUPS]
        assert len(set(counts)) == 1
        assert counts[0] > 0


def test_a_split_is_confounded_balanced_and_without_overlap() -> None:
    task = made_task(even(60))
    check_split(task, 60, seed=0)
    assert [len(rows) for rows in draw_split(task, 60, seed=0)] == [60, 60, 60]
    again, other = draw_split(task, 60, seed=0), draw_split(task, 60, seed=1)
    assert all(np.array_equal(*rows) for rows in zip(draw_split(task, 60, seed=0), again, strict=True))
    assert not np.array_equal(again.confounded, other.confounded)
    scarce = made_task(even(30) | {(False, True, False): 7})
    check_split(scarce, 400, seed=0)
    assert len(draw_split(scarce, 400, seed=0).balanced) == 28


def test_five_seeds_share_no_texts_and_where_there_are_too_few_it_is_said() -> None:
    task = made_task({(*group, test): 5 * (10 if test else 30) for group in GROUPS for test in (False, True)})
    splits = [draw_split(task, 40, seed=seed) for seed in range(5)]
    assert [len(rows) for rows in splits[3]] == [40, 40, 40]
    every = np.concatenate([rows for split in splits for rows in split])
    assert len(set(every.tolist())) == len(every) == 5 * 120
    assert shared_texts(splits) == {"train": 0.0, "test": 0.0}
    check_split(task, 40, seed=7)
    # The sixth seed shuffles anew, so that it shares some with all of the first five.
    more = shared_texts([splits[0], draw_split(task, 40, seed=5)])
    assert 0 < more["test"] < 0.5  # type: ignore[operator]
    scarce = made_task({(*group, test): 12 if test else 36 for group in GROUPS for test in (False, True)})
    few = [draw_split(scarce, 40, seed=seed) for seed in range(5)]
    found = shared_texts(few)
    pairs = [(set(one.test.tolist()), set(two.test.tolist())) for one, two in combinations(few, 2)]
    assert found["test"] == pytest.approx(np.mean([len(one & two) / 40 for one, two in pairs]))
    assert found["test"] > 0.7  # type: ignore[operator]
    assert shared_texts(few[:1]) == {"train": None, "test": None}
    said = texts_in_words({"seeds": [0, 1], "test_texts": 40, "shared_texts": {"test": 0.82, "train": 0.5}})
    assert said == "2 draws of 40 test texts; two of them share 82% of their test and 50% of their training texts"
    assert texts_in_words({"seeds": [0, 1]}) == "2 draws, which share an unknown part of their texts"
    assert texts_in_words({"seeds": [0, 1], "shared_texts": {"test": 0.0, "train": 0.0}}) == "2 draws, which share none"
    assert texts_in_words({"seeds": [0]}) == "1 draw"


def test_runs_of_before_keep_the_texts_that_their_figures_are_of() -> None:
    task = replace(made_task(even(60)), dealt=False)
    chance = np.random.default_rng([3, *b"made"])
    train = {group: chance.permutation(task.group(*group, test=False)) for group in GROUPS}
    expected = np.concatenate([train[group][:15] for group in GROUPS])
    assert np.array_equal(draw_split(task, 60, seed=3).balanced, expected)


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(UserError, match="has too few texts: its four groups have 30 and 30, 4 and 30"):
        draw_split(made_task(even(30) | {(False, True, False): 4}), 100, seed=0)
    with pytest.raises(UserError, match="too few texts"):
        draw_split(made_task(even(30) | {(True, True, True): 2}), 100, seed=0)


def test_biographies_make_a_task_whose_marks_are_the_gendered_words() -> None:
    task = biography_task(40, seed=3)
    check_split(task, 40, seed=0)
    assert task.target == ("nurse", "professor")
    assert task.spurious == ("woman", "man")
    assert task.marked is not None
    for text, spans, man in zip(task.texts, task.marked, task.spurious_X, strict=True):
        found = {text[start:stop].lower() for start, stop in spans}
        assert bool(found & {"he", "his", "him", "himself"}) == man
        assert bool(found & {"she", "her", "herself"}) != man


def passages(counts: dict[tuple[str, str], int]) -> list[Document]:
    return [
        Document(f"{library} {kind} {number}", {"package": library, "kind": kind, "module": f"{library}.m{number}"})
        for (library, kind), count in counts.items()
        for number in range(count)
    ]


def test_docstrings_take_the_two_libraries_with_the_fullest_cells() -> None:
    counts = {("ant", "parameters"): 100, ("ant", "prose"): 90, ("bee", "parameters"): 5, ("bee", "prose"): 300}
    counts |= {("cat", "parameters"): 80, ("cat", "prose"): 120, ("cat", "example"): 50}
    task = docstring_task(passages(counts), 80)
    assert task is not None
    check_split(task, 80, seed=0)
    for text, target, listed in zip(task.texts, task.target_X, task.spurious_X, strict=True):
        assert text.split()[:2] == ["cat" if target else "ant", "parameters" if listed else "prose"]
    assert docstring_task(passages({key: 20 for key in counts if key[0] != "cat"}), 80) is None
    assert docstring_task([], 80) is None


def bios(count: int) -> list[dict[str, Any]]:
    """Rows with the columns of LabHC/bias_in_bios; every third one has a profession that is not asked for."""
    chance = np.random.default_rng(0)
    rows = []
    for number in range(count):
        profession, gender = int(chance.choice([13, 21, 2])), int(chance.integers(2))
        rows.append({"hard_text": f"biography {number} of {profession}", "profession": profession, "gender": gender})
    return rows


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_local_copy_of_bias_in_bios_is_read(suffix: str, tmp_path: Path) -> None:
    rows, path = bios(1200), tmp_path / f"bios{suffix}"
    table = pd.DataFrame(rows)
    if suffix == ".csv":
        table.to_csv(path, index=False)
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        table.to_parquet(path)
    task = file_task(path, Columns(), 80)
    check_split(task, 80, seed=0)
    assert task.name == path.name
    labels = {row["hard_text"]: (row["profession"] == 21, row["gender"] == 0) for row in rows}
    found = zip(task.texts, task.target_X, task.spurious_X, strict=True)
    assert all(labels[text] == (target, spurious) for text, target, spurious in found)
    again = file_task(path, Columns(), 400)
    sides = dict(zip(again.texts, again.test_X, strict=True))
    assert all(sides[text] == test for text, test in zip(task.texts, task.test_X, strict=True))


def test_faults_of_a_file_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "bios.csv"
    pd.DataFrame(bios(30)).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"'profession' of .*bios.csv never is '7'; it is, for example, 13, 2, 21"):
        file_task(path, Columns(target_values=("7", "21")), 80)
    with pytest.raises(UserError, match="no column 'sex'"):
        file_task(path, Columns(spurious="sex"), 80)


def test_bias_in_bios_is_streamed_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": bios(600), "test": bios(900)[600:]}
    calls = []

    def load_dataset(name: str, subset: str | None, *, split: str, streaming: bool) -> Any:
        calls.append((name, subset, split, streaming))
        return iter(splits[split])

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    task = bias_in_bios_task(60)
    assert calls == [("LabHC/bias_in_bios", None, split, True) for split in ("train", "test")]
    check_split(task, 60, seed=0)
    tested = {row["hard_text"] for row in splits["test"]}
    assert all((text in tested) == test for text, test in zip(task.texts, task.test_X, strict=True))
    assert not any(text.endswith(" of 2") for text in task.texts)
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    with pytest.raises(UserError, match=r"'LabHC/bias_in_bios' is no file.*; give a local copy of it with --file"):
        bias_in_bios_task(60)


def test_tokens_overlap_a_stretch_by_a_character() -> None:
    places = np.array([[0, 3], [3, 7], [7, 8], [8, 12], [12, 12]])
    assert overlaps(places, [(4, 8)]).tolist() == [False, True, True, False, False]
    assert overlaps(places, [(0, 1), (11, 12)]).tolist() == [True, False, False, True, False]
    assert not overlaps(places, []).any()
    assert overlaps(np.empty((0, 2), np.int64), [(0, 1)]).tolist() == []


def test_a_model_says_where_its_tokens_stand(small_model: Path) -> None:
    model = LanguageModel.load(ModelSettings(name=str(small_model), layer=0, context=16))
    texts = ["the gradient of a", "", "naïve – text", " she  went " * 9]
    spans = model.char_spans(texts, context=12)
    ids = model.token_ids(texts, context=12)
    assert [len(places) for places in spans] == [len(tokens) for tokens in ids]
    assert spans[1].shape == (0, 2)
    for text, places in zip(texts, spans, strict=True):
        assert all(text[start:stop].strip() or start == stop or text[start:stop].isspace() for start, stop in places)
        covered = {at for start, stop in places for at in range(start, stop)}
        assert {at for at in range(max(covered, default=-1) + 1) if not text[at].isspace()} <= covered


def made_batches(counts: list[int]) -> list[ActivationBatch]:
    """Activations of texts with so many tokens, in two batches."""
    documents = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    acts = torch.randn(len(documents), D, generator=torch.Generator().manual_seed(1)) + 0.2
    cut = int((documents < len(counts) // 2).sum())
    tokens = torch.zeros(len(documents), dtype=torch.int32)
    return [ActivationBatch(acts[None, p], tokens[p], documents[p]) for p in (slice(cut), slice(cut, None))]


def test_marked_tokens_are_pooled_with_their_text_and_their_share_is_known() -> None:
    counts = [4, 1, 0, 7, 3, 5]
    task = made_task({(True, True, False): 6})
    chance = np.random.default_rng(0)
    is_marked = [chance.random(count) < 0.4 for count in counts]
    spans = [tuple((10 * place, 10 * place + 5) for place in np.flatnonzero(marks)) for marks in is_marked]
    places = [np.array([[10 * place, 10 * place + 8] for place in range(count)]).reshape(-1, 2) for count in counts]
    ensembles = {
        "single": Ensemble([TopKSAE(D, 12, k=3, seed=1)], wiring="parallel").eval(),
        "boosted": Ensemble([TopKSAE(D, 12, k=3, seed=s) for s in (1, 2)], wiring="residual").eval(),
    }
    batches = made_batches(counts)
    sample = torch.cat([batch.acts_TD for batch in batches])
    plain = pool(ensembles, batches, len(counts))
    marked_task = replace(task, marked=spans)
    found = pool_task(marked_task, ensembles, lambda _: batches, lambda _: places, sample)
    without = pool_task(task, ensembles, lambda _: batches, lambda _: pytest.fail("not needed"), sample)
    assert not without.marked
    np.testing.assert_allclose(found.acts_XD, plain.raw, atol=1e-6)
    for name, ensemble in ensembles.items():
        np.testing.assert_allclose(found.codes[name].toarray(), plain.codes[name].toarray(), atol=1e-6)
        np.testing.assert_array_equal(without.codes[name].toarray(), plain.codes[name].toarray())
        codes = ensemble.encode(sample).detach().double().numpy()
        total = codes.sum(axis=0)
        share = codes[np.concatenate(is_marked)].sum(axis=0) / np.where(total > 0, total, 1)
        np.testing.assert_allclose(found.marked[name], share, atol=1e-6)
    assert set(found.codes) == {*ensembles, RANDOM}


@pytest.fixture(scope="module")
def run(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small trained run, with few texts a task, in which biographies are measured."""
    path = tmp_path_factory.mktemp("spurious") / "run"
    shutil.copytree(trained_run.path, path)
    manifest = read_json(path / "run.json")
    manifest["settings"]["evaluation"] |= {"spurious_texts": 40, "tokens_per_text": 60}
    write_json(path / "run.json", manifest)
    run = Run.open(path)
    evaluate_spurious(run, [biography_task(40)], seeds=[0, 1])
    return run


def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "load", lambda *_args, **_options: pytest.fail("texts are read again"))


def test_every_method_ranking_count_and_seed_has_a_row(run: Run) -> None:
    table = read_table(run.evaluation_table("spurious"))
    assert list(table.columns) == list(COLUMNS)
    methods = table[~table["method"].isin(["biased", "oracle"])]
    assert list(dict.fromkeys(methods["method"])) == ["single", "bagged", "boosted", CONTROL, "expanded", RANDOM]
    assert len(methods) == 6 * 3 * len(ABLATED) * 2
    assert set(methods["ranking"]) == {BY_PROBE, BY_ATTRIBUTE, BY_TRUTH}
    assert (methods["used"] <= methods["n"]).all()
    assert all(methods[name].between(0, 1).all() for name in ("target", "spurious", "worst_group"))
    groups = table[["group_00", "group_01", "group_10", "group_11"]]
    np.testing.assert_allclose(groups.mean(axis=1), table["target"])  # the test texts are balanced
    np.testing.assert_allclose(groups.min(axis=1), table["worst_group"])
    for _, rows in table.groupby("seed"):
        biased, oracle = (rows[rows["method"] == name].iloc[0] for name in ("biased", "oracle"))
        assert (biased["scr"], oracle["scr"]) == (0, 1)
        gap = oracle["target"] - biased["target"]
        for row in rows[rows["n"] == 10].itertuples():
            assert row.scr == pytest.approx((row.target - biased["target"]) / gap if gap >= 0.001 else 0.0)


def test_figures_are_means_over_seeds(run: Run) -> None:
    facts = read_json(run.evaluation("spurious"))["tasks"][0]
    table = read_table(run.evaluation_table("spurious"))
    assert facts["figures"] == json.loads(json.dumps(over_seeds(table)))
    row = next(r for r in facts["figures"] if r["method"] == "bagged" and r["ranking"] == BY_PROBE and r["n"] == 5)
    own = table[(table["method"] == "bagged") & (table["ranking"] == BY_PROBE) & (table["n"] == 5)]
    assert row["target"]["values"] == own["target"].tolist()
    assert (facts["confounded_texts"], facts["balanced_texts"], facts["test_texts"]) == (40, 40, 40)


@pytest.mark.parametrize("ensemble", ["single", "bagged", "boosted", CONTROL, "expanded", RANDOM])
def test_the_bench_gives_the_figures_of_the_table(run: Run, ensemble: str) -> None:
    bench, pooled = open_workbench(run, "biographies", ensemble, seed=1)
    table = read_table(run.evaluation_table("spurious"))
    own = table[(table["method"] == ensemble) & (table["seed"] == 1)]
    for ranking, order in ((BY_PROBE, bench.rank()), (BY_TRUTH, bench.rank(among_M=pooled.marked[ensemble] >= 0.5))):
        for row in own[own["ranking"] == ranking].itertuples():
            found = bench.ablate(order[: row.n])
            assert (found.target, found.spurious, found.worst_group) == (row.target, row.spurious, row.worst_group)


def test_random_stages_are_ablated_as_the_ensemble_that_they_are_the_control_of(run: Run) -> None:
    """By hand: encode token by token, and take what the features add to the probe off its values."""
    control = random_stages(load_ensemble(run.ensemble("boosted")), training_sample(run, SAMPLE_ROWS), seed=0)
    pooled = read_pooled(run, "biographies")
    np.testing.assert_array_equal(pooled.untrained[CONTROL], control.dictionary.detach().numpy())
    bench, _ = open_workbench(run, "biographies", CONTROL)
    texts, features = bench.texts, bench.rank()[:10]
    model, wanted = LanguageModel.load(run.settings.model), [pooled.task.texts[row] for row in bench.texts.test]
    codes = [control.encode(batch.acts_TD).detach().double().numpy() for batch in model.activations(wanted, context=60)]
    means = [
        each.mean(axis=0)
        for each in np.split(
            np.concatenate(codes), np.cumsum([len(ids) for ids in model.token_ids(wanted, context=60)][:-1])
        )
    ]
    values = bench.biased.values(texts.acts_XD[texts.test])
    values -= (
        np.stack(means)[:, features] @ (control.dictionary.detach().double().numpy() @ bench.biased.weights_D)[features]
    )
    np.testing.assert_allclose(bench.values(features), values, atol=1e-4 * np.abs(values).max())
    accuracy = ((values > 0) == texts.target_X[texts.test]).mean()
    facts = read_json(run.evaluation("spurious"))["tasks"][0]
    row = next(r for r in facts["figures"] if (r["method"], r["ranking"], r["n"]) == (CONTROL, BY_PROBE, 10))
    assert row["target"]["values"][0] == accuracy
    assert facts["controls"] == [CONTROL]
    printed = {each["probe"]: each for each in as_text(facts)}
    assert printed[CONTROL]["T @ 10"] == f"{row['target']['mean']:.1%}"


def test_a_task_that_was_measured_before_there_were_controls_is_measured_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Run.open(shutil.copytree(run.path, tmp_path / "copy"))
    expected = read_json(copy.evaluation("spurious"))
    earlier = {**expected, "tasks": [{key: own for key, own in expected["tasks"][0].items() if key != "controls"}]}
    write_json(copy.evaluation("spurious"), earlier)
    manifest = copy.read_manifest()
    del manifest["finished"]["evaluate/spurious/biographies"]["controls"]
    write_json(copy.manifest_path, manifest)
    with monkeypatch.context() as patched:
        patched.setattr(LanguageModel, "load", lambda *_args, **_options: (_ for _ in ()).throw(UserError("is read")))
        with pytest.raises(UserError, match="is read"):
            evaluate_spurious(copy, [biography_task(40)], seeds=[0, 1])
    assert evaluate_spurious(copy, [biography_task(40)], seeds=[0, 1]) == expected["tasks"]


def test_a_task_is_measured_again_where_an_ensemble_was_trained_anew_under_its_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Run.open(shutil.copytree(run.path, tmp_path / "copy"))
    ensemble = load_ensemble(copy.ensemble("single"))
    with torch.no_grad():
        ensemble[0].b_dec.add_(0.1)
    save_ensemble(ensemble, copy.ensemble("single"))
    monkeypatch.setattr(LanguageModel, "load", lambda *_args, **_options: (_ for _ in ()).throw(UserError("is read")))
    with pytest.raises(UserError, match="is read"):
        evaluate_spurious(copy, [biography_task(40)], seeds=[0, 1])


def test_the_bench_knows_the_long_way_through_the_model(run: Run) -> None:
    """From the text to the probe's values, token by token, for a boosted ensemble."""
    bench, pooled = open_workbench(run, "biographies", "boosted")
    texts: Texts = bench.texts
    features = bench.rank()[:7]
    model = LanguageModel.load(run.settings.model)
    wanted = [pooled.task.texts[row] for row in texts.test[:6]]
    ensemble = load_ensemble(run.ensemble("boosted"))
    batch = next(iter(model.activations(wanted, context=60)))
    codes = ensemble.encode(batch.acts_TD).detach()
    error = batch.acts_TD - ensemble.decode(codes)
    codes[:, torch.from_numpy(features.copy())] = 0
    ablated = (ensemble.decode(codes) + error).detach().double().numpy()
    pooled_acts = np.stack([ablated[batch.document_T.numpy() == i].mean(axis=0) for i in range(6)])
    expected = pooled_acts @ bench.biased.weights_D + bench.biased.bias
    np.testing.assert_allclose(bench.values(features)[:6], expected, atol=2e-3 * np.abs(expected).max())


def test_measured_again_nothing_is_read_and_more_seeds_use_what_is_pooled(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Run.open(shutil.copytree(run.path, tmp_path / "copy"))
    no_reading(monkeypatch)
    before = read_table(copy.evaluation_table("spurious"))
    stamp = copy.evaluation("spurious").stat().st_mtime_ns
    evaluate_spurious(copy, [biography_task(40)], seeds=[0, 1])
    assert copy.evaluation("spurious").stat().st_mtime_ns == stamp
    facts = evaluate_spurious(copy, [biography_task(40)], seeds=[0, 1, 2])[0]
    after = read_table(copy.evaluation_table("spurious"))
    pd.testing.assert_frame_equal(after[after["seed"] < 2], before, check_exact=True)
    assert facts["seeds"] == [0, 1, 2]
    facts = evaluate_spurious(copy, [biography_task(40)], seeds=[0], retrain=True)[0]
    table = read_table(copy.evaluation_table("spurious"))
    kept = table[~table["retrained"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before[before["seed"] == 0], check_exact=True)
    assert table["retrained"].sum() == 6 * 3 * len(ABLATED)
    assert any(row["retrained"] for row in facts["figures"])


def test_a_task_from_a_file_joins_those_that_are_there(run: Run, tmp_path: Path) -> None:
    copy = Run.open(shutil.copytree(run.path, tmp_path / "copy"))
    path = tmp_path / "my bios.csv"
    pd.DataFrame(bios(700)).to_csv(path, index=False)
    outcome = call("spurious", copy.path, "--file", path, "--seeds", 1, "--json")
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert [task["task"] for task in facts] == ["my bios.csv"]
    assert [facts["task"] for facts in measured_tasks(copy)] == ["my bios.csv", "biographies"]
    assert set(read_table(copy.evaluation_table("spurious"))["task"]) == {"my bios.csv", "biographies"}
    assert not read_pooled(copy, "my bios.csv").marked
    assert {row["ranking"] for row in facts[0]["figures"]} == {"", BY_PROBE, BY_ATTRIBUTE}
    printed = call("spurious", copy.path, "--task", "biographies", "--seeds", 2)
    assert printed.code == 0
    assert "SCR @" in printed.out


def test_several_runs_are_measured_or_refused_together(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_reading(monkeypatch)
    runs = tmp_path / "runs"
    copies = [Run.open(shutil.copytree(run.path, runs / name)) for name in ("one", "two")]
    outcome = call("spurious", runs, "--task", "biographies", "--seeds", 2, "--json")
    assert outcome.code == 0, outcome.err
    expected = read_json(run.evaluation("spurious"))["tasks"]
    assert json.loads(outcome.out) == {"one": expected, "two": expected}
    # The second has too few texts: the first is not measured either.
    manifest = copies[1].read_manifest()
    manifest["settings"]["evaluation"]["spurious_texts"] = 16
    write_json(copies[1].manifest_path, manifest)
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    refused(
        call("spurious", runs, "--task", "biographies", "--seeds", 3),
        "evaluation.spurious_texts is 16",
        "at least 20",
    )
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()} == before


def test_damage_and_bad_input_are_refused(run: Run, tmp_path: Path) -> None:
    copy = Run.open(shutil.copytree(run.path, tmp_path / "copy"))
    refused(call("spurious", copy.path, "--task", "gender"), "no task 'gender'", "biographies, docstrings")
    refused(call("spurious", copy.path, "--task", "docstrings"), "needs the embedded text")
    refused(call("spurious", copy.path, "--file", tmp_path / "none.csv"), "none.csv does not exist")
    refused(call("spurious", copy.path, "--file", "x.csv", "--target", "a=b"), "--target a=b", "COLUMN=A,B")
    refused(call("spurious", copy.path, "--file", "x.csv", "--attribute", "g=1,1"), "--attribute g=1,1")
    refused(call("spurious", tmp_path / "none"), "holds no run")
    with pytest.raises(UserError, match=r"was not measured in .*; run: sae-ensemble spurious"):
        open_workbench(copy, "other", "single")
    with pytest.raises(UserError, match="not for huge"):
        open_workbench(copy, "biographies", "huge")
    copy.spurious("biographies").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged"):
        open_workbench(copy, "biographies", "single")


def test_known_direction_is_found_and_removed_by_the_right_features() -> None:
    """Codes in which one feature is S, one T and the rest noise: ablating the first removes S, whatever the seed."""
    task = made_task(even(90))
    chance = np.random.default_rng(0)
    texts = len(task.texts)
    signal = np.stack([1.5 * task.spurious_X, 0.9 * task.target_X], axis=1) + 0.3 * chance.standard_normal((texts, 2))
    acts = np.concatenate([signal, 0.3 * chance.standard_normal((texts, D - 2))], axis=1).astype(np.float32)
    batch = ActivationBatch(torch.from_numpy(acts)[None], torch.zeros(texts, dtype=torch.int32), torch.arange(texts))
    sae = TopKSAE(D, D, k=D)
    with torch.no_grad():
        sae.W_dec.copy_(torch.eye(D))
        sae.W_enc.copy_(torch.eye(D))
    ensembles = {"single": Ensemble([sae.eval()], wiring="parallel").eval()}
    pooled = pool_task(task, ensembles, lambda _: [batch], lambda _: [], torch.from_numpy(acts))
    table = measure_spurious(pooled, {"single": np.eye(D, dtype=np.float32)}, 120, [0, 1, 2], counts=[1], retrain=True)
    biased = table[table["method"] == "biased"]
    own = table[(table["method"] == "single") & (table["ranking"] == BY_PROBE)]
    assert (biased["spurious"] > 0.8).all()
    assert (own["spurious"] < 0.62).all()
    assert (own[own["retrained"]]["scr"] > 0.7).all()
    for seed in (0, 1):
        again = measure_spurious(pooled, {"single": np.eye(D, dtype=np.float32)}, 120, [seed], counts=[1])
        kept = table[(table["seed"] == seed) & ~table["retrained"]].reset_index(drop=True)
        pd.testing.assert_frame_equal(again, kept, check_exact=True)
