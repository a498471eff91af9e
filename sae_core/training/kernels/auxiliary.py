"""Help dead features, in chunks and with gradients of the dead features alone.

`gradients._add_auxk` and `SAE.revival` do the same in one piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sae_core.sae import SAE

CHUNK_ENTRIES = 2**21
"""Coefficients of dead features that exist at a time."""


@dataclass(frozen=True, slots=True)
class Auxiliary:
    """What the M dead features get beside the gradient that every feature gets.

    Attributes:
        ranks_N: Place of each feature among the dead (int32), −1 for those that are not.
        grad_enc_MD: Gradient of their encoder rows.
        grad_dec_MD: Gradient of their atoms.
        vectors: Gradients [M] of their places in other parameters, by the parameter's name.
        loss: The auxiliary loss, weight included.
    """

    ranks_N: Tensor
    grad_enc_MD: Tensor
    grad_dec_MD: Tensor
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    loss: Tensor | float = 0.0


def no_help(sae: SAE) -> Auxiliary:
    """The help where no feature is dead: none."""
    none_MD = sae.W_dec.new_zeros(0, sae.d_in)
    return Auxiliary(_ranks(sae, torch.zeros(0, dtype=torch.int64, device=none_MD.device)), none_MD, none_MD)


def reconstruct_rest(sae: SAE, centred_BD: Tensor, left_BD: Tensor, dead_M: Tensor, coefficient: float) -> Auxiliary:
    """AuxK (Gao et al. 2024, appendix A.2): the dead features explain what the others leave, left_BD = x − g(x)."""
    batch, d_in = left_BD.shape
    encoder_MD, atoms_MD, bias_M = sae.W_enc.T[dead_M], sae.W_dec[dead_M], sae.b_enc[dead_M]
    grad_enc_MD, grad_dec_MD = torch.zeros_like(encoder_MD), torch.zeros_like(atoms_MD)
    grad_b_enc_M, loss = torch.zeros_like(bias_M), bias_M.new_zeros(())
    k, scale, rows = max(1, d_in // 2), coefficient / (batch * d_in), _chunk(dead_M)
    for x_CD, left_CD in zip(centred_BD.split(rows), left_BD.split(rows), strict=True):
        coefs_CM = torch.addmm(bias_M, x_CD, encoder_MD.T).relu_()
        if k < len(dead_M):
            best = coefs_CM.topk(k, dim=1, sorted=False)
            coefs_CM.zero_().scatter_(1, best.indices, best.values)
        error_CD = torch.addmm(left_CD, coefs_CM, atoms_MD, beta=-1)
        loss += error_CD.square().sum() * scale
        grad_CD = error_CD.mul_(2 * scale)
        grad_dec_MD.addmm_(coefs_CM.T, grad_CD)
        slopes_CM = (grad_CD @ atoms_MD.T).mul_(coefs_CM > 0)
        grad_enc_MD.addmm_(slopes_CM.T, x_CD)
        grad_b_enc_M += slopes_CM.sum(dim=0)
    return Auxiliary(_ranks(sae, dead_M), grad_enc_MD, grad_dec_MD, {"b_enc": grad_b_enc_M}, loss)


def revive(sae: SAE, centred_BD: Tensor, dead_M: Tensor, coefficient: float) -> Auxiliary:
    """The pre-activation loss (Conerly et al. 2025): dead features below their threshold are pulled up to it."""
    scale, names = coefficient / centred_BD.numel(), dict(sae.named_parameters())
    encoder_MD, offset_M = sae.W_enc.T[dead_M], sae.thresholds(dead_M) - sae.b_enc[dead_M]
    grad_enc_MD, below_M, loss = torch.zeros_like(encoder_MD), torch.zeros_like(offset_M), offset_M.new_zeros(())
    for x_CD in centred_BD.split(_chunk(dead_M)):
        missing_CM = torch.addmm(offset_M, x_CD, encoder_MD.T, alpha=-1).relu_()
        loss += missing_CM.sum() * scale
        below_CM = missing_CM.gt_(0)
        grad_enc_MD.addmm_(below_CM.T, x_CD, alpha=-scale)
        below_M += below_CM.sum(dim=0)
    vectors = {"b_enc": below_M * -scale}
    if "threshold" in names:
        vectors["threshold"] = below_M * scale
    return Auxiliary(_ranks(sae, dead_M), grad_enc_MD, torch.zeros_like(encoder_MD), vectors, loss)


def _chunk(dead_M: Tensor) -> int:
    return max(1, CHUNK_ENTRIES // len(dead_M))


def _ranks(sae: SAE, dead_M: Tensor) -> Tensor:
    ranks_N = torch.full((sae.width,), -1, dtype=torch.int32, device=dead_M.device)
    ranks_N[dead_M] = torch.arange(len(dead_M), dtype=torch.int32, device=dead_M.device)
    return ranks_N
