"""Loss and gradients of SAEs with a penalty on a GPU: dense products, for a part of the batch at a time.

The same as autograd gives in `gradients.py`, without a coefficient of the whole batch in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_core.sae import SAE, Kernel
from sae_core.training.kernels.gpu.encoding import Inputs
from sae_core.training.kernels.workspace import Workspace

CHUNK_ENTRIES = 2**25
"""Coefficients that exist at a time; every chunk adds once to the gradients of all weights."""


@dataclass(slots=True)
class Sums:
    """What is summed over a batch.

    Attributes:
        gradients: Gradients of the vectors b_enc and, where it is learnt, threshold.
        squared_error: Σ ‖x − g(x)‖².
        penalty: The sparsity penalty, its weight included.
        active: Number of active features.
        fired_N: Which features were active.
    """

    gradients: dict[str, Tensor]
    squared_error: Tensor
    penalty: Tensor
    active: Tensor
    fired_N: Tensor


@dataclass(frozen=True, slots=True)
class Tables:
    """Activations as they are, and what is written: reconstruction, its gradient, gradients of the weights."""

    x_BD: Tensor
    recon_BD: Tensor
    grad_BD: Tensor
    grad_enc_ND: Tensor
    grad_dec_ND: Tensor


def sum_gradients(sae: SAE, inputs: Inputs, tables: Tables, per_entry: float, workspace: Workspace) -> Sums:
    """Fill the tables; per_entry is the cost of a coefficient of 1, or with learnt thresholds of an active feature."""
    zero, zeros_N = sae.b_enc.new_zeros(()), torch.zeros_like(sae.b_enc)
    sums = Sums({"b_enc": zeros_N}, zero, zero, zero.long(), zeros_N.bool())
    assert sae.kernel in (Kernel.POSITIVE, Kernel.ABOVE_THRESHOLD)
    jumping = sae if sae.kernel is Kernel.ABOVE_THRESHOLD else None
    if jumping is not None:
        sums.gradients["threshold"] = torch.zeros_like(zeros_N)
    tables.grad_enc_ND.zero_()
    tables.grad_dec_ND.zero_()
    scale = 2.0 / tables.x_BD.numel()
    for first, pre_CN in inputs.products(CHUNK_ENTRIES, workspace):
        rows = slice(first, first + len(pre_CN))
        open_CN = pre_CN > (0.0 if jumping is None else jumping.threshold.clamp_min(0.0))
        coefs_CN = pre_CN * open_CN
        recon_CD = torch.add(_product(coefs_CN, inputs.W_dec_ND), sae.b_dec, out=tables.recon_BD[rows])
        error_CD = recon_CD - tables.x_BD[rows]
        sums.squared_error = sums.squared_error + error_CD.square().sum()
        grad_CD = tables.grad_BD[rows].copy_(error_CD.mul_(scale))
        slopes_CN = grad_CD @ inputs.W_dec_ND.T
        sums.active = sums.active + open_CN.sum()
        sums.fired_N |= open_CN.any(dim=0)
        if jumping is not None:
            sums.gradients["threshold"] += _threshold_gradient(jumping, pre_CN, slopes_CN, per_entry)
        else:
            slopes_CN += per_entry
            sums.penalty = sums.penalty + coefs_CN.sum(dtype=torch.float32) * per_entry
        slopes_CN *= open_CN
        tables.grad_dec_ND.add_(_product(coefs_CN.T, grad_CD))
        tables.grad_enc_ND.add_(_product(slopes_CN.T, inputs.x_BD[rows]))
        sums.gradients["b_enc"] += slopes_CN.sum(dim=0, dtype=torch.float32)
    if jumping is not None:
        sums.penalty = sums.active * per_entry
    return sums


def _threshold_gradient(sae: SAE, pre_CN: Tensor, slopes_CN: Tensor, per_entry: float) -> Tensor:
    """Straight-through gradient of the thresholds from entries within half a bandwidth of them."""
    near_CN = (pre_CN - sae.threshold).abs() < sae.bandwidth / 2
    pulled_N = (slopes_CN * near_CN).sum(dim=0, dtype=torch.float32)
    return (sae.threshold * pulled_N + near_CN.sum(dim=0) * per_entry) / -sae.bandwidth


def _product(left: Tensor, right: Tensor) -> Tensor:
    """A product in float32 of tables that may be bfloat16."""
    if left.dtype == torch.float32:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()  # what the matrix units of a GPU give
