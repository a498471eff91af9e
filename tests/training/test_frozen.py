"""The fast encoding of frozen SAEs against `SAE.encode`: the same chosen set and values."""

from __future__ import annotations

import pytest
import torch
from fast_and_plain import ALL, PRODUCTS, noise, sparse_sae

from sae_core.foundation.settings.run_settings import Architecture
from sae_core.sae import BatchTopKSAE
from sae_core.training.kernels import frozen
from sae_core.training.kernels.frozen import FrozenEncoder


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def frozen_sae(architecture: Architecture, **shape: int):
    sae = sparse_sae(architecture, **shape).eval()
    if isinstance(sae, BatchTopKSAE):
        sae.threshold.fill_(2.6)
    return sae


@PRODUCTS
@pytest.mark.parametrize("architecture", ALL)
def test_codes_are_those_of_encode(architecture, low_precision, monkeypatch):
    monkeypatch.setattr(frozen, "has_fast_bfloat16", lambda: low_precision)
    monkeypatch.setattr(frozen, "CELLS", 200 * 70)  # blocks of 70 activations
    sae, x_BD = frozen_sae(architecture), noise(300, 40)
    monkeypatch.setattr(type(sae), "encode_sparse", None)  # fast or not at all
    dense_BN, code = sae.encode(x_BD), FrozenEncoder()(sae, x_BD)
    assert code.shape == (300, 200)
    assert 0.002 < float((dense_BN != 0).float().mean()) < 0.1
    assert torch.equal(code.dense() != 0, dense_BN != 0)
    torch.testing.assert_close(code.dense(), dense_BN, rtol=1e-6, atol=2e-6)
    assert bool((code.rows_E.diff() >= 0).all())
    assert code.features_E.dtype == code.rows_E.dtype == torch.int64


@PRODUCTS
@pytest.mark.parametrize("architecture", ALL)
def test_reconstructions_are_those_of_the_plain_twin(architecture, low_precision, monkeypatch):
    monkeypatch.setattr(frozen, "has_fast_bfloat16", lambda: low_precision)
    monkeypatch.setattr(frozen, "CELLS", 200 * 70)
    sae, x_BD = frozen_sae(architecture), noise(300, 40)
    plain_BD = FrozenEncoder("plain").reconstruct(sae, x_BD)
    assert torch.equal(plain_BD, sae(x_BD))
    monkeypatch.setattr(type(sae), "forward", None)  # fast or not at all
    torch.testing.assert_close(FrozenEncoder().reconstruct(sae, x_BD), plain_BD, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ALL)
def test_a_code_depends_on_its_activation_alone(architecture, monkeypatch):
    sae, x_BD = frozen_sae(architecture), noise(101, 40)
    whole_BN = FrozenEncoder()(sae, x_BD).dense()
    alone_BN = torch.cat([FrozenEncoder()(sae, x_D[None]).dense() for x_D in x_BD])
    assert torch.equal(whole_BN, alone_BN)


@pytest.mark.parametrize("architecture", ALL)
def test_a_code_is_not_overwritten_by_the_next(architecture):
    sae, encode = frozen_sae(architecture), FrozenEncoder()
    first = encode(sae, noise(50, 40))
    before = first.dense()
    encode(sae, noise(50, 40, seed=1))
    assert torch.equal(first.dense(), before)


@pytest.mark.parametrize("architecture", ["relu", "jumprelu", "batchtopk"])
def test_a_dense_code_is_encoded_plainly_in_pieces(architecture, monkeypatch):
    monkeypatch.setattr(frozen, "DENSE_CELLS", 200 * 30)
    sae, x_BD = frozen_sae(architecture), noise(100, 40)
    if architecture == "relu":
        sae.b_enc.fill_(5.0)
    else:
        sae.threshold.fill_(-1.0)
    dense_BN = sae.encode(x_BD)
    assert float((dense_BN != 0).float().mean()) > 0.4
    torch.testing.assert_close(FrozenEncoder()(sae, x_BD).dense(), dense_BN, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(FrozenEncoder().reconstruct(sae, x_BD), sae(x_BD), rtol=1e-5, atol=1e-5)


def test_an_encoder_stored_by_dimension_and_half_precision_activations():
    sae, x_BD = frozen_sae("topk"), noise(100, 40).half()
    sae.W_enc.data = sae.W_enc.data.contiguous()
    torch.testing.assert_close(FrozenEncoder()(sae, x_BD).dense(), sae.encode(x_BD.float()), rtol=1e-6, atol=2e-6)


def test_an_sae_in_training_keeps_its_own_way():
    """BatchTopK then chooses over the batch and learns its threshold."""
    sae, twin, x_BD = (frozen_sae("batchtopk").train(), frozen_sae("batchtopk").train(), noise(100, 40))
    assert torch.equal(FrozenEncoder()(sae, x_BD).dense(), twin.encode(x_BD))
    assert torch.equal(sae.threshold, twin.threshold)


@pytest.mark.parametrize("architecture", ALL)
def test_no_activations_have_an_empty_code(architecture):
    code = FrozenEncoder()(frozen_sae(architecture), noise(0, 40))
    assert code.dense().shape == (0, 200)
    assert FrozenEncoder().reconstruct(frozen_sae(architecture), noise(0, 40)).shape == (0, 40)


def test_the_loops_for_a_cpu_run_on_a_cpu_only(monkeypatch):
    """Where the fast training step is that of a GPU, encoding is plain; a device without memory stands for one."""
    monkeypatch.setattr(frozen, "use_fast", lambda *_: True)
    sae = frozen_sae("topk").to("meta")
    code = FrozenEncoder()(sae, noise(50, 40).to("meta"))
    assert code.values_E.device.type == "meta"
    assert code.shape == (50, 200)
