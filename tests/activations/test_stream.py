"""Streamed activations: the same rows as the cache, shuffled across texts, and the same from any batch on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import build_model_folder, sample_texts
from torch import Tensor

from sae_core.activations.harvest import harvest, train_cache, train_source
from sae_core.activations.origins.language_model.reading import ActivationBatch, LanguageModel
from sae_core.activations.origins.language_model.streaming import StreamedActivations, _Stopped
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import ModelSettings, RunSettings
from sae_core.training.prefetch import Prefetched, Waiting
from sae_core.training.source import SlowBatches
from sae_core.training.train import train_run

TEXTS = sample_texts(80, seed=3)
BATCH = 32


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(model_path: Path) -> LanguageModel:
    return LanguageModel.load(ModelSettings(name=str(model_path), layer=1, context=40))


def stream_of(model: LanguageModel, *, shuffle_bytes: int) -> StreamedActivations:
    tokens = np.array([len(ids) for ids in model.token_ids(TEXTS)])
    mean = torch.zeros(model.d_model, dtype=torch.float64)
    return StreamedActivations(TEXTS, tokens, lambda: model, mean_D=mean, scale=1.0, shuffle_bytes=shuffle_bytes)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_activation_that_is_not_finite_is_refused(
    model: LanguageModel, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LanguageModel.activations

    def broken(self: LanguageModel, *arguments: Any, **options: Any) -> Iterator[ActivationBatch]:
        for batch in real(self, *arguments, **options):
            batch.acts_PTD[0, -1, 0] = value
            yield batch

    monkeypatch.setattr(LanguageModel, "activations", broken)
    with pytest.raises(UserError, match=r"an activation that is not a number; choose another layer or model\.$"):
        next(stream_of(model, shuffle_bytes=2**24).batches(batch_size=BATCH, seed=0))


def nearest(rows: Tensor, acts: Tensor) -> Tensor:
    """The row of ``acts`` that each of ``rows`` is, up to what padding does to the last digits."""
    distances = torch.cdist(rows.double(), acts.double())
    assert distances.min(dim=1).values.max() < 1e-4
    return distances.argmin(dim=1)


# Of the chunk sizes, the first holds a whole pass, the second five batches and the third less than one.
@pytest.mark.parametrize("shuffle_bytes", [2**24, 5 * BATCH * 32 * 4, 1])
def test_a_pass_gives_every_row_once_in_another_order(model: LanguageModel, shuffle_bytes: int) -> None:
    acts = torch.cat([batch.acts_TD for batch in model.activations(TEXTS)])
    stream = stream_of(model, shuffle_bytes=shuffle_bytes)
    assert (stream.rows, stream.d_in) == tuple(acts.shape)
    per_pass = stream.rows // BATCH
    both = list(islice(stream.batches(batch_size=BATCH, seed=0), 2 * per_pass))
    passes = [torch.cat(both[:per_pass]), torch.cat(both[per_pass:])]
    assert all(len(batch) == BATCH for batch in both)
    places = [nearest(rows, acts) for rows in passes]
    for found in places:
        # Equal activations (the same first words) have one nearest row, so counts are compared by value.
        left_out = torch.tensor([row for row in range(len(acts)) if not (acts[row] == acts[found]).all(dim=1).any()])
        assert len(left_out) <= stream.rows - per_pass * BATCH
    assert (places[0] != places[1]).float().mean() > 0.8
    assert (places[0][1:] - places[0][:-1] == 1).float().mean() < 0.1 or shuffle_bytes == 1


def test_a_batch_mixes_texts(model: LanguageModel) -> None:
    acts = torch.cat([batch.acts_TD for batch in model.activations(TEXTS)])
    document = np.repeat(np.arange(len(TEXTS)), [len(ids) for ids in model.token_ids(TEXTS)])
    batch = next(stream_of(model, shuffle_bytes=2**24).batches(batch_size=BATCH, seed=1))
    assert len(set(document[nearest(batch, acts)])) > BATCH // 3


def test_any_batch_can_be_the_first(model: LanguageModel) -> None:
    stream = stream_of(model, shuffle_bytes=5 * BATCH * 32 * 4)
    steps = stream.rows // BATCH + 9  # into the second pass
    all_of_them = list(islice(stream.batches(batch_size=BATCH, seed=2), steps))
    for first in (0, 3, 5, 11, stream.rows // BATCH, steps - 1):
        again = next(
            stream_of(model, shuffle_bytes=5 * BATCH * 32 * 4).batches(batch_size=BATCH, seed=2, first_step=first)
        )
        assert torch.equal(again, all_of_them[first]), first
    other = next(stream.batches(batch_size=BATCH, seed=3))
    assert not torch.equal(other, all_of_them[0])


@pytest.mark.parametrize("wanted", [3, 1000])
def test_chunks_are_read_in_advance_and_given_up_at_once(model: LanguageModel, wanted: int) -> None:
    """With 3 batches wanted the thread ends by itself; with many it is stopped in the midst of a chunk."""
    plain = stream_of(model, shuffle_bytes=5 * BATCH * 32 * 4).batches(batch_size=BATCH, seed=2)
    batches = stream_of(model, shuffle_bytes=5 * BATCH * 32 * 4).batches(batch_size=BATCH, seed=2)
    assert isinstance(batches, SlowBatches)
    assert batches.ahead == 5
    waiting, threads = Waiting(), threading.active_count()
    device = torch.device("cpu")
    with Prefetched(batches, count=wanted, device=device, waiting=waiting, ahead=batches.ahead) as ready:
        for _ in range(3):
            assert torch.equal(next(ready), next(plain))
    assert threading.active_count() == threads


def test_a_chunk_that_nobody_wants_is_not_read_to_its_end(model: LanguageModel) -> None:
    batches = stream_of(model, shuffle_bytes=2**24).batches(batch_size=BATCH, seed=2)
    batches.stop()
    with pytest.raises(_Stopped):
        next(batches)


def test_too_little_text_is_said(model: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"training\.batch_size \(100000\)"):
        next(stream_of(model, shuffle_bytes=1).batches(batch_size=100_000, seed=0))


def test_a_run_trains_on_a_stream_and_keeps_only_the_indexed_part(tmp_path: Path, model_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in sample_texts(150, seed=9)))
    settings = {
        "text": {"source": str(corpus)},
        "model": {"name": str(model_path), "layer": 1, "context": 40, "batch_size": 8},
        "data": {"train_tokens": 2000, "index_tokens": 700, "evaluation_tokens": 200, "storage": "stream"},
        "sae": {"width": 64, "k": 4},
        "training": {"device": "cpu", "methods": ["boosted"], "members": 2, "tokens": 3000, "batch_size": 64},
    }
    run = Run.create(tmp_path / "run", RunSettings.model_validate(settings))
    harvest(run)
    # Whole passages are kept, of which the last is indexed in part.
    assert run.facts("corpus")["tokens"] == 700 <= train_cache(run).rows < 700 + 40
    source = train_source(run)
    assert source.rows == run.facts("corpus")["train_tokens"] > 1500
    train_run(run)
    assert run.is_finished("train/boosted")
