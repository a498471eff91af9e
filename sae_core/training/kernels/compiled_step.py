"""What the compiled steps of a CPU and of a GPU share; `gradients.py` is the plain twin of both."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sae_core.foundation.settings.run_settings import TrainingSettings
from sae_core.sae import SAE
from sae_core.training.gradients import Outcome
from sae_core.training.kernels.auxiliary import Auxiliary, no_help, reconstruct_rest, revive
from sae_core.training.kernels.workspace import shared_workspace


class CompiledStep:
    """Forward pass, gradients and optimiser of one SAE; a subclass overrides `train`.

    Args:
        sae: The SAE in float32; trained in place.
        optimizer: Keeps Adam's moments, in the form in which torch would, so that the plain step can go on with them.
        training: Decay rates and the clipping norm.
        aux_coefficient: Weight of the help for dead features.
        low_precision: Whether products run in bfloat16.

    Attributes:
        workspace: The buffers, which all steps on a device share.
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
        device = sae.b_dec.device
        self.workspace = shared_workspace(device)
        # Triton starts programs on the current device.
        self._device: AbstractContextManager[None] = (
            torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        )
        self._recon_BD = sae.b_dec.new_empty(0, sae.d_in)

    @torch.no_grad()
    def __call__(self, x_BD: Tensor, dead_M: Tensor, *, sparsity: float, learning_rate: float) -> Outcome | None:
        """Train on one batch.

        Args:
            x_BD: The activations.
            dead_M: Numbers of the features that count as dead.
            sparsity: λ, the present weight of the penalty.
            learning_rate: Adam's.

        Returns:
            The outcome without gradients; the next call overwrites its reconstruction. None, and nothing is done, if
            the code is not sparse enough for a CPU.
        """
        with self.workspace.lock, self._device:
            if self._recon_BD.shape != x_BD.shape:
                self._recon_BD = torch.empty_like(x_BD, dtype=torch.float32)
            x_BD = x_BD.float().contiguous()
            centred_BD = torch.sub(x_BD, self._sae.b_dec, out=self.workspace.take("centred", *x_BD.shape))
            return self.train(x_BD, centred_BD, dead_M, sparsity, learning_rate)

    def train(
        self, x_BD: Tensor, centred_BD: Tensor, dead_M: Tensor, sparsity: float, learning_rate: float
    ) -> Outcome | None:
        """Do the step, as `__call__` describes it; b_dec is subtracted from ``centred_BD``."""
        raise NotImplementedError

    def help(self, x_BD: Tensor, centred_BD: Tensor, dead_M: Tensor) -> Auxiliary:
        """Gradients that only dead features get."""
        sae, coefficient = self._sae, self._aux_coefficient
        if not len(dead_M) or not coefficient:
            return no_help(sae)
        if sae.selects:
            return reconstruct_rest(sae, centred_BD, x_BD - self._recon_BD, dead_M, coefficient)
        return revive(sae, centred_BD, dead_M, coefficient)

    def finish_vectors(
        self, gradients: dict[str, Tensor], helped: Auxiliary, dead_M: Tensor, grad_recon_BD: Tensor
    ) -> None:
        """Add the help for dead features to the gradients of the vectors, and the gradient of b_dec."""
        centring_N = gradients["b_enc"]
        for name, grad_M in helped.vectors.items():
            gradients[name] = gradients[name].index_add(0, dead_M, grad_M)
        # b_dec is added after decoding and subtracted before encoding; for AuxK the centring is constant.
        centring_N = centring_N if self._sae.selects else gradients["b_enc"]
        grad_D = grad_recon_BD.sum(dim=0, dtype=torch.float32) - self._sae.W_enc @ centring_N
        gradients["b_dec"] = grad_D if self._sae.biased else torch.zeros_like(grad_D)

    def moments(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and mean square of a parameter's gradient."""
        state = self._optimizer.state[parameter]
        return state["exp_avg"], state["exp_avg_sq"]

    def count_step(self) -> Tensor:
        """Number of steps with this one, on the device, as torch's fused Adam counts them."""
        states = self._optimizer.state
        for parameter in self._sae.parameters():
            if parameter not in states:
                mean, square = (torch.zeros_like(parameter) for _ in range(2))
                states[parameter] = {"step": parameter.new_zeros(()), "exp_avg": mean, "exp_avg_sq": square}
        counts: list[Tensor] = [states[parameter]["step"] for parameter in self._sae.parameters()]
        torch._foreach_add_(counts, 1.0)
        return counts[0]
