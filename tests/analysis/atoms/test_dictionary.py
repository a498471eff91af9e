"""Diversity, de-duplication, connectivity and stability against plain double loops in float64."""

import math

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from sae_core.analysis.atoms import dictionary
from sae_core.analysis.atoms.dictionary import connectivity, deduplicated, diverse, measure_dictionary, member_stability
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.settings.run_settings import SAESettings
from sae_core.sae import make_sae


def atoms(count=60, d=7, seed=0):
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed))


def cosines(one, other):
    one, other = one.double(), other.double()
    return ((one / one.norm(dim=1, keepdim=True)) @ (other / other.norm(dim=1, keepdim=True)).T).numpy()


@pytest.mark.parametrize("block", [7, 60, 1000])
@pytest.mark.parametrize("seed", [0, 1])
def test_diversity_and_deduplication_match_double_loops(block, seed):
    some = atoms(seed=seed)
    like = cosines(some, some) >= 0.7
    alone = [i for i in range(60) if not any(like[i, j] for j in range(60) if j != i)]
    kept = []
    for i in range(60):
        if not any(like[i, j] for j in kept):
            kept.append(i)
    assert 0 < len(alone) < len(kept) < 60
    assert int(diverse(some).sum()) == len(alone)
    assert deduplicated(some, block=block) == len(kept)


def test_duplicates_both_drop_out_but_count_once_without_duplicates():
    some = torch.cat([torch.eye(6), torch.eye(6)[:2] * 3.0])
    assert int(diverse(some).sum()) == 4
    assert deduplicated(some) == 6
    assert int(diverse(torch.ones(3, 4)).sum()) == 0
    assert deduplicated(torch.ones(3, 4)) == 1


def test_opposite_atoms_differ_and_zero_atoms_are_harmless():
    assert int(diverse(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])).sum()) == 3
    assert deduplicated(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])) == 3
    assert int(diverse(torch.ones(1, 4)).sum()) == 1


def plain_connectivity(codes):
    alive = codes[:, (codes != 0).any(axis=0)]
    together = (np.abs(alive).astype(np.float64).T @ np.abs(alive)) != 0
    return 1 - together.sum() / alive.shape[1] ** 2


@pytest.mark.parametrize("features", [40, 64, 200])
@pytest.mark.parametrize("words", [1, 30, 2**22])
def test_connectivity_matches_the_dense_definition(words, features):
    chance = np.random.default_rng(0)
    # Values of both signs whose products would cancel in a sum.
    codes = chance.choice([-1.0, 1.0], (50, features)) * (chance.random((50, features)) < 0.1)
    assert 0 < plain_connectivity(codes) < 1
    before = sparse.csr_array(codes)
    assert connectivity(before, words=words) == pytest.approx(plain_connectivity(codes), abs=1e-12)
    assert np.array_equal(before.toarray(), codes)


def test_dead_features_do_not_raise_connectivity_and_stored_zeros_do_not_lower_it():
    codes = (np.random.default_rng(1).random((30, 20)) < 0.2).astype(float)
    wider = np.concatenate([codes, np.zeros((30, 500))], axis=1)
    assert connectivity(sparse.csr_array(wider)) == connectivity(sparse.csr_array(codes))
    stored = sparse.csr_array((np.zeros(600), np.tile(np.arange(20), 30), np.arange(31) * 20), shape=(30, 20))
    assert stored.nnz == 600
    assert math.isnan(connectivity(stored))


def test_more_tokens_lower_connectivity_and_one_token_connects_all_that_fire():
    codes = sparse.csr_array((np.random.default_rng(2).random((200, 30)) < 0.1).astype(float))
    assert connectivity(codes[:20]) > connectivity(codes)
    assert connectivity(codes[[int(np.argmax(codes.sum(axis=1)))]]) == 0.0


def members(count, d=8, width=24, spread=0.1):
    base = make_sae(SAESettings(width=width, k=3), d, seed=0)
    found = []
    for seed in range(count):
        member = make_sae(SAESettings(width=width, k=3), d, seed=seed)
        noise = atoms(width, d, seed=seed)
        with torch.no_grad():
            order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
            member.W_dec.copy_(base.W_dec[order] + spread * noise)
            member.normalize_atoms()
        found.append(member.eval())
    return found


def test_stability_matches_plain_means_over_pairs():
    ensemble = Ensemble(members(3), wiring="parallel")
    best, matched, shared = [], [], []
    for i in range(3):
        for j in range(3):
            if i != j:
                cosine = cosines(ensemble[i].W_dec.detach(), ensemble[j].W_dec.detach())
                best.append(cosine.max(axis=1).mean())
                shared.append((cosine.max(axis=1) >= 0.7).mean())
                rows, columns = linear_sum_assignment(-cosine)
                matched.append(cosine[rows, columns].mean())
    found = member_stability(ensemble)
    assert found["mmcs"] == pytest.approx(np.mean(best), abs=1e-6)
    assert found["pw_mcc"] == pytest.approx(np.mean(matched), abs=1e-6)
    assert found["shared_fraction"] == pytest.approx(np.mean(shared), abs=1e-6)
    assert found["runs"] == 3
    assert found["null_best"] < found["mmcs"]
    assert found["null_matched"] < found["pw_mcc"]


def test_stability_of_copies_of_strangers_and_of_one():
    copies = member_stability(Ensemble(members(2, spread=0.0), wiring="parallel"))
    assert (copies["mmcs"], copies["pw_mcc"], copies["shared_fraction"]) == pytest.approx((1.0, 1.0, 1.0), abs=1e-5)
    strangers = [make_sae(SAESettings(width=24, k=3), 8, seed=seed) for seed in (5, 6, 7)]
    found = member_stability(Ensemble(strangers, wiring="residual"))
    assert found["mmcs"] == pytest.approx(found["null_best"], abs=0.04)
    assert found["pw_mcc"] == pytest.approx(found["null_matched"], abs=0.04)
    assert member_stability(Ensemble(strangers[:1], wiring="parallel")) is None


@pytest.mark.parametrize("block", [64, 100])
def test_measure_uses_global_features_of_every_member(block, monkeypatch):
    monkeypatch.setattr(dictionary, "BLOCK", block)
    monkeypatch.setattr(dictionary, "CONNECTIVITY_TOKENS", 150)
    chosen = {
        "bagged": Ensemble(members(3, spread=0.5), wiring="parallel"),
        "boosted": Ensemble(members(2, spread=0.5), wiring="residual"),
        "single": Ensemble(members(1), wiring="parallel"),
    }
    acts = atoms(200, 8, seed=9)
    found = measure_dictionary(chosen, lambda start, stop: acts[start:stop], len(acts))
    assert found["threshold"] == 0.7
    for name, ensemble in chosen.items():
        figures = found["ensembles"][name]
        codes = ensemble.encode(acts[:150]).detach().numpy()
        assert figures["connectivity"] == pytest.approx(plain_connectivity(codes), abs=1e-12)
        assert figures["connectivity_tokens"] == 150
        assert figures["features"] == 24 * len(ensemble)
        assert figures["diversity"] == int(diverse(ensemble.dictionary).sum())
        assert figures["diversity_fraction"] == figures["diversity"] / figures["features"]
        assert figures["diversity"] <= figures["deduplicated"] <= figures["features"]
        assert figures["redundancy"] == pytest.approx(1 - figures["deduplicated"] / figures["features"])
        cosine = cosines(ensemble.dictionary.detach(), ensemble.dictionary.detach())
        np.fill_diagonal(cosine, -1)
        fires = (codes != 0).any(axis=0)
        assert figures["nearest_cosine"] == pytest.approx(cosine.max(axis=1).mean(), abs=1e-6)
        assert figures["alive"] == fires.sum()
        assert figures["diversity_alive"] == ((cosine.max(axis=1) < 0.7) & fires).sum()
        assert (figures["member_stability"] is None) == (name == "single")


def test_an_ensemble_that_never_fires_has_no_connectivity():
    silent = Ensemble(members(2), wiring="parallel")
    with torch.no_grad():
        for member in silent:
            member.b_enc.fill_(-1e4)
    acts = atoms(30, 8)
    figures = measure_dictionary({"silent": silent}, lambda start, stop: acts[start:stop], 30)["ensembles"]["silent"]
    assert figures["connectivity"] is None
    assert (figures["alive"], figures["diversity_alive"]) == (0, 0)
    assert figures["features"] == 48
