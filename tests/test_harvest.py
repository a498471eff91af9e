"""Gathering on a small model and local text: the run folder's contents against the model itself, and resuming."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import build_model_folder, sample_texts
from transformers import AutoTokenizer

from sae_core.activations import docstrings, harvest, language_model
from sae_core.activations.language_model import LanguageModel
from sae_core.config import RunSettings
from sae_core.errors import UserError
from sae_core.files import read_table, read_tensors
from sae_core.progress import Tick
from sae_core.run import Run

TEXTS = sample_texts(150, seed=9)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def corpus_path(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [{"text": text, "topic": f"t{number % 3}"} for number, text in enumerate(TEXTS)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def make_run(folder: Path, model: Path, corpus: Path, **changes: int) -> Run:
    data = {"train_tokens": 2000, "index_tokens": 700, "evaluation_tokens": 200, "dtype": "float32"} | changes
    settings = {
        "text": {"source": str(corpus)},
        "model": {"name": str(model), "layer": 1, "context": 40, "batch_size": 8},
        "data": data,
        "training": {"device": "cpu"},
    }
    return Run.create(folder, RunSettings.model_validate(settings))


def test_a_run_holds_what_the_model_gives(tmp_path: Path, model_path: Path, corpus_path: Path) -> None:
    run = make_run(tmp_path / "run", model_path, corpus_path)
    ticks: list[Tick] = []
    harvest.harvest(run, progress=ticks.append)
    train, held_out = harvest.documents(run, held_out=False), harvest.documents(run, held_out=True)
    cache = harvest.train_cache(run)

    # The documents are the first that fit, split by the hash of their text.
    wanted = [text for text in TEXTS if not harvest.is_held_out(text)]
    assert [document.text for document in train] == wanted[: len(train)]
    assert [document.text for document in held_out] == [text for text in TEXTS if harvest.is_held_out(text)][
        : len(held_out)
    ]
    model = LanguageModel.load(run.settings.model)
    lengths = [len(ids) for ids in model.token_ids(wanted)]
    assert sum(lengths[: len(train)]) == cache.rows <= 2000 < sum(lengths[: len(train) + 1])

    # Row p of the cache is position p of the corpus.
    stored = read_tensors(run.corpus.tokens)
    tokens, offsets = stored["tokens"], stored["offsets"]
    (batch,) = model.activations([document.text for document in train])
    torch.testing.assert_close(cache.read(0, cache.rows), batch.acts_TD, atol=1e-4, rtol=1e-4)
    assert tokens.dtype == torch.int32
    assert torch.equal(tokens, batch.tokens_T[: len(tokens)])
    starts = [0, *np.cumsum(lengths)]
    assert offsets.tolist() == starts[: len(offsets)]
    assert len(tokens) == offsets[-1] <= 700 < starts[len(offsets)]
    table = read_table(run.corpus.documents)
    assert table["topic"].tolist() == [f"t{TEXTS.index(document.text) % 3}" for document in train][: len(table)]
    assert table["source"].unique().tolist() == ["corpus.jsonl"]
    assert len(table) == len(offsets) - 1

    (batch,) = model.activations([document.text for document in held_out])
    evaluation = harvest.evaluation_cache(run)
    torch.testing.assert_close(evaluation.read(0, evaluation.rows), batch.acts_TD, atol=1e-4, rtol=1e-4)
    assert evaluation.rows <= 200

    tokenizer = AutoTokenizer.from_pretrained(run.corpus.tokenizer)
    assert tokenizer.decode(tokens[: offsets[1]]) == train[0].text[: len(tokenizer.decode(tokens[: offsets[1]]))]
    assert set(read_tensors(run.corpus.lens)) == {"unembed_VD", "norm_weight_D"}
    facts = run.facts("corpus")
    assert (facts["documents"], facts["index_tokens"]) == (len(table), len(tokens))
    assert (facts["model"], facts["d_in"]) == (str(model_path), 32)
    assert run.facts("activations")["tokens"] == cache.rows + evaluation.rows
    reading = [tick for tick in ticks if tick.stage == "read activations"]
    assert [tick.done for tick in reading] == sorted(tick.done for tick in reading)
    assert reading[-1].done == reading[-1].total == cache.rows + evaluation.rows


def test_an_interrupted_harvest_goes_on_and_ends_bit_by_bit_the_same(
    tmp_path: Path, model_path: Path, corpus_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, "WINDOW_BYTES", 4 * 32 * 150)
    whole = make_run(tmp_path / "whole", model_path, corpus_path)
    harvest.harvest(whole)
    broken = make_run(tmp_path / "broken", model_path, corpus_path)

    def interrupt(tick: Tick) -> None:
        if tick.stage == "read activations" and tick.done > 1200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest.harvest(broken, progress=interrupt)
    assert broken.is_finished("corpus")
    assert not broken.is_finished("activations")
    corpus_path.unlink()  # what was gathered is kept, so the source is not needed again
    read: list[float] = []
    harvest.harvest(broken, progress=lambda tick: read.append(tick.done))
    assert min(read) > 700
    for open_cache in (harvest.train_cache, harvest.evaluation_cache):
        there, here = open_cache(whole), open_cache(broken)
        assert here.fingerprint == there.fingerprint
        assert torch.equal(here.read(0, here.rows), there.read(0, there.rows))
        assert (here.scale, here.mean_D.tolist()) == (there.scale, there.mean_D.tolist())


def test_what_is_finished_is_not_done_again(
    tmp_path: Path, model_path: Path, corpus_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", model_path, corpus_path)
    harvest.harvest(run)
    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: pytest.fail("the model was loaded again"))
    harvest.harvest(run)


@pytest.mark.parametrize("name", ["train", "evaluation"])
def test_only_a_shard_that_is_gone_is_read_again(
    tmp_path: Path, model_path: Path, corpus_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(language_model, "WINDOW_BYTES", 4 * 32 * 150)
    run = make_run(tmp_path / "run", model_path, corpus_path)
    harvest.harvest(run)
    shards = sorted((run.activations / name).glob("*.safetensors"))
    before = {shard: shard.read_bytes() for shard in shards}
    number = min(2, len(shards) - 1)
    shards[number].write_bytes(before[shards[number]][:-1] + b"?")
    with pytest.raises(UserError, match=rf"{shards[number].name} .* is damaged"):
        (harvest.train_cache if name == "train" else harvest.evaluation_cache)(run)
    assert run.is_finished("activations")
    shards[number].unlink()
    assert not run.is_finished("activations")
    texts: list[str] = []
    real = LanguageModel.activations

    def counting(self: LanguageModel, chosen: list[str], **options: Any) -> Any:
        for batch in real(self, chosen, **options):
            texts.extend(chosen[: int(batch.document_T[-1]) + 1])
            yield batch

    monkeypatch.setattr(LanguageModel, "activations", counting)
    harvest.harvest(run)
    assert {shard: shard.read_bytes() for shard in shards} == before
    assert run.is_finished("activations")
    assert 0 < len(set(texts)) < 0.4 * len(harvest.documents(run, held_out=False))


def test_a_cut_off_shard_and_a_cache_of_another_dimension_are_refused(
    tmp_path: Path, model_path: Path, corpus_path: Path
) -> None:
    run = make_run(tmp_path / "run", model_path, corpus_path)
    harvest.harvest(run)
    shard = run.activations / "evaluation" / "shard_00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"evaluation/shard_00000\.safetensors is damaged"):
        harvest.evaluation_cache(run)
    other = make_run(tmp_path / "other", build_model_folder(tmp_path / "wide", d=64), corpus_path)
    harvest.harvest(other)
    shutil.rmtree(run.activations)
    shutil.copytree(other.activations, run.activations)
    with pytest.raises(UserError, match="have dimension 64, those of this run 32; delete that folder"):
        harvest.train_source(run)


def test_text_is_read_again_until_there_is_enough(
    tmp_path: Path, model_path: Path, corpus_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harvest, "CHARS_PER_TOKEN", 0.5)
    run = make_run(tmp_path / "run", model_path, corpus_path)
    harvest.harvest(run)
    assert harvest.train_cache(run).rows > 1900


def test_a_small_corpus_is_used_whole(tmp_path: Path, model_path: Path) -> None:
    corpus = tmp_path / "two.txt"
    paragraphs = [text * 3 for text in sample_texts(2, seed=2, sentences=(4, 5))]
    corpus.write_text("\n\n".join(paragraphs))
    run = make_run(tmp_path / "run", model_path, corpus, train_tokens=10**6, index_tokens=10**6)
    harvest.harvest(run)
    assert len(harvest.documents(run, held_out=False)) == len(harvest.documents(run, held_out=True)) == 1
    assert run.facts("corpus")["index_tokens"] == harvest.train_cache(run).rows
    corpus.write_text("One text alone.")
    with pytest.raises(UserError, match="at least two are needed"):
        harvest.harvest(make_run(tmp_path / "one", model_path, corpus))


def test_about_one_text_in_ten_is_held_out() -> None:
    share = np.mean([harvest.is_held_out(f"text {number}") for number in range(5000)])
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / 5000) ** 0.5


def test_the_embedded_corpus_is_harvested(tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = partial(docstrings.read_passages, packages=("json", "email"))
    monkeypatch.setattr(docstrings, "read_passages", few)
    settings = {
        "model": {"name": str(model_path), "layer": 0, "context": 64},
        "data": {"train_tokens": 1000, "index_tokens": 500, "evaluation_tokens": 60},
        "training": {"device": "cpu"},
    }
    run = Run.create(tmp_path / "run", RunSettings.model_validate(settings))
    harvest.harvest(run)
    table = read_table(run.corpus.documents)
    assert set(table) == {"package", "module", "name", "kind"}
    assert set(table["package"]) <= {"json", "email"}


def test_a_model_too_large_for_the_memory_is_one_sentence(
    tmp_path: Path, model_path: Path, corpus_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", model_path, corpus_path)

    def full(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patched:
        patched.setattr(LanguageModel, "activations", full)
        with pytest.raises(UserError, match=r"^The memory of cpu is full; lower model\.batch_size or model\.context"):
            harvest.harvest(run)
    harvest.harvest(run)
    assert run.is_finished("activations")
