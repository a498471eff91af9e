"""One member in training: its weights, optimiser and dead-feature counters, and the step that advances them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sae_core.foundation.errors import UserError
from sae_core.foundation.machine.device import is_out_of_memory
from sae_core.foundation.settings.run_settings import SAESettings, TrainingSettings
from sae_core.sae import SAE
from sae_core.training.distribution import Part
from sae_core.training.gradients import Outcome, compute
from sae_core.training.halves import compute_in_halves
from sae_core.training.kernels.compiled_step import CompiledStep
from sae_core.training.schedule import learning_rate, sparsity_weight

REFRESH = 25
"""Steps between two looks at which features are dead, the only moment at which a step waits for the device."""

ADAM_EPSILON = 6.25e-10
"""Gao et al. 2024, appendix A.1; the gradients of rare features are small."""


class Trainer:
    """One SAE in training.

    Members that are trained side by side are several trainers that are given the same batches; a boosted member is a
    trainer that is given residuals.

    Args:
        sae: The SAE; it is trained in place.
        settings: Its options.
        training: How it is trained.
        steps: Number of steps that the whole training takes, for the schedules.
        low_precision: Whether the encoder product runs in bfloat16.
        compiled: The compiled step that is taken; the plain one is, if not given or where a code is not sparse.
        part: The part of this process in the stage; compiled steps are for whole batches, since they apply gradients.

    Attributes:
        sae: The SAE.
        done: Steps done.
        compiled: The compiled step, if there is one.
        idle_N: Activations since each feature was last active.
        halved: Whether steps are done in two halves, plainly, because the memory once did not hold a whole batch.
    """

    def __init__(
        self,
        sae: SAE,
        settings: SAESettings,
        training: TrainingSettings,
        *,
        steps: int,
        low_precision: bool = False,
        compiled: type[CompiledStep] | None = None,
        part: Part | None = None,
    ) -> None:
        self.part = part or Part()
        self.sae = sae.train()
        self.settings, self.training, self.steps, self.low_precision = settings, training, steps, low_precision
        self.done, self.halved = 0, False
        self.idle_N = torch.zeros(sae.width, dtype=torch.int64, device=sae.b_dec.device)
        self._dead_M = self.idle_N.new_zeros(0)
        self._optimizer = torch.optim.Adam(
            sae.parameters(),
            lr=training.learning_rate,
            betas=(training.beta1, training.beta2),
            eps=ADAM_EPSILON,
            fused=True,
        )
        self.compiled: CompiledStep | None = None
        if compiled:
            aux_coefficient = settings.aux_coefficient
            self.compiled = compiled(
                sae, self._optimizer, training, aux_coefficient=aux_coefficient, low_precision=low_precision
            )

    @property
    def dead_N(self) -> Tensor:
        """Which features count as dead."""
        return self.idle_N >= self.settings.dead_after_tokens

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last step done (of the first, before it)."""
        return learning_rate(max(0, self.done - 1), self.steps, self.training)

    def step(self, x_BD: Tensor) -> Outcome:
        """Train on one batch [B, D] (scaled activations or residuals), or on this process's rows of it.

        Returns:
            What it gave: for this process's rows, but for gradients and fired features, which are of the whole batch.

        Raises:
            UserError: If the memory of the device does not hold the step, not even in two halves.

        A compiled step overwrites the reconstruction of the outcome before.
        """
        if self.done % REFRESH == 0:
            self._dead_M = self.dead_N.nonzero().flatten()
        sparsity = self.settings.sparsity * sparsity_weight(self.done, self.steps, self.training)
        rate = learning_rate(self.done, self.steps, self.training)
        outcome = self._outcome(x_BD, sparsity, rate)
        if outcome.gradients:  # the compiled step has applied them
            outcome = self.part.combine(outcome)
            self._apply(outcome.gradients, rate)
        self.idle_N += self.part.whole(len(x_BD))
        self.idle_N.masked_fill_(outcome.fired_N, 0)
        self.done += 1
        return outcome

    def _outcome(self, x_BD: Tensor, sparsity: float, rate: float) -> Outcome:
        """What a batch gives, at once or, if the memory does not hold that, in two halves."""
        options = {"sparsity": sparsity, "aux_coefficient": self.settings.aux_coefficient}
        if not self.halved:
            buffers = {name: buffer.clone() for name, buffer in self.sae.named_buffers()}
            try:
                step, low = self.compiled, self.low_precision and not self.compiled
                outcome = step(x_BD, self._dead_M, sparsity=sparsity, learning_rate=rate) if step else None
                return outcome or compute(self.sae, x_BD, self._dead_M, low_precision=low, **options)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Not within the handler, where the exception still holds on to all that was allocated.
            self._halve(x_BD, buffers)
        try:
            return compute_in_halves(self.sae, x_BD, self._dead_M, low_precision=self.low_precision, **options)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        raise self._too_large(x_BD)

    def _halve(self, x_BD: Tensor, buffers: Mapping[str, Tensor]) -> None:
        """Undo what a step has begun, and take halves from now on.

        Raises:
            UserError: If that cannot be.
        """
        for parameter in self.sae.parameters():
            parameter.grad = None
        updated = any(int(state["step"]) != self.done for state in self._optimizer.state.values())
        # Other processes wait for what they were to hear of this one's rows, or have heard it already.
        if updated or (self.part.splits and self.sae.shares_batch):
            raise self._too_large(x_BD)
        for name, buffer in self.sae.named_buffers():
            buffer.copy_(buffers[name])
        if self.compiled and not x_BD.is_cuda:
            self.low_precision = False  # the compiled step of a CPU only chooses by it
        self.compiled, self.halved = None, True  # the buffers of the compiled step make room, too
        if x_BD.is_cuda:
            torch.cuda.empty_cache()

    def _too_large(self, x_BD: Tensor) -> UserError:
        halves = ", not even in two halves" if self.halved else ""
        return UserError(
            f"The memory of {x_BD.device} does not hold a step of {len(x_BD)} activations{halves}; lower "
            "training.batch_size, or train fewer members side by side (training.group) or a smaller sae.width."
        )

    @torch.no_grad()
    def _apply(self, gradients: Mapping[str, Tensor], rate: float) -> None:
        # Atoms keep unit norm: what would only lengthen them is taken out of the gradient, the rest is normalised away.
        if not self.sae.biased:
            gradients["b_dec"].zero_()
        grad_ND, atoms_ND = gradients["W_dec"], self.sae.W_dec
        grad_ND.sub_((grad_ND * atoms_ND).sum(dim=1, keepdim=True) * atoms_ND)
        for name, parameter in self.sae.named_parameters():
            # Fused Adam walks through memory, so a gradient must lie there as its parameter does.
            same = gradients[name].stride() == parameter.stride()
            parameter.grad = gradients[name] if same else torch.empty_like(parameter).copy_(gradients[name])
        # The norm stays on the device: clipping needs no comparison on the host.
        torch.nn.utils.clip_grad_norm_(self.sae.parameters(), self.training.clip, foreach=True)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self.sae.normalize_atoms()

    def state(self) -> dict[str, Tensor]:
        """Everything that the next steps depend on, by name; `load_state` takes it back bit by bit.

        Ask for it only after a multiple of `REFRESH` steps, when the list of dead features is renewed anyway, or after
        the last.
        """
        state = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        for name, parameter in self.sae.named_parameters():
            for moment, tensor in self._optimizer.state[parameter].items():
                state[f"adam.{moment}.{name}"] = tensor
        return {**state, "idle": self.idle_N, "done": torch.tensor(self.done)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave.

        Raises:
            UserError: If the state belongs to a different SAE.
        """
        try:
            self.sae.load_state_dict({name: state[f"sae.{name}"] for name in self.sae.state_dict()})
            steps = torch.zeros((), device=self.sae.b_dec.device)
            for name, parameter in self.sae.named_parameters():
                # Moments too must lie in memory as their parameter does; fused Adam counts its steps beside them.
                self._optimizer.state[parameter] = {
                    key.split(".")[1]: torch.empty_like(parameter if tensor.dim() else steps).copy_(tensor)
                    for key, tensor in state.items()
                    if key.startswith("adam.") and key.endswith(f".{name}")
                }
            self.idle_N.copy_(state["idle"])
            self.done = int(state["done"])
        except (KeyError, RuntimeError):
            raise UserError("The checkpoint belongs to another SAE; delete the checkpoint folder.") from None


def assert_members_differ(saes: Sequence[SAE]) -> None:
    """Check that no two members start from the same atoms, as they would if a seed were not applied.

    Raises:
        RuntimeError: If two do.
    """
    for number, sae in enumerate(saes):
        for other, earlier in enumerate(saes[:number]):
            if sae.W_dec.shape == earlier.W_dec.shape and torch.equal(sae.W_dec, earlier.W_dec):
                raise RuntimeError(f"Members {other} and {number} have the same initial weights.")
