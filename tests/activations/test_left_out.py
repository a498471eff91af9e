"""Massive activations are measured and said, and tokens are left out alike of all that is learned and measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import build_model, build_tokenizer, sample_texts

from sae_core.activations import harvest
from sae_core.activations.corpus import Corpus
from sae_core.activations.massive import about_activations, measure_massive
from sae_core.activations.origins.language_model.left_out import LeftOut, chosen_ids
from sae_core.activations.origins.language_model.reading import LanguageModel
from sae_core.activations.origins.language_model.substitution import SubstitutedModel
from sae_core.activations.sharing import activations_key, share_activations
from sae_core.activations.stages import ACTIVATIONS
from sae_core.activations.store.left_out import left_out_rows
from sae_core.activations.store.piles import deal
from sae_core.analysis.index.activation_index import ActivationIndex, build_index
from sae_core.analysis.live_text import TextReader, read_text
from sae_core.analysis.reconstruction.held_out import held_out_documents
from sae_core.analysis.spurious import removal
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.sae.topk import TopKSAE

MASSIVE = "."
"""The token that the small model gives an activation of some hundred times the usual norm."""


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer, model = build_tokenizer(), build_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[chosen_ids(tokenizer, [MASSIVE])[0]] *= 1000
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    corpus = tmp_path_factory.mktemp("text") / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in sample_texts(120, seed=9)))

    def run(folder: Path, *, gather: bool = True, **data: Any) -> Run:
        sizes = {"train_tokens": 2000, "index_tokens": 700, "evaluation_tokens": 200, "dtype": "float32"}
        settings = {
            "text": {"source": str(corpus)},
            "model": {"name": str(model_path), "layer": 1, "context": 40},
            "data": sizes | data,
            "training": {"device": "cpu"},
        }
        made = Run.create(folder, RunSettings.model_validate(settings))
        if gather:
            harvest.harvest(made)
        return made

    return run


@pytest.fixture(scope="module")
def plain(make: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make(tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture(scope="module")
def without(make: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make(tmp_path_factory.mktemp("runs") / "without", largest_norm=10)


def massive_rows(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """(all rows in float64, which of them the chosen token has), from the model itself."""
    cache = harvest.train_cache(run)
    acts_RD = cache.read(0, cache.rows).double().numpy()
    norms = np.linalg.norm(acts_RD, axis=1)
    return acts_RD, norms > 10 * np.median(norms)


def test_what_few_tokens_and_one_dimension_carry_is_measured_and_said(plain: Run, without: Run) -> None:
    found, (acts_RD, massive_R) = ACTIVATIONS.facts(plain)["massive"], massive_rows(plain)
    energy_R = np.sort((acts_RD**2).sum(1))
    variance_D = acts_RD.var(axis=0)
    assert massive_R.any()
    assert (found["rows"], found["largest_rows"]) == (2000, 2)
    assert found["largest_rows_energy"] == pytest.approx(energy_R[-2:].sum() / energy_R.sum())
    assert found["norm_ratio"] == pytest.approx(energy_R[-1] ** 0.5 / np.median(energy_R**0.5), rel=1e-3)
    assert found["dimension"] == variance_D.argmax()
    assert found["dimension_variance"] == pytest.approx(variance_D.max() / variance_D.sum())
    planted = {**found, "largest_rows_energy": 0.87}
    (said,) = [one for one in about_activations({"massive": planted}) if one.startswith("Massive")]
    assert "2 of 2,000 rows" in said
    assert "87% of the energy" in said
    few = {**found, "largest_rows_energy": 0.09, "dimension_variance": 0.09}
    assert about_activations({"massive": few}) == about_activations({}) == []
    out = ACTIVATIONS.facts(without)["left_out"]
    assert out["train"]["rows"] == massive_R.sum()
    assert out["train"]["energy"] == pytest.approx((acts_RD[massive_R] ** 2).sum() / (acts_RD**2).sum())
    (left, *_) = about_activations(ACTIVATIONS.facts(without))
    assert f"{massive_R.sum():,} of 2,000 training tokens" in left


def test_training_and_held_out_figures_lack_the_tokens_and_the_corpus_keeps_them(plain: Run, without: Run) -> None:
    acts_RD, massive_R = massive_rows(without)
    assert np.array_equal(acts_RD, massive_rows(plain)[0])  # each position has its own activation still
    learned = harvest.learned_cache(without)
    kept_RD = acts_RD[~massive_R]
    assert np.array_equal(learned.read(0, learned.rows).double().numpy(), kept_RD)
    assert np.array_equal(learned.take(np.array([5, 3])).double().numpy(), kept_RD[[5, 3]])
    assert learned.mean_D.numpy() == pytest.approx(kept_RD.mean(0))
    assert learned.scale == pytest.approx((kept_RD.shape[1] / (kept_RD**2).sum(1).mean()) ** 0.5)
    largest = np.linalg.norm(kept_RD, axis=1).max()
    dealt = deal(learned, without.dealt, seed=0, pile_bytes=20_000)
    assert dealt.rows == learned.rows
    assert dealt.scale == learned.scale
    for source in (harvest.train_source(without), dealt):
        batches = source.batches(batch_size=100, seed=0)
        rows = np.concatenate([next(batches).numpy() for _ in range(learned.rows // 100)])
        assert np.linalg.norm(rows, axis=1).max() <= largest * 1.000001
        assert np.isin(rows[:, 0], kept_RD[:, 0].astype(np.float32)).all()
    held_out = harvest.evaluation_cache(without)
    documents = held_out_documents(without, held_out.rows)
    assert documents is not None
    assert len(documents) == held_out.rows < harvest.evaluation_cache(plain).rows
    assert harvest.learned_cache(plain).rows == 2000
    assert not len(left_out_rows(plain.activations / "train"))


def test_a_stream_draws_others_in_their_place(make: Callable[..., Run], tmp_path: Path, without: Run) -> None:
    run = make(tmp_path / "run", largest_norm=10, storage="stream")
    limit = ACTIVATIONS.facts(run)["left_out"]["limit"]
    assert limit == pytest.approx(ACTIVATIONS.facts(without)["left_out"]["limit"], rel=0.2)  # of fewer rows
    source = harvest.train_source(run)
    batches = source.batches(batch_size=250, seed=0)
    norms = np.linalg.norm(np.concatenate([next(batches).numpy() for _ in range(8)]), axis=1)
    assert len(norms) == 2000
    assert norms.max() <= limit


def test_no_feature_fires_on_a_token_that_is_left_out(tmp_path: Path, without: Run) -> None:
    cache, tokens = harvest.train_cache(without), len(Corpus.open(without))
    torch.manual_seed(0)
    ensemble = Ensemble([TopKSAE(cache.d_in, 40, k=4)], wiring="parallel")
    out_R = left_out_rows(cache.folder)
    for name, left in (("all", np.empty(0, np.int64)), ("kept", out_R)):
        build_index(ensemble, cache.read, tokens, tmp_path / name, left_out=left)
    full, kept = (ActivationIndex.open(tmp_path / name) for name in ("all", "kept"))
    stays_E = ~np.isin(full.positions, out_R)
    assert not stays_E.all()
    assert np.array_equal(kept.positions, full.positions[stays_E])
    assert np.array_equal(kept.values, full.values[stays_E])


def test_texts_are_pooled_and_put_back_without_them(without: Run) -> None:
    rule, settings = LeftOut.of(without), without.settings.model
    texts = sample_texts(6, seed=4)
    model = LanguageModel.load(settings)
    (batch,) = model.activations(texts)
    own = rule.batch(batch)
    massive_T = (batch.acts_TD.norm(dim=1) > rule.limit).numpy()
    assert own.kept_T is not None
    assert np.array_equal(own.kept_T, ~massive_T)
    assert massive_T.any()
    assert torch.equal(own.acts_TD, batch.acts_TD[~massive_T])
    assert torch.equal(own.document_T, batch.document_T[~massive_T])
    read = read_text(without, TextReader(settings, device="cpu"), texts[0])
    assert read.left_T is not None
    assert read.left_T.sum() == massive_T[batch.document_T == 0].sum()
    (whole,) = SubstitutedModel.load(settings).passages(texts, tokens=10**6)
    (part,) = SubstitutedModel.load(settings, left_out=rule).passages(texts, tokens=10**6)
    assert len(part.acts_TD) == len(whole.acts_TD) - massive_T.sum()
    # A text ends with the token, from which nothing was predicted anyway.
    last_T = np.append(np.diff(batch.document_T.numpy()) > 0, True)
    assert part.predicted_B.sum() == whole.predicted_B.sum() - (massive_T & ~last_T).sum()
    assert part.substitute(part.acts_TD).kl_B == pytest.approx(np.zeros(6), abs=1e-4)


def test_chosen_tokens_are_found_by_id_and_by_what_they_read(
    make: Callable[..., Run], tmp_path: Path, without: Run
) -> None:
    tokenizer = build_tokenizer()
    (dot,) = chosen_ids(tokenizer, [MASSIVE])
    assert chosen_ids(tokenizer, [dot, MASSIVE]) == (dot,)
    the = tokenizer.get_vocab()["Ġthe"]
    assert chosen_ids(tokenizer, [" the"]) == chosen_ids(tokenizer, ["Ġthe"]) == (the,)
    run = make(tmp_path / "run", leave_out=[MASSIVE])
    tokens = Corpus.open(run).tokens
    out_R = left_out_rows(run.activations / "train")
    assert np.array_equal(out_R[out_R < len(tokens)], np.flatnonzero(tokens == dot))
    for tokens_asked in (["no such token"], [10**6]):
        with pytest.raises(UserError, match=r"data\.leave_out names .*vocabulary has no such token"):
            chosen_ids(tokenizer, tokens_asked)
    with pytest.raises(ValueError, match="leaves out tokens of a text"):
        RunSettings.model_validate({"origin": {"kind": "known"}, "data": {"largest_norm": 5}})
    kept = without.settings
    assert activations_key(kept) != activations_key(run.settings)
    other = make(tmp_path / "other", gather=False, largest_norm=10)
    assert activations_key(kept) == activations_key(other.settings)
    share_activations(without, [other])
    assert harvest.learned_cache(other).fingerprint == harvest.learned_cache(without).fingerprint


def test_of_a_large_cache_some_rows_are_looked_at(monkeypatch: pytest.MonkeyPatch, plain: Run) -> None:
    monkeypatch.setattr("sae_core.activations.massive._BLOCKS", 3)
    monkeypatch.setattr("sae_core.activations.massive._BLOCK_ROWS", 100)
    assert measure_massive(harvest.train_cache(plain))["rows"] == 300


def test_marked_characters_stay_those_of_their_tokens(without: Run) -> None:
    texts = sample_texts(4, seed=8)
    model, rule = LanguageModel.load(without.settings.model), LeftOut.of(without)
    (batch,) = model.activations(texts)
    marked = [[(0, 9)]] * 4
    spans = model.char_spans(texts)
    (whole,) = removal._split_marked([batch], marked, spans)
    (part,) = removal._split_marked([rule.batch(batch)], marked, spans)
    kept_T = whole.acts_TD.norm(dim=1) <= rule.limit
    assert not kept_T.all()
    assert torch.equal(part.acts_TD, whole.acts_TD[kept_T])
    assert torch.equal(part.document_T, whole.document_T[kept_T])
