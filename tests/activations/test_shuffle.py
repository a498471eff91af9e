"""Shuffling on disk: every row once per pass, a start at any batch, and as random as a permutation of all rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import build_model_folder, sample_texts
from numpy.typing import NDArray

from sae_core.activations import harvest
from sae_core.activations.store import piles as dealt
from sae_core.activations.store import shuffle
from sae_core.activations.store.cache import ActivationCache, CacheWriter, Dtype
from sae_core.activations.store.piles import deal
from sae_core.activations.store.shuffle import draw_piles
from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.runs import pipeline
from sae_core.training.train import train_run

DOCUMENTS, TOKENS, BATCH = 400, 20, 250
ROWS = DOCUMENTS * TOKENS
PER_PASS = ROWS // BATCH


def numbered(folder: Path, rows: int = ROWS, *, dtype: Dtype = "float32") -> ActivationCache:
    """A cache in which each row holds its own number."""
    writer = CacheWriter(folder, d_in=2, dtype=dtype, contents="numbers", shard_rows=700)
    for first in range(0, rows, 350):
        writer.append(torch.arange(first, min(rows, first + 350)).float()[:, None].expand(-1, 2))
    return writer.finish()


@pytest.fixture
def cache(tmp_path: Path) -> ActivationCache:
    return numbered(tmp_path / "train")


@pytest.fixture
def piles(cache: ActivationCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ActivationCache:
    """The cache, dealt to eight piles in three portions."""
    monkeypatch.setattr(dealt, "DEALT_AT_ONCE", 3000 * 8)
    return deal(cache, tmp_path / "dealt", seed=5, pile_bytes=ROWS * 8 // 8)


def drawn(cache: ActivationCache, count: int, *, seed: int = 0, first_step: int = 0) -> list[NDArray[np.int64]]:
    batches = cache.batches(batch_size=BATCH, seed=seed, first_step=first_step)
    return [batch[:, 0].long().numpy() for batch in islice(batches, count)]


def test_dealing_keeps_every_row_and_what_is_known_of_them(cache: ActivationCache, piles: ActivationCache) -> None:
    assert sorted(piles.read(0, ROWS)[:, 0].tolist()) == list(range(ROWS))
    assert piles.piles is not None
    assert (len(piles.piles), sum(piles.piles)) == (8, ROWS)
    assert (piles.scale, piles.mean_D.tolist()) == (cache.scale, cache.mean_D.tolist())
    assert piles.fingerprint != cache.fingerprint
    # A pile of 1000 rows takes them from all over the cache.
    for pile in piles.read(0, ROWS)[:, 0].split(piles.piles):
        assert np.bincount(pile.numpy().astype(int) // (ROWS // 4)).min() > 180


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_numbers_are_copied_bit_by_bit(tmp_path: Path, dtype: Dtype) -> None:
    cache = numbered(tmp_path / "train", 2000, dtype=dtype)
    copy = deal(cache, tmp_path / "dealt", seed=0, pile_bytes=2000)
    assert copy.dtype == dtype
    assert torch.equal(copy.read(0, 2000).sort(dim=0).values, cache.read(0, 2000).sort(dim=0).values)


def test_rows_are_dealt_once(cache: ActivationCache, piles: ActivationCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dealt, "writing_tensors", lambda *_: pytest.fail("they were dealt again"))
    again = deal(cache, piles.folder, seed=5, pile_bytes=ROWS * 8 // 8)
    assert again.fingerprint == piles.fingerprint


def test_interrupted_dealing_begins_again_with_the_same_result(cache: ActivationCache, piles: ActivationCache) -> None:
    """As after an interruption between the shards and the manifest, and as for another seed."""
    before = piles.read(0, ROWS)
    (piles.folder / "meta.json").unlink()
    assert torch.equal(deal(cache, piles.folder, seed=5, pile_bytes=ROWS).read(0, ROWS), before)
    assert not torch.equal(deal(cache, piles.folder, seed=6, pile_bytes=ROWS).read(0, ROWS), before)


def test_every_pass_draws_all_rows_once_in_a_new_order(piles: ActivationCache) -> None:
    rows = np.concatenate(drawn(piles, 2 * PER_PASS)).reshape(2, -1)
    for each in rows:
        assert sorted(each) == list(range(ROWS))
    assert (rows[0] == rows[1]).mean() < 0.01


def test_any_batch_can_be_the_first(piles: ActivationCache) -> None:
    whole = drawn(piles, 2 * PER_PASS + 3, seed=7)
    for first in (0, 1, 3, 4, 5, 8, PER_PASS - 1, PER_PASS, PER_PASS + 9):
        for here, there in zip(drawn(piles, 3, seed=7, first_step=first), whole[first:], strict=False):
            assert np.array_equal(here, there), first
    assert not np.array_equal(np.concatenate(drawn(piles, 4, seed=8)), np.concatenate(whole[:4]))


@pytest.mark.parametrize("sizes", [[7], [3, 0, 4], [1] * 7, [2, 5]])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_small_and_empty_piles_and_batches_larger_than_piles(sizes: Sequence[int], batch_size: int) -> None:
    stored = np.arange(7)[:, None]
    per_pass = 7 // batch_size
    batches = [
        batch[:, 0].tolist()
        for batch in islice(draw_piles(lambda a, b: stored[a:b], sizes, batch_size=batch_size, seed=1), 2 * per_pass)
    ]
    for one_pass in (batches[:per_pass], batches[per_pass:]):
        assert all(len(batch) == batch_size for batch in one_pass)
        assert len({row for batch in one_pass for row in batch}) == per_pass * batch_size
    for first, expected in enumerate(batches):
        again = draw_piles(lambda a, b: stored[a:b], sizes, batch_size=batch_size, seed=1, first_step=first)
        assert next(again)[:, 0].tolist() == expected


def test_no_more_is_in_memory_than_the_piles_that_are_mixed_and_those_that_follow(piles: ActivationCache) -> None:
    """Rows read minus rows drawn are the rows in memory."""
    assert piles.piles is not None
    read = 0

    def counting(start: int, stop: int) -> NDArray[np.float32]:
        nonlocal read
        read += stop - start
        return piles.stored(start, stop)

    most = 0
    for number, _ in enumerate(islice(draw_piles(counting, piles.piles, batch_size=BATCH, seed=0), PER_PASS)):
        most = max(most, read - number * BATCH)
    assert most <= shuffle.PILES_AT_ONCE * max(piles.piles) * 1.3
    assert read == ROWS


# --- how random it is


def distinct_documents(batches: Sequence[NDArray[np.int64]]) -> float:
    return float(np.mean([len(set(batch // TOKENS)) for batch in batches]))


def autocorrelation(batches: Sequence[NDArray[np.int64]], lag: int) -> float:
    """Of the mean row numbers of successive batches: an order by place would show in it."""
    means = np.array([batch.mean() for batch in batches])
    means -= means.mean()
    return float((means[lag:] * means[:-lag]).mean() / means.var())


def clumping(batches: Sequence[NDArray[np.int64]], parts: int = 8) -> float:
    """How unevenly a document's rows fall to the parts of a pass: χ² over all documents, in standard deviations."""
    part = np.arange(ROWS) * parts // ROWS
    counts = np.zeros((DOCUMENTS, parts))
    np.add.at(counts, (np.concatenate(batches) // TOKENS, part), 1)
    expected, degrees = TOKENS / parts, (DOCUMENTS - 1) * (parts - 1)
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / (2 * degrees) ** 0.5)


def test_it_is_as_random_as_a_permutation_of_all_rows(cache: ActivationCache, piles: ActivationCache) -> None:
    """And the figures would tell: neighbours that lie in a pile, as rows do that were not dealt, fail."""
    for seed in range(3):
        full, mixed = drawn(cache, PER_PASS, seed=seed), drawn(piles, PER_PASS, seed=seed)
        # With 250 rows of 400 documents a batch has 400 · (1 − (1 − 1/400)^250) = 186 of them, or a few more.
        assert distinct_documents(mixed) == pytest.approx(distinct_documents(full), abs=3)
        assert distinct_documents(mixed) == pytest.approx(188, abs=4)
        for lag in (1, 2, 4):
            assert abs(autocorrelation(mixed, lag)) < 4 / PER_PASS**0.5
        assert abs(clumping(full)) < 4
        assert abs(clumping(mixed)) < 4
    neighbours = [
        batch[:, 0].astype(int)
        for batch in islice(draw_piles(cache.stored, [1000] * 8, batch_size=BATCH, seed=0), PER_PASS)
    ]
    assert distinct_documents(neighbours) < 110
    assert clumping(neighbours) > 100


def test_every_row_comes_first_equally_often(tmp_path: Path) -> None:
    """Over 100 dealings of 12 rows to piles, each row is in the first third a third of the times."""
    cache = numbered(tmp_path / "train", 12)
    counts = np.zeros(12)
    for seed in range(100):
        copy = deal(cache, tmp_path / "dealt", seed=seed, pile_bytes=24)
        first = next(copy.batches(batch_size=4, seed=seed))
        counts[first[:, 0].long().numpy()] += 1
    assert np.abs(counts - 100 / 3).max() < 4 * (100 * 2 / 9) ** 0.5


# --- runs


def make_run(folder: Path, model: Path, corpus: Path, **data: str) -> Run:
    settings = {
        "text": {"source": str(corpus)},
        "model": {"name": str(model), "layer": 1, "context": 40, "batch_size": 8},
        "data": {"train_tokens": 2000, "index_tokens": 700, "evaluation_tokens": 200, **data},
        "sae": {"width": 64, "k": 4},
        "training": {"device": "cpu", "methods": ["boosted"], "members": 2, "tokens": 6000, "batch_size": 64},
    }
    return Run.create(folder, RunSettings.model_validate(settings))


def test_a_damaged_pile_is_named_and_made_again(cache: ActivationCache, piles: ActivationCache) -> None:
    pile = sorted(piles.folder.glob("*.safetensors"))[3]
    whole = pile.read_bytes()
    options: dict[str, Any] = {"seed": 5, "pile_bytes": ROWS * 8 // 8}
    for content in (whole[:-8] + bytes(8), whole[:-8]):
        pile.write_bytes(content)
        with pytest.raises(UserError, match=rf"{pile.name} .*is damaged .*delete .*run the command again"):
            deal(cache, piles.folder, **options)
        pile.unlink()
        assert deal(cache, piles.folder, **options).fingerprint == piles.fingerprint
        assert pile.read_bytes() == whole


def stop(tick: Tick) -> None:
    if tick.stage.startswith("train"):
        raise KeyboardInterrupt


def test_a_run_shuffles_on_disk_where_memory_is_short_and_keeps_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model_folder(tmp_path / "model")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in sample_texts(150, seed=9)))
    monkeypatch.setattr(dealt, "PILE_BYTES", 30_000)
    plenty = make_run(tmp_path / "plenty", model, corpus)
    harvest.harvest(plenty)
    assert harvest.train_source(plenty).piles is None
    forced = make_run(tmp_path / "forced", model, corpus, shuffle="disk")
    harvest.harvest(forced)
    monkeypatch.setattr(dealt, "free_host_memory", lambda: 100_000)
    short = make_run(tmp_path / "short", model, corpus)
    harvest.harvest(short)
    monkeypatch.undo()
    monkeypatch.setattr(dealt, "PILE_BYTES", 30_000)
    assert short.facts("activations")["shuffle"] == forced.facts("activations")["shuffle"] == "disk"
    begun = [harvest.train_source(run).piles is not None for run in (short, forced)]
    assert begun == [True, True]
    with pytest.raises(KeyboardInterrupt):
        train_run(forced, progress=stop, checkpoint_seconds=0.0)
    assert forced.dealt.exists()  # whoever goes on needs it
    train_run(short)  # residuals are kept on disk here and drawn in the same order
    train_run(forced)
    assert not short.dealt.exists()
    assert not forced.dealt.exists()
    one, two = ((run.ensemble("boosted").member(1) / "sae_weights.safetensors").read_bytes() for run in (short, forced))
    assert one == two
    assert harvest.train_cache(short).fingerprint == harvest.train_cache(plenty).fingerprint
    # Killed before it was removed; and what needs the piles again has the same ones.
    short.dealt.mkdir()
    pipeline.train(short)
    assert not short.dealt.exists()
    weights = short.ensemble("boosted").member(1) / "sae_weights.safetensors"
    weights.unlink()
    pipeline.train(short)
    assert weights.read_bytes() == one
    assert not short.dealt.exists()
