"""Compute the loss and the gradients of one SAE on one batch, plainly.

Where an SAE `selects` a fixed number of features, the gradients are written by hand and run through sparse codes.
Elsewhere autograd computes them on dense codes. Unless an SAE overrides `loss`, both minimise

    (1/D)·mean over tokens of [ ‖x − g(x)‖² + λ·penalty ]  +  help for dead features.

Dividing by D makes one clipping norm and one Adam epsilon fit activations of every dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_core.sae import SAE
from sae_core.sae.sparse_code import SparseCode, entry_products, weighted_sum


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of one batch. All are tensors on the device; none is read back to the host.

    Attributes:
        gradients: Gradient of the loss for each parameter, by name; empty after a compiled step, which applies them.
        recon_BD: The reconstruction.
        loss: The loss, including penalty and help for dead features.
        squared_error: Σ over the batch of ‖x − g(x)‖².
        active: Σ over the batch of the number of active features.
        fired_N: Whether each feature was active on at least one activation of the batch.
    """

    gradients: dict[str, Tensor]
    recon_BD: Tensor
    loss: Tensor
    squared_error: Tensor
    active: Tensor
    fired_N: Tensor


def compute(
    sae: SAE, x_BD: Tensor, dead_M: Tensor, *, sparsity: float, aux_coefficient: float, low_precision: bool = False
) -> Outcome:
    """Compute the loss and the gradients of an SAE on a batch.

    Args:
        sae: The SAE, in training mode.
        x_BD: The target: activations, or for a boosted member their residual.
        dead_M: Numbers of the features that count as dead.
        sparsity: λ, the current weight of the penalty.
        aux_coefficient: Weight of the help for dead features.
        low_precision: Whether the encoder product runs in bfloat16.
    """
    if sae.selects:
        return _sparse(sae, x_BD, dead_M, aux_coefficient, low_precision)
    return _dense(sae, x_BD, dead_M, sparsity, aux_coefficient, low_precision)


def encoder_product(centred_BD: Tensor, W_enc_DN: Tensor, low_precision: bool) -> Tensor:
    """Preactivations [B, N] before b_enc is added; b_dec is already subtracted from the activations."""
    if low_precision:
        return (centred_BD.bfloat16() @ W_enc_DN.bfloat16()).float()
    return centred_BD @ W_enc_DN


@torch.no_grad()
def _sparse(sae: SAE, x_BD: Tensor, dead_M: Tensor, aux_coefficient: float, low_precision: bool) -> Outcome:
    batch, d_in = x_BD.shape
    centred_BD = x_BD - sae.b_dec
    pre_BN = encoder_product(centred_BD, sae.W_enc, low_precision).add_(sae.b_enc)
    code = sae.sparse_code(pre_BN)
    if low_precision:  # bfloat16 only chooses the features; their coefficients are computed in float32
        values_E = entry_products(centred_BD, sae.W_enc.T, code) + sae.b_enc[code.features_E]
        code = SparseCode(values_E.relu(), code.features_E, code.rows_E, code.shape)
    recon_BD = sae.decode_sparse(code)
    error_BD = recon_BD - x_BD
    grad_recon_BD = error_BD * (2.0 / (batch * d_in))

    open_E = (code.values_E > 0).to(x_BD.dtype)
    grad_values_E = entry_products(grad_recon_BD, sae.W_dec, code) * open_E
    order_E = code.features_E.argsort(stable=True)
    features_E, tokens_E = code.features_E[order_E], code.rows_E[order_E]

    def by_feature(table_BD: Tensor, weights_E: Tensor) -> Tensor:
        return weighted_sum(table_BD, tokens_E, features_E, weights_E[order_E], sae.width)

    gradients = {
        "W_enc": by_feature(centred_BD, grad_values_E).T,
        "W_dec": by_feature(grad_recon_BD, code.values_E),
        "b_enc": torch.zeros_like(sae.b_enc).index_add_(0, code.features_E, grad_values_E),
    }
    # b_dec is added after decoding and subtracted before encoding.
    gradients["b_dec"] = grad_recon_BD.sum(dim=0) - sae.W_enc @ gradients["b_enc"]
    squared_error = error_BD.square().sum()
    loss = squared_error / (batch * d_in)
    if len(dead_M) and aux_coefficient:
        loss = loss + _add_auxk(gradients, sae, centred_BD, pre_BN, -error_BD, dead_M, aux_coefficient)
    fired_N = torch.zeros_like(sae.b_enc).index_add_(0, code.features_E, open_E) > 0
    return Outcome(gradients, recon_BD, loss, squared_error, open_E.sum(), fired_N)


def _add_auxk(
    gradients: dict[str, Tensor],
    sae: SAE,
    centred_BD: Tensor,
    pre_BN: Tensor,
    left_BD: Tensor,
    dead_M: Tensor,
    coefficient: float,
) -> Tensor:
    """Add the gradients of AuxK (Gao et al. 2024, appendix A.2), and return its weighted loss.

    The D/2 dead features with the largest preactivations reconstruct left_BD = x − g(x). g(x) includes b_dec, so b_dec
    is not added again. left_BD and the centring are constants.
    """
    batch, d_in = left_BD.shape
    coefs_BM = pre_BN[:, dead_M].relu()
    k = max(1, d_in // 2)
    if k < len(dead_M):
        best = coefs_BM.topk(k, dim=1, sorted=False)
        coefs_BM = torch.zeros_like(coefs_BM).scatter_(1, best.indices, best.values)
    atoms_MD = sae.W_dec[dead_M]
    error_BD = coefs_BM @ atoms_MD - left_BD
    grad_BD = error_BD * (2.0 * coefficient / (batch * d_in))
    grad_pre_BM = (grad_BD @ atoms_MD.T) * (coefs_BM > 0)
    gradients["W_dec"].index_add_(0, dead_M, coefs_BM.T @ grad_BD)
    gradients["W_enc"].T.index_add_(0, dead_M, grad_pre_BM.T @ centred_BD)
    gradients["b_enc"].index_add_(0, dead_M, grad_pre_BM.sum(dim=0))
    return error_BD.square().sum() * (coefficient / (batch * d_in))


def _dense(
    sae: SAE, x_BD: Tensor, dead_M: Tensor, sparsity: float, aux_coefficient: float, low_precision: bool
) -> Outcome:
    d_in = x_BD.shape[1]
    with torch.enable_grad():
        if type(sae).pre_activations is SAE.pre_activations:
            pre_BN = encoder_product(x_BD - sae.b_dec, sae.W_enc, low_precision) + sae.b_enc
        else:
            pre_BN = sae.pre_activations(x_BD)
        coefs_BN = sae.activate(pre_BN) if type(sae).encode is SAE.encode else sae.encode(x_BD)
        recon_BD = sae.decode(coefs_BN)
        squared_error = (recon_BD - x_BD).square().sum()
        loss = (sae.loss(x_BD, coefs_BN, squared_error) + sparsity * sae.penalty(pre_BN, coefs_BN)) / d_in
        if len(dead_M) and aux_coefficient:
            loss = loss + aux_coefficient * sae.revival(pre_BN, dead_M, (x_BD - recon_BD).detach()) / d_in
        names, parameters = zip(*sae.named_parameters(), strict=True)
        gradients = dict(zip(names, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True))
    active_BN = coefs_BN.detach() > 0
    return Outcome(
        gradients, recon_BD.detach(), loss.detach(), squared_error.detach(), active_BN.sum(), active_BN.any(dim=0)
    )
