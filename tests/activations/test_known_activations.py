"""Activations from a known dictionary: their statistics against closed forms, seeds, and runs made of them."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import assert_same_training

from sae_core.activations.harvest import evaluation_cache, train_cache, train_source
from sae_core.activations.origins.known.dictionary import (
    BLOCK_ROWS,
    CHILDREN_SHARE,
    SIBLINGS,
    KnownActivations,
    KnownDictionary,
    load_dictionary,
    make_dictionary,
    save_dictionary,
    zipf_probabilities,
)
from sae_core.activations.origins.known.drawing import KnownStream, known_activations, write_known
from sae_core.activations.store.cache import ActivationCache
from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings
from sae_core.foundation.settings.run_settings import TruthSettings
from sae_core.runs import pipeline

SETTINGS = TruthSettings(features=80, dimension=16, active=6.0, topics=4, correlation=0.5, children=0.4)
ROWS = 40 * BLOCK_ROWS


@pytest.fixture(scope="module")
def dictionary() -> KnownDictionary:
    return make_dictionary(SETTINGS, 3)


@pytest.fixture(scope="module")
def fires(dictionary: KnownDictionary) -> np.ndarray:
    """Where each feature fires, bool [ROWS, F]."""
    known = KnownActivations(dictionary, seed=5, part="train")
    return np.concatenate([known.batch(i, i + BLOCK_ROWS).coefs_BF.toarray() > 0 for i in range(0, ROWS, BLOCK_ROWS)])


def test_zipf_probabilities_have_their_shape_limit_and_sum() -> None:
    plain = zipf_probabilities(100, 1.0, active=0.5, most=0.9)
    np.testing.assert_allclose(plain, 0.5 / sum(1 / r for r in range(1, 101)) / np.arange(1, 101), rtol=1e-9)
    limited = zipf_probabilities(100, 1.5, active=4.0, most=0.3)
    assert limited.sum() == pytest.approx(4.0, rel=1e-9)
    free = limited < 0.3
    assert 0 < (~free).sum() < 50
    np.testing.assert_allclose(limited[free] * np.arange(1, 101)[free] ** 1.5, limited[-1] * 100**1.5, rtol=1e-9)
    np.testing.assert_allclose(zipf_probabilities(50, 0.0, active=5.0, most=0.3), 0.1, rtol=1e-9)
    with pytest.raises(UserError, match=r"truth.active is 30.*fewer"):
        zipf_probabilities(100, 1.0, active=30.0, most=0.3)


def test_every_feature_fires_as_often_as_it_should(dictionary: KnownDictionary, fires: np.ndarray) -> None:
    p = dictionary.probability_F
    assert p.sum() == pytest.approx(SETTINGS.active)
    z = (fires.mean(axis=0) - p) / np.sqrt(p * (1 - p) / ROWS)
    assert np.abs(z).max() < 4.5
    # All of them together: as spread as chance, so neither too good nor too bad.
    assert 0.75 < np.sqrt((z**2).mean()) < 1.25


def test_features_of_a_topic_fire_together_as_the_closed_form_says(
    dictionary: KnownDictionary, fires: np.ndarray
) -> None:
    p, pull, topic = dictionary.probability_F, dictionary.pull_F, dictionary.topic_F
    roots = np.flatnonzero(dictionary.parent_F < 0)
    met = (fires.T.astype(np.float64) @ fires) / ROWS
    for same in (True, False):
        pairs = [(i, j) for i, j in itertools.combinations(roots, 2) if (topic[i] == topic[j]) == same]
        # Summed over both cases of the topic: 1 + c_i·c_j·(T − 1) within one, 1 − c_i·c_j across.
        lift = [1 + pull[i] * pull[j] * (SETTINGS.topics - 1 if same else -1) for i, j in pairs]
        expected = sum(p[i] * p[j] * factor for (i, j), factor in zip(pairs, lift, strict=True))
        alone = sum(p[i] * p[j] for i, j in pairs)
        measured = sum(met[i, j] for i, j in pairs)
        assert measured == pytest.approx(expected, rel=0.01)
        assert abs(measured / alone - 1) > 0.03


def test_children_fire_only_with_their_parent_and_siblings_never_together(
    dictionary: KnownDictionary, fires: np.ndarray
) -> None:
    parent, p = dictionary.parent_F, dictionary.probability_F
    children = np.flatnonzero(parent >= 0)
    assert 20 < len(children) < 40
    assert (parent[children] < children).all()
    assert any(parent[parent[child]] >= 0 for child in children), "no grandchild"
    for child in children:
        assert not (fires[:, child] & ~fires[:, parent[child]]).any()
        assert dictionary.topic_F[child] == dictionary.topic_F[parent[child]]
    for one in np.unique(parent[children]):
        own = children[parent[children] == one]
        assert len(own) <= SIBLINGS
        assert p[own].sum() <= CHILDREN_SHARE * p[one] * (1 + 1e-12)
        assert fires[:, own].sum(axis=1).max() <= 1
        assert (fires[:, one] & ~fires[:, own].any(axis=1)).any()


def test_activations_are_sums_of_atoms_and_their_moments_are_known(dictionary: KnownDictionary) -> None:
    known = KnownActivations(dictionary, seed=1, part="train")
    batch = known.batch(0, ROWS)
    atoms = dictionary.atoms_FD.double().numpy()
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, atol=1e-6)
    clean = batch.coefs_BF.toarray().astype(np.float64) @ atoms + dictionary.bias_D.double().numpy()
    noise = batch.acts_BD.double().numpy() - clean
    assert noise.std() == pytest.approx(dictionary.noise, rel=0.01)
    assert np.abs(noise.mean(axis=0)).max() < 5 * dictionary.noise / math.sqrt(ROWS)
    assert dictionary.noise**2 * 16 == pytest.approx(SETTINGS.noise * dictionary.energy)
    deviation = batch.acts_BD.double().std(dim=0)
    assert ((batch.acts_BD.double().mean(dim=0) - dictionary.mean_D).abs() < 5 * deviation / math.sqrt(ROWS)).all()
    values = batch.coefs_BF.tocsc()[:, [0]].data
    assert values.mean() == pytest.approx(dictionary.magnitude_F[0], rel=0.01)
    assert values.std() == pytest.approx(SETTINGS.spread * dictionary.magnitude_F[0], rel=0.03)
    squares = sum(float((batch.coefs_BF[:, [i]].data.astype(np.float64) ** 2).sum()) for i in range(80)) / ROWS
    assert squares == pytest.approx(dictionary.energy, rel=0.02)


def test_without_noise_offset_and_spread_an_activation_is_exact() -> None:
    plain = make_dictionary(SETTINGS.model_copy(update={"noise": 0.0, "offset": 0.0, "spread": 0.0, "topics": 1}), 0)
    batch = KnownActivations(plain, seed=0, part="train").batch(10, 50)
    expected = batch.coefs_BF.toarray().astype(np.float64) @ plain.atoms_FD.double().numpy()
    np.testing.assert_allclose(batch.acts_BD.numpy(), expected, atol=1e-5)
    rows, columns = batch.coefs_BF.nonzero()
    np.testing.assert_allclose(batch.coefs_BF.toarray()[rows, columns], plain.magnitude_F[columns], rtol=1e-6)


def test_the_same_seed_gives_the_same_rows_in_whatever_pieces() -> None:
    whole = KnownActivations(make_dictionary(SETTINGS, 3), seed=5, part="train").batch(0, 2 * BLOCK_ROWS + 7)
    again = KnownActivations(make_dictionary(SETTINGS, 3), seed=5, part="train")
    for start, stop in ((BLOCK_ROWS - 3, BLOCK_ROWS + 4), (2 * BLOCK_ROWS, 2 * BLOCK_ROWS + 7), (5, 9), (4, 4)):
        part = again.batch(start, stop)
        assert torch.equal(part.acts_BD, whole.acts_BD[start:stop])
        assert (part.coefs_BF != whole.coefs_BF[start:stop]).nnz == 0
    for seed, name in ((6, "train"), (5, "evaluation")):
        other = KnownActivations(make_dictionary(SETTINGS, 3), seed=seed, part=name)  # type: ignore[arg-type]
        assert not torch.equal(other.read(0, 5), whole.acts_BD[:5])
    assert not torch.equal(make_dictionary(SETTINGS, 4).atoms_FD, make_dictionary(SETTINGS, 3).atoms_FD)


def test_a_dictionary_comes_back_from_disk(dictionary: KnownDictionary, tmp_path: Path) -> None:
    save_dictionary(dictionary, tmp_path / "truth.safetensors")
    again = load_dictionary(tmp_path / "truth.safetensors")
    for part in ("train", "evaluation"):
        one, two = (KnownActivations(each, seed=2, part=part) for each in (dictionary, again))  # type: ignore[arg-type]
        assert torch.equal(one.read(0, 100), two.read(0, 100))
    (tmp_path / "truth.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="is damaged"):
        load_dictionary(tmp_path / "truth.safetensors")


def known_run(path: Path, **overrides: Any) -> Run:
    settings = {
        "text.source": "known",
        "model.name": "known",
        "truth.features": 40,
        "truth.dimension": 12,
        "truth.active": 3.0,
        "data.train_tokens": 5000,
        "data.evaluation_tokens": 1500,
        "sae.width": 24,
        "sae.k": 3,
        "training.members": 2,
        "training.tokens": 8000,
        "training.batch_size": 128,
        "training.device": "cpu",
        "evaluation.bootstrap": 20,
        **overrides,
    }
    return Run.create(path, load_settings(overrides=settings))


def test_a_run_is_written_trained_and_evaluated_like_any_other(tmp_path: Path) -> None:
    run = known_run(tmp_path / "run")
    pipeline.train(run)
    pipeline.evaluate(run)
    assert pipeline.is_trained(run)
    assert pipeline.is_evaluated(run)
    train, held_out = train_cache(run), evaluation_cache(run)
    assert (train.rows, held_out.rows) == (5000, 1500)
    expected = known_activations(run, "evaluation").read(0, 1500)
    assert torch.equal(held_out.read(0, 1500), expected.half().float())
    other = known_run(tmp_path / "other")
    pipeline.train(other)
    assert_same_training(run, other)
    with pytest.raises(UserError, match="no text to browse"):
        pipeline.prepare(run)


def test_an_interrupted_cache_goes_on_with_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_core.activations.origins.known.drawing._SHARD_BLOCKS", 1)
    whole, cut = known_run(tmp_path / "whole"), known_run(tmp_path / "cut")
    write_known(whole)

    def interrupt(tick: Tick) -> None:
        if tick.done >= 2 * BLOCK_ROWS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_known(cut, progress=interrupt)
    ticks: list[Tick] = []
    write_known(cut, progress=ticks.append)
    assert ticks[0].done > 2 * BLOCK_ROWS
    assert train_cache(cut).fingerprint == train_cache(whole).fingerprint
    assert cut.facts("activations")["fingerprint"] == whole.facts("activations")["fingerprint"]


def test_a_stream_draws_the_rows_of_the_cache_and_keeps_none(tmp_path: Path) -> None:
    run = known_run(tmp_path / "run", **{"data.storage": "stream"})
    write_known(run)
    assert not (run.activations / "train").exists()
    assert ActivationCache.open(run.activations / "evaluation").rows == 1500
    source = train_source(run)
    assert isinstance(source, KnownStream)
    rows = known_activations(run, "train").read(0, 5000)
    torch.testing.assert_close(source.mean_D, rows.double().mean(dim=0))
    assert float(rows.double().square().sum(dim=1).mean()) * source.scale**2 == pytest.approx(12)
    per_pass = 5000 // 1024
    passes = [list(itertools.islice(source.batches(batch_size=1024, seed=0, first_step=s), per_pass)) for s in (0, 4)]
    for batches in passes:  # each goes once through the whole batches, in its own order
        found = torch.cat(batches)
        assert torch.equal(found[found[:, 0].argsort()], rows[:4096][rows[:4096][:, 0].argsort()])
    later = next(source.batches(batch_size=1024, seed=0, first_step=2))
    assert torch.equal(later, passes[0][2])
    with pytest.raises(UserError, match=r"data\.train_tokens is 5000"):
        next(source.batches(batch_size=6000, seed=0))
    pipeline.train(run)
    assert pipeline.is_trained(run)


def test_a_truth_is_known_entirely_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set both to known, or neither"):
        load_settings(overrides={"model.name": "known"})
    run = Run.create(tmp_path / "run", load_settings())
    with pytest.raises(UserError, match="not from a known dictionary"):
        known_activations(run, "train")
