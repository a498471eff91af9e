"""The compiled training step on a GPU.

The same mathematics as `gradients.py` with `torch.optim.Adam`. Products are library calls, what lies between them are
Triton programs. All trainers on a device share the large buffers, no step waits for the device, and every sum has a
fixed order, so a seed gives the same bits.

TopK and BatchTopK are trained through sparse codes. Codes of ReLU and JumpReLU have no bound on their size that could
be known without waiting for the device, and begin dense; so theirs stay dense (`dense.py`), a part of the batch at a
time. That costs little: the matrix units of a large GPU do a dense product in bfloat16 about as fast as its caches give
out the rows of k = N/100 entries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae_core.training.gradients import Outcome
from sae_core.training.kernels.auxiliary import Auxiliary
from sae_core.training.kernels.compiled_step import CompiledStep
from sae_core.training.kernels.gpu import dense as gpu_dense
from sae_core.training.kernels.gpu import update_programs
from sae_core.training.kernels.gpu.encoding import GpuCode, Inputs, encode, power_of_two

TILE = 2**13
"""Numbers of a table that a program adds to its registers at a time."""

VECTOR_ROW = 2**10
"""Entries of a vector that a program updates."""


class GpuStep(CompiledStep):
    """The step of a GPU.

    In float32 a step is the plain one up to rounding. In bfloat16 it reads weights, activations and the gradient of
    the reconstruction rounded to bfloat16 wherever it multiplies, takes its coefficients from the encoder product, and
    adds in float32; weights, Adam's moments and gradients stay float32. The plain step only rounds the encoder product;
    computing the coefficients anew would read as much again as reconstructing does.
    """

    def train(self, x_BD: Tensor, centred_BD: Tensor, dead_M: Tensor, sparsity: float, learning_rate: float) -> Outcome:
        """Do the step."""
        sae, workspace, scale = self._sae, self.workspace, 1.0 / x_BD.numel()
        grad_BD = workspace.take("gradient of the reconstruction", *x_BD.shape, dtype=self._dtype)
        squares_N = workspace.take("squares", sae.width)
        grads_ND = tuple(workspace.take(f"gradient of {name}", *sae.W_dec.shape) for name in ("W_enc", "W_dec"))
        inputs = self._inputs(centred_BD)
        if sae.selects:
            code = encode(sae, inputs, workspace)
            slopes_E, squared_error = self._decode(code, inputs, x_BD, grad_BD)
            helped = self.help(x_BD, centred_BD, dead_M)
            gradients, entries_N = self._sum_by_feature(code, slopes_E, inputs, grad_BD, grads_ND, helped, squares_N)
            loss, active, fired_N = squared_error * scale, code.counts_B.sum(), entries_N > 0
        else:
            tables = gpu_dense.Tables(x_BD, self._recon_BD, grad_BD, *grads_ND)
            sums = gpu_dense.sum_gradients(sae, inputs, tables, sparsity * scale, workspace)
            gradients, squared_error, active, fired_N = sums.gradients, sums.squared_error, sums.active, sums.fired_N
            helped = self.help(x_BD, centred_BD, dead_M)
            update_programs.finish_gradients[(sae.width,)](
                *(*grads_ND, sae.W_dec, helped.ranks_N, helped.grad_enc_MD, helped.grad_dec_MD, squares_N, sae.d_in),
                COLUMNS=self._tile["COLUMNS"],
            )
            loss = squared_error * scale + sums.penalty
        self.finish_vectors(gradients, helped, dead_M, grad_BD)
        self._update(grads_ND, squares_N, gradients, learning_rate)
        return Outcome({}, self._recon_BD, loss + helped.loss, squared_error, active, fired_N)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self._low_precision else torch.float32

    @property
    def _tile(self) -> dict[str, Any]:
        columns = power_of_two(self._sae.d_in)
        return {"COLUMNS": columns, "ROWS": max(1, min(16, TILE // columns))}

    def _inputs(self, centred_BD: Tensor) -> Inputs:
        """What products read; rounding them anew every step costs a fiftieth of it and leaves nothing to go stale."""
        sae = self._sae
        tables = {"x": centred_BD, "W_enc": sae.W_enc.T, "W_dec": sae.W_dec, "b_enc": sae.b_enc}
        if self._dtype != torch.float32:
            tables = {
                name: self.workspace.take(f"{name} rounded", *table.shape, dtype=self._dtype).copy_(table)
                for name, table in tables.items()
            }
        return Inputs(*tables.values())

    def _decode(self, code: GpuCode, inputs: Inputs, x_BD: Tensor, grad_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct; every entry's slope [E] and the squared error."""
        batch, d_in = x_BD.shape
        slopes_E, errors_B = self.workspace.take("slopes", len(code.values_E)), x_BD.new_empty(batch)
        update_programs.reconstruct[(batch,)](
            *(code.starts_B, code.counts_B, code.features_E, code.values_E, inputs.W_dec_ND, self._sae.b_dec, x_BD),
            *(self._recon_BD, grad_BD, slopes_E, errors_B, d_in, 2.0 / (batch * d_in)),
            **self._tile,
            num_warps=4,
        )
        return slopes_E, errors_B.sum()

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
            torch.index_select(table_E, 0, order_E, out=self.workspace.take(name, len(order_E), dtype=table_E.dtype))
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
        enc_moments, dec_moments = self.moments(sae.W_enc), self.moments(sae.W_dec)
        for unit, *tables in (
            (False, grad_enc_ND, *(table_DN.T for table_DN in (sae.W_enc, *enc_moments))),
            (True, grad_dec_ND, sae.W_dec, *dec_moments),
        ):
            update_programs.update_rows[(sae.width,)](
                *(*tables, numbers_3, sae.d_in, sae.W_dec.numel(), *betas), UNIT=unit, COLUMNS=self._tile["COLUMNS"]
            )
        for name, gradient in gradients.items():
            parameter, size = sae.get_parameter(name), len(gradient)
            update_programs.update_rows[(-(-size // VECTOR_ROW),)](
                *(gradient, parameter, *self.moments(parameter), numbers_3, VECTOR_ROW, size, *betas),
                UNIT=False,
                COLUMNS=VECTOR_ROW,
            )

    def _advance(self, learning_rate: float) -> tuple[Tensor, Tensor]:
        """Count one more step; Adam's step size and the correction of the mean square's root for it."""
        step, (beta1, beta2) = self.count_step().double(), (self._training.beta1, self._training.beta2)
        return (learning_rate / (1 - beta1**step)).float(), (1 - beta2**step).sqrt().float()
