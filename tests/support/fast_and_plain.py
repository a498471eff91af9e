"""Train the same SAE by the plain step and by a fast step, and compare the results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sae_core.foundation.settings.run_settings import Architecture, SAESettings, TrainingSettings
from sae_core.sae import SAE, make_sae
from sae_core.training.kernels.compiled_step import CompiledStep
from sae_core.training.kernels.cpu.step import FastStep
from sae_core.training.step import Trainer

ALL: tuple[Architecture, ...] = ("topk", "batchtopk", "relu", "jumprelu")
SELECTING: tuple[Architecture, ...] = ("topk", "batchtopk")
NONE = torch.zeros(0, dtype=torch.int64)
PRODUCTS = pytest.mark.parametrize("low_precision", [False, True], ids=["float32", "bfloat16"])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sparse_sae(architecture: Architecture, *, d_in: int = 40, width: int = 200, k: int = 6, seed: int = 0) -> SAE:
    """An SAE that has seen some training: rows of different norms, biases, and codes of a few per cent."""
    settings = SAESettings(architecture=architecture, width=width, k=k, bandwidth=0.3, initial_threshold=2.6)
    sae = make_sae(settings, d_in, seed=seed)
    with torch.no_grad():
        sae.W_enc.mul_(0.5 + torch.rand(width, generator=torch.Generator().manual_seed(seed + 1)))
        sae.b_enc.copy_(0.2 * noise(width, seed=seed + 2) - (2.3 if architecture == "relu" else 0))
        sae.b_dec.copy_(noise(d_in, seed=seed + 3))
    return sae


def trainer(sae: SAE, *, fast: bool | type[CompiledStep], low_precision: bool = False, **options: Any) -> Trainer:
    """A trainer that takes plain steps, compiled ones of a CPU, or those of a class."""
    settings = SAESettings(
        architecture=sae.architecture, width=sae.width, k=getattr(sae, "k", 1), sparsity=0.3, aux_coefficient=0.5
    )
    training = TrainingSettings(**{"warmup": 0.0, "sparsity_warmup": 0.0, "learning_rate": 1e-3, **options})
    compiled = FastStep if fast is True else fast or None
    return Trainer(sae, settings, training, steps=100, low_precision=low_precision, compiled=compiled)


def twins(architecture: Architecture, *, low_precision: bool = False, **shape: int) -> tuple[Trainer, Trainer]:
    """The same SAE twice, to be trained plainly and fast."""
    plain = trainer(sparse_sae(architecture, **shape), fast=False)
    return plain, trainer(sparse_sae(architecture, **shape), fast=True, low_precision=low_precision)


def moments(trained: Trainer, name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in trained.state().items() if key.startswith(f"adam.{name}.")}


def assert_same_step(plain: Trainer, fast: Trainer, x_BD: Tensor, dead_M: Tensor = NONE) -> None:
    """One step of either gives the same figures, gradients (times 1 − β₁, as Adam keeps them) and weights.

    The weights are compared through the moments, as Adam's first step is ± the learning rate however small a gradient.
    """
    outcomes = []
    for member in (plain, fast):
        member.idle_N[dead_M] = member.settings.dead_after_tokens
        outcomes.append(member.step(x_BD))
    expected, outcome = outcomes
    near: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(outcome.recon_BD, expected.recon_BD, **near)
    torch.testing.assert_close(outcome.loss, expected.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(outcome.squared_error, expected.squared_error, rtol=1e-5, atol=0)
    assert int(outcome.active) == int(expected.active)
    assert torch.equal(outcome.fired_N, expected.fired_N)
    assert torch.equal(fast.idle_N, plain.idle_N)
    for name in ("exp_avg", "exp_avg_sq"):
        ours, theirs = moments(fast, name), moments(plain, name)
        assert ours.keys() == theirs.keys()
        for key, moment in ours.items():
            scale = float(theirs[key].abs().max())
            torch.testing.assert_close(
                moment, theirs[key], rtol=0, atol=max(1e-5 * scale, 1e-30), msg=lambda text, key=key: f"{key}: {text}"
            )


def assert_used(fast: Trainer) -> None:
    """The last step was done by the kernels and not by the plain code that stands in for them."""
    assert all(parameter.grad is None for parameter in fast.sae.parameters())


def assert_equal(state: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, other[name]), name
