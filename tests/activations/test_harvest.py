"""Gathering on a small model and local text: the run folder's contents against the model itself, and resuming."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from models import build_model_folder, sample_texts
from transformers import AutoTokenizer

from sae_core.activations import harvest
from sae_core.activations.corpus import Corpus
from sae_core.activations.origins.language_model import choosing
from sae_core.activations.origins.language_model import reading as language_model
from sae_core.activations.origins.language_model.kept_passages import documents
from sae_core.activations.origins.language_model.reading import LanguageModel
from sae_core.activations.origins.text import docstrings
from sae_core.activations.origins.text.asked import asked_and_got, what_is_short
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_table, read_tensors, write_json, write_table
from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings

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


def make_run(folder: Path, model: Path, corpus: Path, *, text: dict[str, Any] | None = None, **changes: int) -> Run:
    data = {"train_tokens": 2000, "index_tokens": 700, "evaluation_tokens": 200, "dtype": "float32"} | changes
    settings = {
        "text": {"source": str(corpus), **(text or {})},
        "model": {"name": str(model), "layer": 1, "context": 40, "batch_size": 8},
        "data": data,
        "training": {"device": "cpu"},
    }
    return Run.create(folder, RunSettings.model_validate(settings))


def test_what_is_known_of_a_text_is_read_as_strictly_as_every_file(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", RunSettings())
    for metadata in ('{"a": "1"', '{"a": "1", "a": "2"}', "[" * 100_000):
        write_table(run.corpus.texts, pd.DataFrame({"text": ["x"], "metadata": [metadata], "held_out": [True]}))
        with pytest.raises(UserError, match=r"texts\.parquet is damaged .*; delete it and run the command again"):
            documents(run, held_out=True)


def test_a_run_holds_what_the_model_gives(tmp_path: Path, model_path: Path, corpus_path: Path) -> None:
    run = make_run(tmp_path / "run", model_path, corpus_path, text={"cut": "first"})
    ticks: list[Tick] = []
    harvest.harvest(run, progress=ticks.append)
    train, held_out = documents(run, held_out=False), documents(run, held_out=True)
    cache = harvest.train_cache(run)

    # The documents are the first that fit, split by the hash of their text.
    wanted = [text for text in TEXTS if not choosing.is_held_out(text)]
    assert [document.text for document in train] == wanted[: len(train)]
    assert [document.text for document in held_out] == [text for text in TEXTS if choosing.is_held_out(text)][
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
    assert set(read_tensors(run.corpus.lens)) == {"unembed_VD", "norm_weight_D", "centred"}
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
    assert 0 < len(set(texts)) < 0.4 * len(documents(run, held_out=False))


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
    monkeypatch.setattr(choosing, "CHARS_PER_TOKEN", 0.5)
    run = make_run(tmp_path / "run", model_path, corpus_path)
    harvest.harvest(run)
    assert harvest.train_cache(run).rows == 2000


def test_a_small_corpus_is_used_whole(tmp_path: Path, model_path: Path) -> None:
    corpus = tmp_path / "two.txt"
    paragraphs = [text * 3 for text in sample_texts(2, seed=2, sentences=(4, 5))]
    corpus.write_text("\n\n".join(paragraphs))
    run = make_run(tmp_path / "run", model_path, corpus, train_tokens=10**6, index_tokens=10**6)
    harvest.harvest(run)
    assert len(documents(run, held_out=False)) == len(documents(run, held_out=True)) == 1
    assert run.facts("corpus")["index_tokens"] == harvest.train_cache(run).rows
    assert run.facts("corpus")["held_out_by"] in ("document", "last_document")
    corpus.write_text("One text.")
    with pytest.raises(UserError, match="at least two are needed"):
        harvest.harvest(make_run(tmp_path / "one", model_path, corpus))


def test_about_one_text_in_ten_is_held_out() -> None:
    share = np.mean([choosing.is_held_out(f"text {number}") for number in range(5000)])
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / 5000) ** 0.5


def test_the_embedded_corpus_is_harvested(tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = partial(docstrings.iter_passages, packages=("json", "email"))
    monkeypatch.setattr(docstrings, "iter_passages", few)
    settings = {
        "model": {"name": str(model_path), "layer": 0, "context": 64},
        "data": {"train_tokens": 1000, "index_tokens": 500, "evaluation_tokens": 60},
        "training": {"device": "cpu"},
    }
    run = Run.create(tmp_path / "run", RunSettings.model_validate(settings))
    harvest.harvest(run)
    table = read_table(run.corpus.documents)
    assert set(table) == {"package", "module", "name", "kind", "document", "passage"}
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


def write_books(path: Path, count: int = 12, sentences: int = 160) -> list[str]:
    books = [" ".join(sample_texts(sentences, seed=100 + number, sentences=(1, 1))) for number in range(count)]
    rows = [{"text": book, "title": f"book {number}", "document": "own"} for number, book in enumerate(books)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return books


def test_long_documents_are_cut_into_passages_and_give_what_is_asked_for(tmp_path: Path, model_path: Path) -> None:
    corpus = tmp_path / "books.jsonl"
    books = write_books(corpus)
    run = make_run(tmp_path / "run", model_path, corpus)
    notes: list[str] = []
    harvest.harvest(run, progress=lambda tick: notes.append(tick.note))
    table, facts = read_table(run.corpus.texts), run.facts("corpus")
    for part, asked in (("train", 2000), ("evaluation", 200), ("index", 700)):
        assert facts[f"{part}_tokens"] == asked
    assert harvest.train_cache(run).rows == 2000
    assert harvest.evaluation_cache(run).rows == 200
    assert not any(notes)

    # A passage stands in its document, and no document is on both sides.
    assert table["tokens"].max() == 39  # and BOS
    for row in table.itertuples():
        assert row.text in books[row.document - 1]
        assert choosing.is_held_out(books[row.document - 1]) == row.held_out
    train, held_out = table[~table["held_out"]], table[table["held_out"]]
    assert not set(train["document"]) & set(held_out["document"])
    assert train["document"].nunique() == sum(not choosing.is_held_out(book) for book in books)
    for _, passages in table.groupby("document"):
        assert passages["passage"].tolist() == list(range(1, len(passages) + 1))
        text = books[passages["document"].iloc[0] - 1]
        assert "".join(passages["text"]) == text[: sum(map(len, passages["text"]))]
    # By turns: the documents' numbers of passages differ by one at most.
    counts = train["document"].value_counts()
    assert counts.max() - counts.min() <= 1

    indexed = read_table(run.corpus.documents)
    assert indexed["document"].tolist() == train["document"].tolist()[: len(indexed)]
    assert indexed["title"].tolist() == [f"book {number - 1}" for number in indexed["document"]]
    assert set(indexed["document (column)"]) == {"own"}
    assert [document.text for document in documents(run, held_out=True)] == held_out["text"][
        held_out["passage"] == 1
    ].tolist()
    corpus_opened = Corpus.open(run)
    assert corpus_opened.metadata(1)["passage"] == 2
    assert list(corpus_opened.labels) == ["source", "row", "title", "document (column)"]
    assert corpus_opened.source_documents.tolist() == indexed["document"].tolist()


def test_one_document_is_divided_and_that_is_said(tmp_path: Path, model_path: Path) -> None:
    corpus = tmp_path / "book.csv"
    pd.DataFrame({"text": [" ".join(sample_texts(150, seed=5, sentences=(1, 1)))]}).to_csv(corpus, index=False)
    run = make_run(tmp_path / "run", model_path, corpus)
    notes: list[str] = []
    harvest.harvest(run, progress=lambda tick: notes.append(tick.note))
    table, facts = read_table(run.corpus.texts), run.facts("corpus")
    train, held_out = table[~table["held_out"]], table[table["held_out"]]
    assert train["passage"].max() < held_out["passage"].min()
    assert 0.05 < held_out["tokens"].sum() / table["tokens"].sum() < 0.2
    assert facts["held_out_by"] == "last_part"
    assert "its last part is held out" in asked_and_got(run.settings, facts)
    short = what_is_short(run.settings, facts)
    assert short.startswith(f"The text gives {facts['train_tokens']:,} of the 2,000 training tokens asked for")
    assert short.endswith("; give more text, or lower data.train_tokens and data.evaluation_tokens.")
    assert [note for note in notes if note] == [short]


def test_the_first_tokens_alone_are_read_where_that_is_asked_for(tmp_path: Path, model_path: Path) -> None:
    corpus = tmp_path / "books.jsonl"
    books = write_books(corpus)
    run = make_run(tmp_path / "run", model_path, corpus, text={"cut": "first"})
    harvest.harvest(run)
    table, facts = read_table(run.corpus.texts), run.facts("corpus")
    assert set(table["text"]) == set(books)
    assert table["tokens"].tolist() == [39] * len(books)
    model = LanguageModel.load(run.settings.model)
    assert facts["cut_tokens"] == sum(model.count_tokens(books)) - 39 * len(books)
    assert f"{facts['cut_tokens']:,} tokens behind the first 40 of a document were cut off" in asked_and_got(
        run.settings, facts
    )
    assert "set text.cut to passages" in what_is_short(run.settings, facts)


def test_a_passage_that_is_trained_on_is_not_held_out(tmp_path: Path, model_path: Path) -> None:
    header = " ".join(sample_texts(8, seed=1, sentences=(1, 1))) + " "
    corpus = tmp_path / "books.jsonl"
    books = write_books(corpus)
    corpus.write_text("\n".join(json.dumps({"text": header + book}) for book in books))
    run = make_run(tmp_path / "run", model_path, corpus)
    harvest.harvest(run)
    table = read_table(run.corpus.texts)
    train, held_out = (set(table["text"][table["held_out"] == side]) for side in (False, True))
    assert not train & held_out
    assert any(header.startswith(text) for text in train)


def test_texts_that_begin_alike_are_not_on_both_sides_where_the_first_tokens_are_read(
    tmp_path: Path, model_path: Path
) -> None:
    long, corpus = " ".join(sample_texts(30, seed=1, sentences=(1, 1))), tmp_path / "heads.jsonl"
    alike = [f"{long} {text}" for text in sample_texts(60, seed=2)]
    mixed = [text for pair in zip(alike, sample_texts(60, seed=3), strict=True) for text in pair]
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in mixed))
    run = make_run(tmp_path / "run", model_path, corpus, text={"cut": "first"})
    harvest.harvest(run)
    model = LanguageModel.load(run.settings.model)
    table = read_table(run.corpus.texts)
    tokens = [ids.tobytes() for ids in model.token_ids(table["text"].tolist())]
    train, held_out = ({tokens[row] for row in np.flatnonzero(table["held_out"] == side)} for side in (False, True))
    assert not train & held_out
    assert run.facts("corpus")["repeated_passages"] == 0

    corpus.write_text("\n".join(json.dumps({"text": text}) for text in alike))
    same = make_run(tmp_path / "same", model_path, corpus, text={"cut": "first"})
    harvest.harvest(same)
    facts = same.facts("corpus")
    assert facts["repeated_passages"] == facts["evaluation_documents"] > 0
    assert "also stand" in asked_and_got(same.settings, facts)


def test_a_run_of_an_older_version_goes_on_as_it_was(tmp_path: Path, model_path: Path, corpus_path: Path) -> None:
    run = make_run(tmp_path / "run", model_path, corpus_path, text={"cut": "first"})
    harvest.harvest(run)
    settings = run.settings
    manifest = run.read_manifest()
    del manifest["settings"]["text"]["cut"]
    for key in [key for key in manifest["finished"]["corpus"] if "passages" in key or key.startswith("held_out")]:
        del manifest["finished"]["corpus"][key]
    write_json(run.manifest_path, manifest)
    for path in (run.corpus.texts, run.corpus.documents):
        write_table(path, read_table(path).drop(columns=["document", "passage"]))
    before = harvest.train_cache(run).fingerprint
    shutil.rmtree(run.activations)

    opened = Run.open(run.path)
    assert opened.settings == settings
    assert Run.create(run.path, settings).settings == settings
    harvest.harvest(opened)
    assert harvest.train_cache(opened).fingerprint == before
    corpus = Corpus.open(opened)
    assert corpus.source_documents.tolist() == list(range(len(corpus.documents)))
    assert "passage" not in corpus.metadata(0)
    said = asked_and_got(opened.settings, opened.facts("corpus"))
    assert said.startswith("Text, at most the first 40 tokens of each document: ")
    with pytest.raises(UserError, match=r"text\.cut is 'first' there, 'passages' here"):
        make_run(run.path, model_path, corpus_path)
