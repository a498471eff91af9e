"""The fast training step on a CPU, through sparse codes from the encoder product to Adam.

The same mathematics as `gradients.py` with `torch.optim.Adam`, in compiled loops: decoding and all gradients cost k
entries per activation, a feature's gradient never leaves the cache, and nothing large is allocated from step to step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.foundation.settings.run_settings import TrainingSettings
from sae_core.sae import SAE, Kernel
from sae_core.training.gradients import Outcome
from sae_core.training.kernels.auxiliary import Auxiliary, no_help, reconstruct_rest, revive
from sae_core.training.kernels.cpu import team, update_loops
from sae_core.training.kernels.cpu.encoding import Code, encode
from sae_core.training.kernels.cpu.screen import Screen
from sae_core.training.kernels.cpu.workspace import shared_workspace


@dataclass(frozen=True, slots=True)
class _Tables:
    """What the gradients of feature i's rows are summed from: the entries pointers[i] … pointers[i + 1].

    Attributes:
        pointers_P: Where features start.
        tokens_E: Activation of each entry.
        values_E: Its coefficient, and so the weight of the reconstruction's gradient in the atom's.
        slopes_E: The gradient of its preactivation, and so the weight of the activation in the encoder's gradient.
        centred_BD: Activations, b_dec subtracted.
        grad_BD: Gradient of the reconstruction.
    """

    pointers_P: NDArray[np.int64]
    tokens_E: NDArray[np.int32]
    values_E: NDArray[np.float32]
    slopes_E: NDArray[np.float32]
    centred_BD: NDArray[np.float32]
    grad_BD: NDArray[np.float32]

    def entries(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        return self.pointers_P, self.tokens_E, self.values_E, self.slopes_E


class FastStep:
    """Forward pass, gradients and optimiser of one SAE.

    Args:
        sae: The SAE, on the CPU in float32; trained in place.
        optimizer: Keeps Adam's moments, in the form in which torch would, so that either step can go on with them.
        training: Decay rates and the clipping norm.
        aux_coefficient: Weight of the help for dead features.
        low_precision: Whether the product that chooses features runs in bfloat16.
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
        self._aux_coefficient, self._low_precision = aux_coefficient, low_precision
        self._workspace = shared_workspace()
        self._recon_BD = torch.empty(0, sae.d_in)

    @torch.no_grad()
    def __call__(self, x_BD: Tensor, dead_M: Tensor, *, sparsity: float, learning_rate: float) -> Outcome | None:
        """Train on one batch.

        Args:
            x_BD: The activations.
            dead_M: Numbers of the features that count as dead.
            sparsity: λ, the present weight of the penalty.
            learning_rate: Adam's.

        Returns:
            What it gave, without gradients; the next call overwrites its reconstruction. Nothing, and nothing is done,
            if the code is not sparse.
        """
        with self._workspace.lock:
            return self._step(x_BD.float().contiguous(), dead_M, sparsity, learning_rate)

    def _step(self, x_BD: Tensor, dead_M: Tensor, sparsity: float, learning_rate: float) -> Outcome | None:
        sae, (batch, d_in) = self._sae, x_BD.shape
        centred_BD = torch.sub(x_BD, sae.b_dec, out=self._workspace.take("centred", batch, d_in))
        screen = Screen(centred_BD, sae.W_enc.T, sae.b_enc, self._workspace, low_precision=self._low_precision)
        code = encode(sae, screen, self._workspace)
        if code is None:
            return None
        grad_BD, slopes_E, errors_B = self._decode(code, x_BD)
        squared_error = torch.tensor(errors_B.sum(), dtype=torch.float32)
        loss = squared_error / (batch * d_in)
        gradients: dict[str, Tensor] = {}
        if not sae.selects:
            penalty, gradients = self._penalize(code, slopes_E, sparsity / (batch * d_in))
            loss = loss + penalty
        tables, gradients["b_enc"] = self._by_feature(code, slopes_E, centred_BD, grad_BD)

        centring_N = gradients["b_enc"]
        helped = self._help(x_BD, centred_BD, dead_M)
        for name, grad_M in helped.vectors.items():
            gradients[name] = gradients[name].index_add(0, dead_M, grad_M)
        # b_dec is added after decoding and subtracted before encoding; to AuxK the centring counts as constant.
        gradients["b_dec"] = grad_BD.sum(dim=0) - sae.W_enc @ (centring_N if sae.selects else gradients["b_enc"])
        norms_B = (screen.norms_B, np.sqrt(errors_B, dtype=np.float32) * np.float32(2.0 / (batch * d_in)))
        self._update(tables, norms_B, helped, gradients, learning_rate)
        counts_N = torch.from_numpy(np.diff(tables.pointers_P[: sae.width + 1]))
        return Outcome({}, self._recon_BD, loss + helped.loss, squared_error, counts_N.sum(), counts_N > 0)

    def _floats(self, name: str, *shape: int) -> NDArray[np.float32]:
        return self._workspace.take(name, *shape).numpy()

    def _decode(self, code: Code, x_BD: Tensor) -> tuple[Tensor, NDArray[np.float32], NDArray[np.float64]]:
        """Reconstruct; the reconstruction's gradient [B, D], every entry's slope [E] and every squared error [B]."""
        sae, (batch, d_in) = self._sae, x_BD.shape
        if self._recon_BD.shape != x_BD.shape:
            self._recon_BD = torch.empty_like(x_BD)
        grad_BD = self._workspace.take("gradient of the reconstruction", batch, d_in)
        slopes_E, errors_B = self._floats("slopes", len(code.values_E)), np.empty(batch)
        team.run(
            update_loops.decode,
            *(code.starts_B, code.stops_B, code.features_E, code.values_E),
            *(sae.W_dec.numpy(), sae.b_dec.numpy(), x_BD.numpy(), np.float32(2.0 / (batch * d_in))),
            *(self._recon_BD.numpy(), grad_BD.numpy(), slopes_E, errors_B),
        )
        return grad_BD, slopes_E, errors_B

    def _penalize(self, code: Code, slopes_E: NDArray[np.float32], weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The sparsity penalty, added to the slopes too; and the gradient of learnt thresholds."""
        sae = self._sae
        if sae.kernel is Kernel.ABOVE_THRESHOLD and code.near_E is not None:
            grad_N = torch.empty_like(sae.threshold)
            update_loops.threshold_gradient(
                *(code.starts_B, code.stops_B, code.features_E, code.near_E, slopes_E, sae.threshold.numpy()),
                *(np.float32(sae.bandwidth), np.float32(weight), grad_N.numpy()),
            )
            active = update_loops.total(code.starts_B, code.stops_B, np.sign(code.values_E))
            return torch.tensor(weight * active), {"threshold": grad_N}
        assert sae.kernel is Kernel.POSITIVE
        # Atoms have norm 1; that growing them would cost something is parallel to them, and so taken out anyway.
        slopes_E += np.float32(weight)
        return torch.tensor(weight * update_loops.total(code.starts_B, code.stops_B, code.values_E)), {}

    def _help(self, x_BD: Tensor, centred_BD: Tensor, dead_M: Tensor) -> Auxiliary:
        sae, coefficient = self._sae, self._aux_coefficient
        if not len(dead_M) or not coefficient:
            return no_help(sae)
        if sae.selects:
            return reconstruct_rest(sae, centred_BD, x_BD - self._recon_BD, dead_M, coefficient)
        return revive(sae, centred_BD, dead_M, coefficient)

    def _by_feature(
        self, code: Code, slopes_E: NDArray[np.float32], centred_BD: Tensor, grad_BD: Tensor
    ) -> tuple[_Tables, Tensor]:
        """The entries sorted by feature, and the gradient of b_enc."""
        size, width = len(slopes_E), self._sae.width
        tables = _Tables(
            np.empty(width + 2, np.int64),
            self._workspace.take("tokens by feature", size, dtype=torch.int32).numpy(),
            self._floats("values by feature", size),
            self._floats("slopes by feature", size),
            centred_BD.numpy(),
            grad_BD.numpy(),
        )
        grad_b_enc_N = torch.empty(width)
        update_loops.sort_by_feature(
            *(code.starts_B, code.stops_B, code.features_E, code.values_E, slopes_E),
            *(*tables.entries(), grad_b_enc_N.numpy()),
        )
        return tables, grad_b_enc_N

    def _update(
        self,
        tables: _Tables,
        norms_B: tuple[NDArray[np.float32], NDArray[np.float32]],
        helped: Auxiliary,
        gradients: dict[str, Tensor],
        learning_rate: float,
    ) -> None:
        """Clip, Adam, unit norm; gradients holds those of the vectors."""
        sae = self._sae
        ranks_N, aux_MD = helped.ranks_N.numpy(), (helped.grad_enc_MD, helped.grad_dec_MD)
        rows = (
            *(*tables.entries(), tables.centred_BD, tables.grad_BD),
            *(ranks_N, *(grad_MD.numpy() for grad_MD in aux_MD), sae.W_dec.numpy()),
        )
        vectors = float(sum(gradient.square().sum() for gradient in gradients.values()))
        # Nearly always a bound on the norm rules out that it is too large, and spares computing all gradients twice.
        aux_norms = (grad_MD.norm(dim=1).numpy() for grad_MD in aux_MD)
        square = vectors + update_loops.bound_square(*tables.entries(), *norms_B, ranks_N, *aux_norms)
        if not math.sqrt(square) + 1e-6 < self._training.clip:
            squares_N = np.empty(sae.width)
            team.run(update_loops.square_gradients, *rows, squares_N)
            square = vectors + squares_N.sum()
        # As torch.nn.utils.clip_grad_norm_ does; NaN stays NaN.
        factor = self._training.clip / (math.sqrt(square) + 1e-6)
        factor_and_adam = (np.float32(1.0 if factor > 1.0 else factor), self._advance(learning_rate))
        (_, *dec_moments), (_, *enc_moments) = self._moments(sae.W_dec), self._moments(sae.W_enc)
        team.run(
            update_loops.update,
            *rows,
            *(moment.numpy() for moment in dec_moments),
            *(table_DN.T.numpy() for table_DN in (sae.W_enc, *enc_moments)),
            *factor_and_adam,
        )
        for name, gradient in gradients.items():
            parameter = sae.get_parameter(name)
            (_, *moments) = self._moments(parameter)
            arrays = (tensor.numpy() for tensor in (gradient, parameter, *moments))
            update_loops.update_vector(*arrays, *factor_and_adam)

    def _moments(self, parameter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(steps done, mean, mean square) of a parameter's gradient."""
        state = self._optimizer.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state.update({name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")})
        return state["step"], state["exp_avg"], state["exp_avg_sq"]

    def _advance(self, learning_rate: float) -> tuple[np.float32, ...]:
        """Count one more step; Adam's seven numbers for it."""
        for parameter in self._sae.parameters():
            steps, *_ = self._moments(parameter)
            steps += 1
        step, beta1, beta2 = int(steps), self._training.beta1, self._training.beta2
        rate, correction = learning_rate / (1 - beta1**step), math.sqrt(1 - beta2**step)
        epsilon = self._optimizer.defaults["eps"]
        return tuple(np.float32(value) for value in (rate, beta1, 1 - beta1, beta2, 1 - beta2, correction, epsilon))
