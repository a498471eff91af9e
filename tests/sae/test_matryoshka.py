"""Matryoshka BatchTopK: its nested loss, what it is without nesting, whole runs of it, and SAELens' own as its twin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import data, trained
from torch import Tensor

from sae_core.analysis.index.activation_index import ActivationIndex, build_index
from sae_core.analysis.reconstruction.reconstruction import measure_reconstruction
from sae_core.analysis.shared.random_twin import random_twin
from sae_core.ensembles.ensemble import load_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.reading import load_settings
from sae_core.foundation.settings.run_settings import SAESettings
from sae_core.sae import make_sae
from sae_core.sae.batch_topk import BatchTopKSAE
from sae_core.sae.formats.saelens import load_sae, save_sae
from sae_core.sae.matryoshka import MatryoshkaSAE, nested_widths
from sae_core.training.gradients import Outcome, compute
from sae_core.training.halves import compute_in_halves
from sae_core.training.kernels import use_fast
from sae_core.training.kernels.frozen import FrozenEncoder

NO_HELP: dict[str, Any] = {"sparsity": 0.0, "aux_coefficient": 0.0}
NONE = torch.zeros(0, dtype=torch.int64)


def small_sae(kind: type[BatchTopKSAE] = MatryoshkaSAE, **options: int) -> BatchTopKSAE:
    sae = kind(24, 64, k=3, seed=1, **options).train()
    with torch.no_grad():
        sae.b_dec.copy_(data().mean(dim=0))
        sae.b_enc.copy_(0.1 * torch.randn(64, generator=torch.Generator().manual_seed(2)))
    return sae


def test_widths_are_those_of_the_paper() -> None:
    assert nested_widths(65_536, 5) == (2048, 6144, 14_336, 30_720, 65_536)
    assert nested_widths(100, 1) == (100,)
    assert nested_widths(100, 2) == (25, 100)
    assert nested_widths(16, 5) == (1, 2, 4, 8, 16)
    assert nested_widths(5, 2**31 - 1) == (1, 2, 5)


def test_the_loss_is_the_sum_over_nested_dictionaries() -> None:
    sae, x_BD = small_sae(levels=3), data()[:50]
    outcome = compute(sae, x_BD, NONE, **NO_HELP)
    W_enc, W_dec, b_enc, b_dec = parameters = [
        tensor.detach().double().requires_grad_() for tensor in (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec)
    ]
    pre_BN = (x_BD.double() - b_dec) @ W_enc + b_enc
    bound = pre_BN.detach().flatten().topk(150).values[-1]
    coefs_BN = pre_BN * (pre_BN >= bound)
    errors = [(coefs_BN[:, :n] @ W_dec[:n] + b_dec - x_BD).square().sum() for n in (8, 24, 64)]
    loss = torch.stack(errors).sum() / x_BD.numel()
    torch.testing.assert_close(outcome.loss.double(), loss.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(outcome.squared_error.double(), errors[-1].detach(), rtol=1e-5, atol=0)
    for name, gradient in zip(("W_enc", "W_dec", "b_enc", "b_dec"), torch.autograd.grad(loss, parameters), strict=True):
        scale = float(gradient.abs().max())
        torch.testing.assert_close(outcome.gradients[name].double(), gradient, rtol=0, atol=1e-5 * scale)


def assert_near(one: Outcome, other: Outcome) -> None:
    torch.testing.assert_close(one.loss, other.loss)
    torch.testing.assert_close(one.recon_BD, other.recon_BD)
    assert torch.equal(one.fired_N, other.fired_N)
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(other.gradients[name], gradient, rtol=0, atol=1e-5 * float(gradient.abs().max()))


def test_without_nesting_it_is_batchtopk() -> None:
    """Its loss by autograd, the other's by hand."""
    one, other, x_BD = small_sae(levels=1), small_sae(BatchTopKSAE), data()[:50]
    assert_near(compute(one, x_BD, NONE, **NO_HELP), compute(other, x_BD, NONE, **NO_HELP))
    assert torch.equal(one.threshold, other.threshold)


def test_halves_of_a_batch_hear_of_each_other() -> None:
    one, other, x_BD = small_sae(), small_sae(), data()[:61].clone()
    x_BD[:30] *= 0.2  # nearly all that is kept lies in the second half
    options: dict[str, Any] = {"sparsity": 0.0, "aux_coefficient": 0.5}
    dead_M = torch.arange(10, 60)
    assert_near(compute(one, x_BD, dead_M, **options), compute_in_halves(other, x_BD, dead_M, **options))
    torch.testing.assert_close(one.threshold, other.threshold)


def test_settings_say_how_often_it_is_nested() -> None:
    settings = load_settings(overrides={"sae.architecture": "matryoshka", "sae.levels": 3, "sae.width": 64})
    sae = make_sae(settings.sae, 8)
    assert isinstance(sae, MatryoshkaSAE)
    assert (sae.levels, sae.k, sae.width) == (3, settings.sae.k, 64)
    assert "matryoshka" in str(SAESettings.model_fields["levels"].description)
    with pytest.raises(UserError, match=r"sae\.levels .* is not usable"):
        load_settings(overrides={"sae.levels": 0})


def test_runs_are_trained_saved_indexed_and_evaluated(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MatryoshkaSAE has a loss of its own"):
        use_fast("fast", small_sae())
    assert use_fast("fast", small_sae().eval())
    sae = {"architecture": "matryoshka", "levels": 3}
    run = trained(tmp_path / "run", sae, members=2, methods=("single", "bagged", "boosted", "expanded_l0"))
    acts_TD, found = data()[:600], {}
    for folder in run.ensembles():
        ensemble = found[folder.name] = load_ensemble(folder)
        assert all(isinstance(member, MatryoshkaSAE) and member.levels == 3 for member in ensemble)
    boosted = found["boosted"]
    with torch.no_grad():
        coefs_TM = boosted.encode(acts_TD)
        assert torch.equal(FrozenEncoder()(boosted[0], acts_TD).dense() != 0, boosted[0].encode(acts_TD) != 0)
    path = run.ensemble("boosted").index
    build_index(boosted, lambda start, stop: acts_TD[start:stop], len(acts_TD), path)
    index = ActivationIndex.open(path)
    for feature in range(boosted.offsets[-1]):
        positions, values = index.feature(feature)
        expected_T = torch.zeros(len(acts_TD)).index_put_(
            (torch.tensor(positions).long(),), torch.tensor(values).float()
        )
        torch.testing.assert_close(expected_T, coefs_TM[:, feature], rtol=2e-3, atol=1e-5)
    figures, _ = measure_reconstruction(found, lambda start, stop: acts_TD[start:stop], len(acts_TD))
    explained = {name: figure["explained_variance"] for name, figure in figures["ensembles"].items()}
    random = random_twin(found["single"], acts_TD)
    active, wanted = (int((each.encode(acts_TD) != 0).sum()) for each in (random, found["single"]))
    assert active == pytest.approx(wanted, rel=0.01)
    untrained, _ = measure_reconstruction({"random": random}, lambda a, b: acts_TD[a:b], len(acts_TD))
    assert min(explained.values()) > untrained["ensembles"]["random"]["explained_variance"] + 0.2
    assert explained["boosted"] > explained["single"]


def nested_errors(sae: BatchTopKSAE, x_BD: Tensor) -> list[float]:
    coefs_BN = sae.encode(x_BD)
    return [
        float((coefs_BN[:, :n] @ sae.W_dec[:n] + sae.b_dec - x_BD).square().mean()) for n in nested_widths(sae.width, 3)
    ]


@torch.no_grad()
def test_nesting_makes_the_first_features_reconstruct_by_themselves(tmp_path: Path) -> None:
    errors = {}
    for architecture in ("matryoshka", "batchtopk"):
        sae_settings = {"architecture": architecture, "levels": 3}
        run = trained(tmp_path / architecture, sae_settings, methods=("single",), tokens=15_000)
        (sae,) = load_ensemble(run.ensemble("single"))
        assert isinstance(sae, BatchTopKSAE)
        errors[architecture] = nested_errors(sae, data()[:600])
    nested, flat = errors["matryoshka"], errors["batchtopk"]
    assert nested[0] < 0.9 * flat[0]
    assert nested[1] < 0.8 * flat[1]
    assert nested[0] > nested[1] > nested[2]


def test_a_trained_one_is_saved_as_what_it_is_to_saelens(tmp_path: Path) -> None:
    sae = small_sae(levels=3).eval()
    sae.threshold.fill_(0.3)
    save_sae(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["architecture"] == "jumprelu"
    assert config["metadata"]["sae_ensemble"] | {"version": ""} == {
        **{"version": "", "architecture": "matryoshka", "k": 3, "levels": 3}
    }
    assert torch.equal(load_sae(tmp_path)(data()), sae(data()))
    config["metadata"]["sae_ensemble"]["levels"] = "many"
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="levels is 'many'"):
        load_sae(tmp_path)


@pytest.mark.interop
def test_it_trains_as_the_one_of_saelens(tmp_path: Path) -> None:
    """Loss, help for dead features and weights step by step under one optimiser; then both in their saved form."""
    pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    from sae_lens import SAE as TheirSAE
    from sae_lens.saes import matryoshka_batchtopk_sae as peer
    from sae_lens.saes.sae import TrainStepInput

    ours = small_sae(levels=3)
    theirs = peer.MatryoshkaBatchTopKTrainingSAE(
        peer.MatryoshkaBatchTopKTrainingSAEConfig(
            d_in=24,
            d_sae=64,
            k=3,
            matryoshka_widths=list(nested_widths(64, 3)),
            rescale_acts_by_decoder_norm=False,
            aux_loss_coefficient=0.5,
            topk_threshold_lr=1 - ours.momentum,
        )
    )
    with torch.no_grad():
        ours.b_enc[5:45] += 2.0  # so that enough dead features are positive; else theirs lets negative ones help, too
        for name, parameter in theirs.named_parameters():
            parameter.copy_(ours.get_parameter(name))
    dead_M = torch.arange(5, 45)
    dead_N = torch.zeros(64, dtype=torch.bool).index_fill_(0, dead_M, True)
    optimizers = [torch.optim.Adam(sae.parameters(), lr=3e-3) for sae in (ours, theirs)]
    for step in range(20):
        x_BD = data()[50 * step : 50 * step + 50]
        assert bool((ours.pre_activations(x_BD)[:, dead_M].topk(12, dim=1).values > 0).all())
        outcome = compute(ours, x_BD, dead_M, sparsity=0.0, aux_coefficient=0.5)
        given = theirs.training_forward_pass(TrainStepInput(x_BD, {}, dead_N, step, False))
        torch.testing.assert_close(outcome.loss, given.loss.detach() / 24, rtol=1e-4, atol=0)
        optimizers[1].zero_grad()
        (given.loss / 24).backward()
        for name, parameter in ours.named_parameters():
            parameter.grad = outcome.gradients[name]
            expected = theirs.get_parameter(name).grad
            assert expected is not None
            torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
        if step == 0:  # theirs approaches its threshold from 0
            theirs.topk_threshold.fill_(float(ours.threshold))
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours.threshold.double(), theirs.topk_threshold, rtol=1e-4, atol=0)
    save_sae(ours.eval(), tmp_path / "ours")
    theirs.save_inference_model(tmp_path / "theirs")
    acts_BD = data()[1000:1200]
    for one, other in (
        (TheirSAE.load_from_disk(str(tmp_path / "ours")), ours),
        (load_sae(tmp_path / "theirs"), TheirSAE.load_from_disk(str(tmp_path / "theirs"))),
    ):
        torch.testing.assert_close(one.encode(acts_BD), other.encode(acts_BD), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one(acts_BD), other(acts_BD), rtol=1e-4, atol=1e-5)
