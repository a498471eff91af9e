"""Gradients of one step against plain autograd, AuxK and its known faults, bfloat16 for the selection alone."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from plain_training import PlainLoss
from random_saes import ALL, random_sae
from sources import TensorSource, sparse_data
from torch import Tensor

from sae_core.foundation.settings.run_settings import Architecture, SAESettings, TrainingSettings
from sae_core.sae import SAE, BatchTopKSAE, TopKSAE, make_sae
from sae_core.training.gradients import compute
from sae_core.training.step import Trainer

D, N, K = 16, 64, 3
SELECTING: tuple[Architecture, ...] = ("topk", "batchtopk")
SPARSITY, AUX = 0.3, 0.5


def training_sae(architecture: Architecture, dtype: torch.dtype = torch.float32) -> SAE:
    sae = random_sae(architecture, d_in=D, width=N)
    if isinstance(sae, BatchTopKSAE | TopKSAE):
        sae.k = K
    return sae.to(dtype).train()


def batch(rows: int = 20, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed)).to(dtype)


def bfloat16_product(sae: SAE, x_BD: Tensor) -> Tensor:
    return ((x_BD - sae.b_dec).bfloat16() @ sae.W_enc.bfloat16()).float() + sae.b_enc


def assert_as_plain(sae: SAE, x_BD: Tensor, dead_M: Tensor, *, low_precision: bool = False) -> PlainLoss:
    screen_BN = bfloat16_product(sae, x_BD) if low_precision else None
    plain = PlainLoss(sae, x_BD, dead_M, sparsity=SPARSITY, aux_coefficient=AUX, screen_BN=screen_BN)
    expected = plain.gradients()
    outcome = compute(sae, x_BD, dead_M, sparsity=SPARSITY, aux_coefficient=AUX, low_precision=low_precision)
    near: dict[str, Any] = (
        {"rtol": 1e-5, "atol": 1e-6} if x_BD.dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-12}
    )
    assert outcome.gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(outcome.gradients[name], gradient, msg=lambda text, name=name: name + text, **near)
    torch.testing.assert_close(outcome.recon_BD, plain.recon_BD.detach(), **near)
    torch.testing.assert_close(outcome.loss, plain.loss.detach(), **near)
    torch.testing.assert_close(outcome.squared_error, plain.squared_error.detach(), **near)
    assert int(outcome.active) == int((plain.coefs_BN > 0).sum())
    assert torch.equal(outcome.fired_N, (plain.coefs_BN > 0).any(dim=0))
    assert not any(tensor.requires_grad for tensor in (outcome.loss, outcome.recon_BD, *outcome.gradients.values()))
    return plain


# Five dead features are fewer than D/2, which AuxK may use; all of them are more.
@pytest.mark.parametrize("dead", [0, 5, N])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("architecture", ALL)
def test_gradients_are_those_of_plain_autograd(architecture: Architecture, dtype: torch.dtype, dead: int) -> None:
    dead_M = torch.randperm(N, generator=torch.Generator().manual_seed(1))[:dead]
    plain = assert_as_plain(training_sae(architecture, dtype), batch(dtype=dtype), dead_M)
    assert (plain.coefs_BN > 0).any()


@pytest.mark.parametrize("dead", [0, 5])
@pytest.mark.parametrize("architecture", ALL)
def test_gradients_on_a_batch_of_one(architecture: Architecture, dead: int) -> None:
    assert_as_plain(training_sae(architecture), batch(1), torch.arange(dead))


@pytest.mark.parametrize("lowered", [2.0, 100.0])
@pytest.mark.parametrize("architecture", ALL)
def test_gradients_where_fewer_than_k_preactivations_are_positive(architecture: Architecture, lowered: float) -> None:
    """Lowered by 2 some features remain, lowered by 100 none; a dead feature stays within reach either way."""
    sae = training_sae(architecture)
    with torch.no_grad():
        sae.b_enc -= lowered
        sae.b_enc[7] += lowered
    plain = assert_as_plain(sae, batch(), torch.tensor([7]))
    active_B = (plain.coefs_BN > 0).sum(dim=1)
    assert active_B.float().mean() < K
    assert (active_B > 1).any() == (lowered == 2.0)


@pytest.mark.parametrize("dead", [0, 5, N])
@pytest.mark.parametrize("architecture", SELECTING)
def test_bfloat16_only_chooses_the_features(architecture: Architecture, dead: int) -> None:
    sae, x_BD = training_sae(architecture), batch(1000)
    plain = assert_as_plain(sae, x_BD, torch.arange(dead), low_precision=True)
    exact = PlainLoss(sae, x_BD, torch.arange(0), sparsity=SPARSITY, aux_coefficient=AUX)
    both_BN = (plain.coefs_BN > 0) & (exact.coefs_BN > 0)
    assert torch.equal(plain.coefs_BN[both_BN], exact.coefs_BN[both_BN])
    differs = (plain.coefs_BN > 0) != (exact.coefs_BN > 0)
    assert 0 < int(differs.sum()) < 0.05 * int(both_BN.sum())


@pytest.mark.parametrize("architecture", ["relu", "jumprelu"])
def test_dense_codes_in_bfloat16_come_near(architecture: Architecture) -> None:
    sae, x_BD, none = training_sae(architecture), batch(), torch.arange(0)
    low = compute(sae, x_BD, none, sparsity=SPARSITY, aux_coefficient=AUX, low_precision=True)
    exact = compute(sae, x_BD, none, sparsity=SPARSITY, aux_coefficient=AUX)
    assert all(gradient.dtype == torch.float32 for gradient in low.gradients.values())
    assert 0 < (low.recon_BD - exact.recon_BD).norm() < 0.02 * exact.recon_BD.norm()
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        cosine = torch.cosine_similarity(low.gradients[name].flatten(), exact.gradients[name].flatten(), dim=0)
        assert cosine > 0.99, name


def test_auxk_does_not_count_the_decoder_bias_twice() -> None:
    """The dead feature explains exactly what the live one leaves, so AuxK is 0 and asks for nothing."""
    sae = TopKSAE(2, 2, k=1).train()
    with torch.no_grad():
        sae.W_dec.copy_(torch.eye(2))
        sae.W_enc.copy_(torch.eye(2))
        sae.b_dec.copy_(torch.tensor([3.0, -1.0]))
    x_BD = sae.b_dec.detach() + torch.tensor([[2.0, 0.5]])
    with_auxk = compute(sae, x_BD, torch.tensor([1]), sparsity=0, aux_coefficient=1.0)
    without = compute(sae, x_BD, torch.tensor([1]), sparsity=0, aux_coefficient=0.0)
    assert with_auxk.loss.item() == pytest.approx(0.5**2 / 2)
    for name, gradient in without.gradients.items():
        assert torch.equal(with_auxk.gradients[name], gradient), name


@pytest.mark.parametrize("architecture", SELECTING)
def test_auxk_reaches_encoder_and_decoder_of_dead_features_only(architecture: Architecture) -> None:
    sae, x_BD = training_sae(architecture), batch()
    with torch.no_grad():
        sae.b_enc[:5] -= 1.0  # never among the k largest, yet sometimes positive
    dead_M = torch.arange(5)
    plain = compute(sae, x_BD, dead_M, sparsity=0, aux_coefficient=0.0).gradients
    helped = compute(sae, x_BD, dead_M, sparsity=0, aux_coefficient=AUX).gradients
    changed = {name: helped[name] - plain[name] for name in plain}
    by_feature = {"W_enc": changed["W_enc"].T, "W_dec": changed["W_dec"], "b_enc": changed["b_enc"][:, None]}
    for name, change in by_feature.items():
        assert (change[:5].abs().amax(dim=1) > 0).all(), name
        assert torch.equal(change[5:], torch.zeros_like(change[5:])), name
    assert torch.equal(changed["b_dec"], torch.zeros(D))


def test_a_gradient_step_on_auxk_brings_dead_features_back() -> None:
    """Only few features can be active; without help the others never learn, with it more of them are in use."""
    x_RD = sparse_data(2000, d_in=D, features=40)
    x_RD = x_RD / x_RD.square().mean().sqrt()
    dead = {}
    for aux_coefficient in (0.0, 1 / 32):
        settings = SAESettings(width=N, k=2, aux_coefficient=aux_coefficient, dead_after_tokens=2000)
        sae = make_sae(settings, D, seed=3)
        with torch.no_grad():
            sae.b_enc[20:] -= 3.0
        trainer = Trainer(sae, settings, TrainingSettings(learning_rate=3e-3), steps=300)
        for x_BD in islice(TensorSource(x_RD).batches(batch_size=100, seed=0), 300):
            trainer.step(x_BD)
        dead[aux_coefficient] = int(trainer.dead_N.sum())
    assert dead[0.0] >= 40
    assert dead[1 / 32] <= dead[0.0] - 10
