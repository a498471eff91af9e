"""The compiled training step on a CPU, through sparse codes from the encoder product to Adam.

The same mathematics as `gradients.py` with `torch.optim.Adam`, in compiled loops: decoding and all gradients cost k
entries per activation, a feature's gradient never leaves the cache, and no step allocates anything large.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.sae import Kernel
from sae_core.training.gradients import Outcome
from sae_core.training.kernels.auxiliary import Auxiliary
from sae_core.training.kernels.compiled_step import CompiledStep
from sae_core.training.kernels.cpu import team, update_loops
from sae_core.training.kernels.cpu.encoding import encode
from sae_core.training.kernels.cpu.screen import Screen
from sae_core.training.kernels.cpu.select_loops import Code
from sae_core.training.kernels.cpu.update_loops import Rows


class FastStep(CompiledStep):
    """The step of a CPU. Only the product that chooses features runs in bfloat16, if any."""

    def train(
        self, x_BD: Tensor, centred_BD: Tensor, dead_M: Tensor, sparsity: float, learning_rate: float
    ) -> Outcome | None:
        """Do the step; None if the code is not sparse."""
        sae, scale = self._sae, 1.0 / x_BD.numel()
        screen = Screen(centred_BD, sae.W_enc.T, sae.b_enc, self.workspace, low_precision=self._low_precision)
        code = encode(sae, screen, self.workspace)
        if code is None:
            return None
        grad_BD, slopes_E, errors_B = self._decode(code, x_BD)
        squared_error = torch.tensor(errors_B.sum(), dtype=torch.float32)
        loss = squared_error / x_BD.numel()
        gradients: dict[str, Tensor] = {}
        if not sae.selects:
            penalty, gradients = self._penalize(code, slopes_E, sparsity / x_BD.numel())
            loss = loss + penalty
        helped = self.help(x_BD, centred_BD, dead_M)
        rows, gradients["b_enc"] = self._by_feature(code, slopes_E, centred_BD, grad_BD, helped)
        self.finish_vectors(gradients, helped, dead_M, grad_BD)
        norms_B = (screen.norms_B, np.sqrt(errors_B, dtype=np.float32) * np.float32(2.0 * scale))
        self._update(rows, norms_B, gradients, learning_rate)
        counts_N = torch.from_numpy(np.diff(rows.pointers_P[: sae.width + 1]))
        return Outcome({}, self._recon_BD, loss + helped.loss, squared_error, counts_N.sum(), counts_N > 0)

    def _floats(self, name: str, *shape: int) -> NDArray[np.float32]:
        return self.workspace.take(name, *shape).numpy()

    def _decode(self, code: Code, x_BD: Tensor) -> tuple[Tensor, NDArray[np.float32], NDArray[np.float64]]:
        """Reconstruct; the reconstruction's gradient [B, D], every entry's slope [E] and every squared error [B]."""
        sae, (batch, d_in) = self._sae, x_BD.shape
        grad_BD = self.workspace.take("gradient of the reconstruction", batch, d_in)
        slopes_E, errors_B = self._floats("slopes", len(code.values_E)), np.empty(batch)
        team.run(
            update_loops.decode,
            *(code, sae.W_dec.numpy(), sae.b_dec.numpy(), x_BD.numpy(), np.float32(2.0 / (batch * d_in))),
            *(self._recon_BD.numpy(), grad_BD.numpy(), slopes_E, errors_B),
        )
        return grad_BD, slopes_E, errors_B

    def _penalize(self, code: Code, slopes_E: NDArray[np.float32], weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The sparsity penalty, added to the slopes too; and the gradient of learnt thresholds."""
        sae = self._sae
        if sae.kernel is Kernel.ABOVE_THRESHOLD:
            grad_N = torch.empty_like(sae.threshold)
            numbers = (np.float32(sae.bandwidth), np.float32(weight))
            update_loops.threshold_gradient(code, slopes_E, sae.threshold.numpy(), *numbers, grad_N.numpy())
            active = update_loops.total(code, np.sign(code.values_E))
            return torch.tensor(weight * active), {"threshold": grad_N}
        assert sae.kernel is Kernel.POSITIVE
        # Atoms have norm 1. The penalty on their norms has a gradient parallel to them, which is taken out anyway.
        slopes_E += np.float32(weight)
        return torch.tensor(weight * update_loops.total(code, code.values_E)), {}

    def _by_feature(
        self, code: Code, slopes_E: NDArray[np.float32], centred_BD: Tensor, grad_BD: Tensor, helped: Auxiliary
    ) -> tuple[Rows, Tensor]:
        """The entries sorted by feature, and the gradient of b_enc."""
        size, width = len(slopes_E), self._sae.width
        tables = (centred_BD, grad_BD, helped.ranks_N, helped.grad_enc_MD, helped.grad_dec_MD, self._sae.W_dec)
        rows = Rows(
            np.empty(width + 2, np.int64),
            self.workspace.take("tokens by feature", size, dtype=torch.int32).numpy(),
            self._floats("values by feature", size),
            self._floats("slopes by feature", size),
            *(table.numpy() for table in tables),
        )
        grad_b_enc_N = torch.empty(width)
        update_loops.sort_by_feature(code, slopes_E, rows, grad_b_enc_N.numpy())
        return rows, grad_b_enc_N

    def _update(
        self, rows: Rows, norms_B: tuple[NDArray[np.float32], ...], gradients: dict[str, Tensor], learning_rate: float
    ) -> None:
        """Clip, Adam, unit norm; gradients holds those of the vectors."""
        sae = self._sae
        vectors = float(sum(gradient.square().sum() for gradient in gradients.values()))
        # A bound on the norm nearly always shows that it is small enough, and so saves computing all gradients twice.
        aux_norms = (torch.from_numpy(grad_MD).norm(dim=1).numpy() for grad_MD in (rows.aux_enc_MD, rows.aux_dec_MD))
        square = vectors + update_loops.bound_square(rows, *norms_B, *aux_norms)
        if not math.sqrt(square) + 1e-6 < self._training.clip:
            squares_N = np.empty(sae.width)
            team.run(update_loops.square_gradients, rows, squares_N)
            square = vectors + squares_N.sum()
        # As torch.nn.utils.clip_grad_norm_ does; NaN stays NaN.
        factor = self._training.clip / (math.sqrt(square) + 1e-6)
        adam_8 = self._adam(1.0 if factor > 1.0 else factor, learning_rate)
        encoder_3 = tuple(table_DN.T.numpy() for table_DN in (sae.W_enc, *self.moments(sae.W_enc)))
        decoder_3 = tuple(table_ND.numpy() for table_ND in (sae.W_dec, *self.moments(sae.W_dec)))
        team.run(update_loops.update, rows, encoder_3, decoder_3, adam_8)
        for name, gradient in gradients.items():
            parameter = sae.get_parameter(name)
            arrays = (tensor.numpy() for tensor in (gradient, parameter, *self.moments(parameter)))
            update_loops.update_vector(*arrays, adam_8)

    def _adam(self, factor: float, learning_rate: float) -> tuple[np.float32, ...]:
        """Count one more step; the factor that clips gradients, and Adam's seven numbers for the step."""
        step, beta1, beta2 = int(self.count_step()), self._training.beta1, self._training.beta2
        rate, correction = learning_rate / (1 - beta1**step), math.sqrt(1 - beta2**step)
        epsilon = self._optimizer.defaults["eps"]
        numbers = (factor, rate, beta1, 1 - beta1, beta2, 1 - beta2, correction, epsilon)
        return tuple(np.float32(number) for number in numbers)
