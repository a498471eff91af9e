"""Activations for the tests of training: a tensor in memory, and synthetic data with a known sparse dictionary."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


class TensorSource:
    """The rows of a tensor, as the cache of a run gives them: shuffled anew in each pass, continued at any batch."""

    def __init__(self, acts_RD: Tensor) -> None:
        self.acts_RD = acts_RD.float()
        self.rows, self.d_in = acts_RD.shape
        self.mean_D = acts_RD.double().mean(dim=0)
        self.scale = float((self.d_in / acts_RD.double().square().sum(dim=1).mean()).sqrt())
        self.handed_out = 0

    def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
        per_pass, step = self.rows // batch_size, first_step
        while True:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step // per_pass)
            order = torch.randperm(self.rows, generator=generator)
            for start in range(step % per_pass, per_pass):
                self.handed_out += 1
                step += 1
                yield self.acts_RD[order[start * batch_size : (start + 1) * batch_size]]


def sparse_data(rows: int, *, d_in: int = 24, features: int = 48, active: int = 3, seed: int = 0) -> Tensor:
    """Activations [rows, d_in]: a mean, plus sums of few unit atoms with positive coefficients, plus a little noise."""
    generator = torch.Generator().manual_seed(seed)
    atoms = _draw_atoms(features, d_in, generator)
    fires = torch.rand(rows, features, generator=generator) < active / features
    coefs = fires * (1 + torch.rand(rows, features, generator=generator))
    mean = torch.randn(d_in, generator=generator) * 0.5
    return 5 * (mean + coefs @ atoms + 0.02 * torch.randn(rows, d_in, generator=generator))


def true_atoms(*, d_in: int = 24, features: int = 48, seed: int = 0) -> Tensor:
    """The unit atoms [features, d_in] of `sparse_data` with the same options."""
    return _draw_atoms(features, d_in, torch.Generator().manual_seed(seed))


def _draw_atoms(features: int, d_in: int, generator: torch.Generator) -> Tensor:
    atoms = torch.randn(features, d_in, generator=generator)
    return atoms / atoms.norm(dim=1, keepdim=True)
