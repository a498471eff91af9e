"""Reconstruction figures against plain float64 formulas, both exact identities, and the traps of explained variance."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from sae_core.analysis.reconstruction import reconstruction
from sae_core.analysis.reconstruction.reconstruction import (
    Moments,
    Totals,
    explained_per_dimension,
    identity_error,
    measure_reconstruction,
    total_explained,
)
from sae_core.analysis.shared.ensemble_codes import Encoders
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.settings.run_settings import SAESettings
from sae_core.sae import make_sae
from sae_core.training.kernels import frozen

RUN = frozen.FrozenEncoder().code_and_recon

D, N = 12, 40


def sae(seed, architecture="topk", width=N):
    settings = SAESettings(architecture=architecture, width=width, k=4, initial_threshold=1.0)
    member = make_sae(settings, D, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        member.b_dec += 0.3 * torch.randn(D, generator=generator)
        member.b_enc += 0.1 * torch.randn(width, generator=generator) - (1.0 if architecture == "relu" else 0.0)
        if architecture == "batchtopk":
            member.threshold.fill_(0.9)
    return member.requires_grad_(False)


def ensembles(architecture="topk"):
    members = [sae(seed, architecture) for seed in range(3)]
    return {
        "single": Ensemble(members[:1], wiring="parallel"),
        "bagged": Ensemble(members, wiring="parallel"),
        "boosted": Ensemble([sae(0, architecture), *members[1:]], wiring="residual"),
        "uneven": Ensemble(members, wiring="parallel", weights=[0.5, 0.3, 0.2]),
    }


def activations(tokens=700, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, D, generator=generator) * torch.linspace(0.2, 2.0, D) + torch.linspace(-1, 3, D)


def measured(chosen, acts, monkeypatch=None, block=None, **options):
    if block:
        monkeypatch.setattr(reconstruction, "BLOCK", block)
    return measure_reconstruction(chosen, lambda start, stop: acts[start:stop], len(acts), **options)[0]


def reference(acts, output):
    """(MSE, explained variance in total, per dimension) straight from the definitions, in float64."""
    a, b = acts.double().numpy(), output.double().numpy()
    mse = np.mean(np.sum((a - b) ** 2, axis=1))
    total = 1 - mse / (np.mean(np.sum(a**2, axis=1)) - np.sum(a.mean(axis=0) ** 2))
    each = 1 - np.sum((a - b) ** 2, axis=0) / np.sum((a - a.mean(axis=0)) ** 2, axis=0)
    return mse, total, each.mean()


@pytest.mark.parametrize("architecture", ["relu", "topk", "batchtopk", "jumprelu"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_sparse_codes_are_the_dense_ones(architecture, share, monkeypatch):
    monkeypatch.setattr(frozen, "DENSE_SHARE", share)
    member, acts = sae(3, architecture), activations(50)
    (found,), dense = list(Ensemble([member], wiring="parallel").walk(acts, RUN)), member.encode(acts)
    assert torch.equal(found.code.dense() != 0, dense != 0)
    torch.testing.assert_close(found.code.dense(), dense, rtol=1e-6, atol=1e-6)
    tokens, features = found.firing()
    assert torch.equal(torch.stack([tokens, features], dim=1).sort(dim=0).values, dense.nonzero().sort(dim=0).values)
    assert torch.allclose(found.recon_BD, member.decode(dense), atol=1e-5)
    assert RUN(member, acts, False)[1] is None


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_sharing_members_changes_no_code(architecture, decode):
    chosen, acts = ensembles(architecture), activations(60)
    encoders = Encoders(chosen)
    assert len(encoders._shared) == 3  # each of the three SAEs has several uses, the copied one included
    for name, found in encoders.codes(acts, decode=decode):
        ensemble = chosen[name]
        for step, plain in zip(found, ensemble.walk(acts), strict=True):
            assert torch.allclose(step.code.dense(), plain.code.dense(), atol=1e-5)
            if decode:
                assert torch.allclose(step.part_BD, plain.part_BD, atol=1e-5)


@pytest.mark.parametrize("architecture", ["topk", "relu"])
def test_figures_match_the_definitions_in_float64(architecture, monkeypatch):
    chosen, acts = ensembles(architecture), activations()
    figures = measured(chosen, acts, monkeypatch, block=256, seed=1)
    assert figures["tokens"] == len(acts)
    for name, ensemble in chosen.items():
        found = figures["ensembles"][name]
        mse, total, per_dimension = reference(acts, ensemble(acts))
        assert found["mse"] == pytest.approx(mse, rel=1e-5)
        assert found["explained_variance"] == pytest.approx(total, abs=1e-5)
        assert found["explained_variance_per_dimension"] == pytest.approx(per_dimension, abs=1e-5)
        code = ensemble.encode(acts)
        assert found["l0"] == pytest.approx(float((code != 0).sum(dim=1).double().mean()))
        assert found["relative_sparsity"] == pytest.approx(found["l0"] / found["features"])
        assert found["dead"] == int((code == 0).all(dim=0).sum())
        assert found["dead_fraction"] == found["dead"] / found["features"]
        assert (found["members"], found["features"]) == (len(ensemble), len(ensemble) * N)
        low, high = found["explained_variance_interval"]
        assert low < found["explained_variance"] < high


def test_by_members_are_the_figures_of_the_first_members():
    chosen, acts = ensembles(), activations()
    figures = measured(chosen, acts)["ensembles"]
    for name, ensemble in chosen.items():
        assert [row["members"] for row in figures[name]["by_members"]] == list(range(1, len(ensemble) + 1))
        for row in figures[name]["by_members"]:
            part = ensemble.first(row["members"])
            mse, total, per_dimension = reference(acts, part(acts))
            assert row["mse"] == pytest.approx(mse, rel=1e-5)
            assert row["explained_variance"] == pytest.approx(total, abs=1e-5)
            assert row["explained_variance_per_dimension"] == pytest.approx(per_dimension, abs=1e-5)
            fires = part.encode(acts) != 0
            assert row["l0"] == pytest.approx(float(fires.sum(dim=1).double().mean()))
            assert row["features"] == fires.shape[1]
            assert row["relative_sparsity"] == pytest.approx(row["l0"] / fires.shape[1])
            assert row["dead"] == int((~fires.any(dim=0)).sum())
            assert row["dead_fraction"] == row["dead"] / fires.shape[1]
        assert {**figures[name]["by_members"][-1]}.items() <= figures[name].items()


@pytest.mark.parametrize("architecture", ["topk", "relu"])
def test_explained_variance_is_the_r2_of_scikit_learn(architecture):
    chosen, acts = ensembles(architecture), activations()
    for name, found in measured(chosen, acts)["ensembles"].items():
        pair = acts.double().numpy(), chosen[name](acts).double().numpy()
        assert found["explained_variance"] == pytest.approx(r2_score(*pair, multioutput="variance_weighted"), abs=1e-6)
        per_dimension = r2_score(*pair, multioutput="uniform_average")
        assert found["explained_variance_per_dimension"] == pytest.approx(per_dimension, abs=1e-6)


def test_density_is_the_share_of_tokens_on_which_a_feature_fires(monkeypatch):
    monkeypatch.setattr(reconstruction, "BLOCK", 256)
    chosen, acts = ensembles(), activations()
    facts, table = measure_reconstruction(chosen, lambda start, stop: acts[start:stop], len(acts))
    for name, ensemble in chosen.items():
        fires = (ensemble.encode(acts) != 0).double()
        mine = table[table["ensemble"] == name]
        assert mine["feature"].tolist() == list(range(fires.shape[1]))
        assert mine["member"].tolist() == np.repeat(range(len(ensemble)), N).tolist()
        assert np.array_equal(mine["count"], fires.sum(dim=0).numpy())
        assert np.allclose(mine["density"], fires.mean(dim=0).numpy())
        alive = mine["density"][mine["density"] > 0]
        spread = facts["ensembles"][name]["density"]
        assert spread["median"] == pytest.approx(np.median(alive))
        assert (spread["p05"], spread["p95"]) == pytest.approx((np.quantile(alive, 0.05), np.quantile(alive, 0.95)))
        assert spread["largest"] == alive.max()


def test_a_code_with_signs_counts_what_is_not_zero():
    """Signed coefficients whose sum is zero are active all the same."""

    class Signed(type(sae(0))):
        def encode_sparse(self, acts_BD):
            code = super().encode_sparse(acts_BD)
            signs_E = 1 - 2 * (torch.arange(len(code.values_E)) % 2)
            return replace(code, values_E=code.values_E * signs_E)

    acts = activations(40)
    member = sae(0)
    plain = measured({"one": Ensemble([member], wiring="parallel")}, acts)["ensembles"]["one"]
    member.__class__ = Signed
    member.train()  # so that its own encoding is used
    found = measured({"one": Ensemble([member], wiring="parallel")}, acts)["ensembles"]["one"]
    assert (found["l0"], found["dead"]) == (plain["l0"], plain["dead"])
    assert found["l0"] == pytest.approx(4.0)
    assert found["mse"] > plain["mse"]


def test_both_identities_hold_and_their_parts_are_reported():
    chosen, acts = ensembles(), activations()
    figures = measured(chosen, acts)["ensembles"]
    assert all(figures[name]["identity_error"] < 1e-5 for name in chosen)
    assert all(figures[name]["residual_energy"] == [] for name in ("single", "bagged"))
    residual, ratios = acts.double(), []
    for member in chosen["boosted"]:
        left = residual - member.double()(residual)
        ratios.append(float(left.square().sum() / residual.square().sum()))
        residual = left
    assert figures["boosted"]["residual_energy"] == pytest.approx(ratios, rel=1e-5)
    energy = float(acts.double().square().sum(dim=1).mean())
    assert figures["boosted"]["mse"] == pytest.approx(energy * math.prod(ratios), rel=1e-5)


def test_the_identity_notices_a_wrong_bias():
    """Decoding a bagged ensemble with Σ b_dec instead of its mean, the fault seen in existing code."""

    class Wrong(Ensemble):
        @property
        def b_dec(self):
            return torch.stack([member.b_dec for member in self]).sum(dim=0)

    members = [sae(seed) for seed in range(3)]
    assert identity_error(Ensemble(members, wiring="parallel"), activations()) < 1e-5
    assert identity_error(Wrong(members, wiring="parallel"), activations()) > 1e-2
    assert math.isnan(identity_error(Ensemble(members, wiring="parallel", weights=[1, 1, 1]), activations()))


def test_a_constant_bias_is_not_blind_and_a_constant_offset_costs_no_digits():
    acts = activations(500).double()
    error = torch.full_like(acts, 3.0)
    variation = ((acts - acts.mean(dim=0)) ** 2).sum(dim=0)
    # 1 − Σvar(a − â)/Σvar(a) would be 1 for â = a + 3.
    assert total_explained((error**2).sum(dim=0), variation) == pytest.approx(1 - 9 * D * 500 / float(variation.sum()))
    assert total_explained((error**2).sum(dim=0), variation) < 0

    far = (acts + 4096.0).float()
    moments = Moments(len(far), D)
    for start in range(0, len(far), 128):
        moments.add(start, far[start : start + 128])
    exact = ((far.double() - far.double().mean(dim=0)) ** 2).sum(dim=0)
    assert torch.allclose(moments.variation_D, exact, rtol=1e-9)


def test_dimensions_with_different_means_are_not_pooled():
    """With one global mean, a dimension-wise offset would count as variance that â = mean explains."""
    acts = activations(400) + torch.arange(D) * 50.0
    mean = Ensemble([sae(0)], wiring="parallel")
    with torch.no_grad():
        mean[0].W_dec.zero_()
        mean[0].b_dec.copy_(acts.mean(dim=0))
    found = measured({"mean": mean}, acts)["ensembles"]["mean"]
    assert found["explained_variance"] == pytest.approx(0.0, abs=1e-4)
    assert found["explained_variance_per_dimension"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("acts", [activations(1), activations(1).expand(300, D)], ids=["one token", "all equal"])
def test_what_does_not_vary_has_no_explained_variance(acts):
    for found in measured(ensembles(), acts)["ensembles"].values():
        assert found["explained_variance"] is None
        assert found["explained_variance_per_dimension"] is None
        assert found["explained_variance_interval"] == [None, None]
        assert found["mse"] > 0
        assert found["l0"] > 0


def test_a_dimension_that_does_not_vary_is_left_out_of_the_mean_per_dimension():
    assert explained_per_dimension(torch.tensor([1.0, 5.0]), torch.tensor([4.0, 0.0])) == 0.75
    assert math.isnan(explained_per_dimension(torch.ones(2), torch.zeros(2)))


def test_the_interval_covers_what_another_sample_gives():
    """Against chunks drawn anew from the same source: the spread of the estimate and of the bootstrap agree."""
    chosen = {"bagged": ensembles()["bagged"]}
    values = [
        measured(chosen, activations(1200, seed))["ensembles"]["bagged"]["explained_variance"] for seed in range(30)
    ]
    low, high = measured(chosen, activations(1200, 99), bootstrap=1000)["ensembles"]["bagged"][
        "explained_variance_interval"
    ]
    assert (high - low) / (2 * 1.96) == pytest.approx(np.std(values), rel=0.5)


def test_the_bootstrap_draws_documents_or_stretches_of_the_context():
    """Tokens of one document that are all alike say no more than one of them, however long it is."""
    document_T = np.repeat(np.arange(40) // 2, 50)  # passages of 50 tokens, two a document
    acts = activations(40, 3).repeat_interleave(50, dim=0)
    chosen = {"bagged": ensembles()["bagged"]}
    found = measured(chosen, acts, bootstrap=800, document_T=document_T)
    assert found["drawn"] == "documents, 20 of them"
    low, high = found["ensembles"]["bagged"]["explained_variance_interval"]
    # Written plainly: documents are drawn, and the figure is that of all their tokens.
    chance, hats = np.random.default_rng(0), chosen["bagged"](acts).double().numpy()
    values = []
    for _ in range(400):
        rows = np.concatenate([np.flatnonzero(document_T == one) for one in chance.integers(20, size=20)])
        own = acts.double().numpy()[rows]
        values.append(1 - ((own - hats[rows]) ** 2).sum() / ((own - own.mean(axis=0)) ** 2).sum())
    expected = np.quantile(values, [0.025, 0.975])
    assert (high - low) == pytest.approx(expected[1] - expected[0], rel=0.25)
    by_stretch = measured(chosen, acts, bootstrap=800, stretch=25)
    assert by_stretch["drawn"] == "stretches of 25 tokens, 80 of them"
    low_, high_ = by_stretch["ensembles"]["bagged"]["explained_variance_interval"]
    assert high_ - low_ < 0.85 * (high - low)
    many = measured(chosen, activations(3000), document_T=np.arange(3000))
    assert many["drawn"] == "groups of 3.0 documents, 1000 of them"
    few = measured(chosen, acts, document_T=np.repeat([0, 1], 1000), stretch=100)
    assert few["drawn"] == "stretches of 100 tokens, 20 of them"


def test_the_same_seed_gives_the_same_figures_and_progress_ends_at_the_end(monkeypatch):
    ticks = []
    acts = activations()
    first = measured(ensembles(), acts, monkeypatch, block=300, seed=5, progress=ticks.append)
    assert first == measured(ensembles(), acts, seed=5)
    assert [tick.done for tick in ticks] == [300, 600, 700]
    assert {tick.total for tick in ticks} == {700}


def test_dead_features_and_a_short_last_chunk():
    ensemble = Ensemble([sae(0)], wiring="parallel")
    with torch.no_grad():
        ensemble[0].b_enc[:5] = -1e4
    found = measured({"one": ensemble}, activations(21))["ensembles"]["one"]
    assert found["dead"] >= 5
    moments = Moments(21, D)
    assert moments.drawn == "stretches of 2 tokens, 11 of them"
    assert moments.count_C.shape == (11,)
    totals = Totals(ensemble, moments)
    assert totals.error_C.shape == moments.count_C.shape


def test_chosen_features_that_are_not_positive_do_not_fire():
    """TopK always lists k features; a coefficient of 0 among them is no activity."""
    silent = Ensemble([sae(0)], wiring="parallel")
    with torch.no_grad():
        silent[0].b_enc.fill_(-1e4)
    acts = activations(50)
    found = measured({"silent": silent}, acts)["ensembles"]["silent"]
    assert (found["l0"], found["dead"], found["dead_fraction"]) == (0.0, N, 1.0)
    assert found["density"] is None
    assert found["mse"] == pytest.approx(float((acts - silent[0].b_dec).double().square().sum(dim=1).mean()), rel=1e-5)
