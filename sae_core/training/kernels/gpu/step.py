"""The fast training step on a GPU; `fast.py` is its counterpart on a CPU.

The same mathematics as `gradients.py` with `torch.optim.Adam`. Products are library calls, what lies between them are
Triton programs. All trainers on a device share the large buffers, no step waits for the device, and every sum has a
fixed order, so a seed gives the same bits.

TopK and BatchTopK are trained through sparse codes. Codes of ReLU and JumpReLU have no bound on their size that could
be known without waiting for the device, and begin dense; so theirs stay dense (`gpu_dense.py`), a part of the batch at
a time. That costs little: the matrix units of a large GPU do a dense product in bfloat16 about as fast as its caches
give out the rows of k = N/100 entries.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from sae_core.foundation.settings.run_settings import TrainingSettings
from sae_core.sae import SAE
from sae_core.training.gradients import Outcome
from sae_core.training.kernels.auxiliary import Auxiliary, no_help, reconstruct_rest, revive
from sae_core.training.kernels.cpu.workspace import shared_workspace
from sae_core.training.kernels.gpu import dense as gpu_dense
from sae_core.training.kernels.gpu import update_programs
from sae_core.training.kernels.gpu.encoding import GpuCode, Inputs, encode, power_of_two

_TILE = 2**13
"""Numbers of a table that a program adds to its registers at a time."""

_VECTOR_ROW = 2**10
"""Entries of a vector that a program updates."""


class GpuStep:
    """Forward pass, gradients and optimiser of one SAE.

    In float32 a step is the plain one up to rounding. In bfloat16 it reads weights, activations and the gradient of
    the reconstruction rounded to bfloat16 wherever it multiplies, takes its coefficients from the encoder product, and
    adds in float32; weights, Adam's moments and gradients stay float32. The plain step only rounds the encoder product;
    computing the coefficients anew would read as much again as reconstructing does.

    Args:
        sae: The SAE, on the GPU in float32; trained in place.
        optimizer: Keeps Adam's moments, in the form in which torch would, so that either step can go on with them.
        training: Decay rates and the clipping norm.
        aux_coefficient: Weight of the help for dead features.
        low_precision: Whether products read bfloat16.
    """

    def __init__(
        self,
        sae: SAE,
        optimizer: torch.optim.Adam,
        training: TrainingSettings,
        *,
        aux_coefficient: float,
        low_precision: bool,
    ) -> None:
        self._sae, self._optimizer, self._training = sae, optimizer, training
        self._aux_coefficient, self._dtype = aux_coefficient, torch.bfloat16 if low_precision else torch.float32
        device = sae.b_dec.device
        self._workspace = shared_workspace(device)
        # Triton starts programs on the current device; on a CPU its interpreter runs them, for tests.
        self._device: AbstractContextManager[None] = (
            torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        )
        self._recon_BD = sae.b_dec.new_empty(0, sae.d_in)
        columns = power_of_two(sae.d_in)
        self._tile: dict[str, Any] = {"COLUMNS": columns, "ROWS": max(1, min(16, _TILE // columns))}

    @torch.no_grad()
    def __call__(self, x_BD: Tensor, dead_M: Tensor, *, sparsity: float, learning_rate: float) -> Outcome:
        """Train on one batch.

        Args:
            x_BD: The activations.
            dead_M: Numbers of the features that count as dead.
            sparsity: λ, the present weight of the penalty.
            learning_rate: Adam's.

        Returns:
            What it gave, without gradients; the next call overwrites its reconstruction.
        """
        with self._workspace.lock, self._device:
            return self._step(x_BD.float().contiguous(), dead_M, sparsity, learning_rate)

    def _step(self, x_BD: Tensor, dead_M: Tensor, sparsity: float, learning_rate: float) -> Outcome:
        if self._recon_BD.shape != x_BD.shape:
            self._recon_BD = torch.empty_like(x_BD)
        sae, workspace, scale = self._sae, self._workspace, 1.0 / x_BD.numel()
        centred_BD = torch.sub(x_BD, sae.b_dec, out=workspace.take("centred", *x_BD.shape))
        grad_BD = workspace.take("gradient of the reconstruction", *x_BD.shape, dtype=self._dtype)
        squares_N = workspace.take("squares", sae.width)
        grads_ND = tuple(workspace.take(f"gradient of {name}", *sae.W_dec.shape) for name in ("W_enc", "W_dec"))
        inputs = self._inputs(centred_BD)
        if sae.selects:
            code = encode(sae, inputs, workspace)
            slopes_E, squared_error = self._decode(code, inputs, x_BD, grad_BD)
            helped = self._help(x_BD, centred_BD, dead_M)
            gradients, entries_N = self._sum_by_feature(code, slopes_E, inputs, grad_BD, grads_ND, helped, squares_N)
            loss, active, fired_N = squared_error * scale, code.counts_B.sum(), entries_N > 0
        else:
            tables = gpu_dense.Tables(x_BD, self._recon_BD, grad_BD, *grads_ND)
            sums = gpu_dense.sum_gradients(sae, inputs, tables, sparsity * scale, workspace)
            gradients, squared_error, active, fired_N = sums.gradients, sums.squared_error, sums.active, sums.fired_N
            helped = self._help(x_BD, centred_BD, dead_M)
            update_programs.finish_gradients[(sae.width,)](
                *(*grads_ND, sae.W_dec, helped.ranks_N, helped.grad_enc_MD, helped.grad_dec_MD, squares_N, sae.d_in),
                COLUMNS=self._tile["COLUMNS"],
            )
            loss = squared_error * scale + sums.penalty
        # b_dec is added after decoding and subtracted before encoding; to AuxK the centring counts as constant.
        centring_N = gradients["b_enc"].clone() if sae.selects else gradients["b_enc"]
        for name, grad_M in helped.vectors.items():
            gradients[name].index_add_(0, dead_M, grad_M)
        gradients["b_dec"] = grad_BD.sum(dim=0, dtype=torch.float32) - sae.W_enc @ centring_N
        self._update(grads_ND, squares_N, gradients, learning_rate)
        return Outcome({}, self._recon_BD, loss + helped.loss, squared_error, active, fired_N)

    def _inputs(self, centred_BD: Tensor) -> Inputs:
        """What products read; rounding them anew every step costs a fiftieth of it and leaves nothing to go stale."""
        sae = self._sae
        tables = {"x": centred_BD, "W_enc": sae.W_enc.T, "W_dec": sae.W_dec, "b_enc": sae.b_enc}
        if self._dtype != torch.float32:
            tables = {
                name: self._workspace.take(f"{name} rounded", *table.shape, dtype=self._dtype).copy_(table)
                for name, table in tables.items()
            }
        return Inputs(*tables.values())

    def _decode(self, code: GpuCode, inputs: Inputs, x_BD: Tensor, grad_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct; every entry's slope [E] and the squared error."""
        batch, d_in = x_BD.shape
        slopes_E, errors_B = self._workspace.take("slopes", len(code.values_E)), x_BD.new_empty(batch)
        update_programs.reconstruct[(batch,)](
            *(code.starts_B, code.counts_B, code.features_E, code.values_E, inputs.W_dec_ND, self._sae.b_dec, x_BD),
            *(self._recon_BD, grad_BD, slopes_E, errors_B, d_in, 2.0 / (batch * d_in)),
            **self._tile,
            num_warps=4,
        )
        return slopes_E, errors_B.sum()

    def _help(self, x_BD: Tensor, centred_BD: Tensor, dead_M: Tensor) -> Auxiliary:
        sae, coefficient = self._sae, self._aux_coefficient
        if not len(dead_M) or not coefficient:
            return no_help(sae)
        if sae.selects:
            return reconstruct_rest(sae, centred_BD, x_BD - self._recon_BD, dead_M, coefficient)
        return revive(sae, centred_BD, dead_M, coefficient)

    def _sum_by_feature(
        self,
        code: GpuCode,
        slopes_E: Tensor,
        inputs: Inputs,
        grad_BD: Tensor,
        grads_ND: tuple[Tensor, ...],
        helped: Auxiliary,
        squares_N: Tensor,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Write the gradients of encoder rows and atoms; that of b_enc, and how many entries each feature has [N]."""
        sae = self._sae
        features_E, order_E = code.features_E.sort(stable=True)
        starts_P = torch.arange(sae.width + 1, dtype=features_E.dtype, device=features_E.device)
        pointers_P = torch.searchsorted(features_E, starts_P, out_int32=True)
        sorted_entries = [
            torch.index_select(table_E, 0, order_E, out=self._workspace.take(name, len(order_E), dtype=table_E.dtype))
            for name, table_E in (
                ("rows by feature", code.rows_E),
                ("values by feature", code.values_E),
                ("slopes by feature", slopes_E),
            )
        ]
        grad_b_enc_N = torch.empty_like(sae.b_enc)
        update_programs.sum_gradients[(sae.width,)](
            *(pointers_P, *sorted_entries, inputs.x_BD, grad_BD, grad_b_enc_N, *grads_ND, sae.W_dec),
            *(helped.ranks_N, helped.grad_enc_MD, helped.grad_dec_MD, squares_N, sae.d_in),
            **self._tile,
            num_warps=8,
        )
        return {"b_enc": grad_b_enc_N}, pointers_P.diff()

    def _update(
        self, grads_ND: tuple[Tensor, ...], squares_N: Tensor, gradients: dict[str, Tensor], learning_rate: float
    ) -> None:
        """Clip, Adam, unit norm; gradients holds those of the vectors."""
        sae = self._sae
        square = torch.stack([squares_N.sum(), *(gradient.square().sum() for gradient in gradients.values())]).sum()
        # As torch.nn.utils.clip_grad_norm_ does, on the device; NaN stays NaN.
        factor = (self._training.clip / (square.sqrt() + 1e-6)).clamp(max=1.0)
        numbers_3 = torch.stack([factor, *self._advance(learning_rate)])
        beta1, beta2 = self._training.beta1, self._training.beta2
        betas = (beta1, 1 - beta1, beta2, 1 - beta2, self._optimizer.defaults["eps"])
        grad_enc_ND, grad_dec_ND = grads_ND
        # W_enc and its moments are [D, N] but lie feature by feature.
        (_, *enc_moments), (_, *dec_moments) = self._moments(sae.W_enc), self._moments(sae.W_dec)
        for unit, *tables in (
            (False, grad_enc_ND, *(table_DN.T for table_DN in (sae.W_enc, *enc_moments))),
            (True, grad_dec_ND, sae.W_dec, *dec_moments),
        ):
            update_programs.update_rows[(sae.width,)](
                *(*tables, numbers_3, sae.d_in, sae.W_dec.numel(), *betas), UNIT=unit, COLUMNS=self._tile["COLUMNS"]
            )
        for name, gradient in gradients.items():
            parameter, size = sae.get_parameter(name), len(gradient)
            _, *moments = self._moments(parameter)
            update_programs.update_rows[(-(-size // _VECTOR_ROW),)](
                *(gradient, parameter, *moments, numbers_3, _VECTOR_ROW, size, *betas), UNIT=False, COLUMNS=_VECTOR_ROW
            )

    def _moments(self, parameter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(steps done, mean, mean square) of a parameter's gradient."""
        state = self._optimizer.state[parameter]
        if not state:
            state["step"] = parameter.new_zeros(())
            state.update({name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")})
        return state["step"], state["exp_avg"], state["exp_avg_sq"]

    def _advance(self, learning_rate: float) -> tuple[Tensor, Tensor]:
        """Count one more step; Adam's step size and the correction of the mean square's root for it.

        Steps are counted on the device, as torch's fused Adam counts them, and the powers taken in float64.
        """
        counts = [self._moments(parameter)[0] for parameter in self._sae.parameters()]
        torch._foreach_add_(counts, 1.0)
        step, (beta1, beta2) = counts[0].double(), (self._training.beta1, self._training.beta2)
        return (learning_rate / (1 - beta1**step)).float(), (1 - beta2**step).sqrt().float()
