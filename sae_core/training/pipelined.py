"""Pipelined boosting: train all stages in one pass, each on the residual that the earlier stages leave at that step.

No stage runs twice: the step of a stage gives a reconstruction of the batch, which is subtracted for the next stage,
without a gradient. So stage 1 equals the single SAE bit by bit, and training costs as much as a bag of equally many
members. In return, later stages follow a target that moves until the learning rate has fallen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sae_core.training.gradients import Outcome
from sae_core.training.step import Trainer

MOMENTUM = 0.99
"""Weight of the past in the mean square of a residual, from step to step."""


class Pipeline:
    """The scales of the stages' inputs, and the step that trains all stages.

    The residual of a stage shrinks during training, and its scale is not known in advance. While the learning rate is
    high, a running mean square follows the scale, so that rates, penalties and thresholds mean the same in every stage.
    While the learning rate falls, the scale stays fixed, so that the scale folded into a finished member is the scale
    of its last training steps. The scale depends on the batches alone, so an interruption does not change it.

    Args:
        scale: Factor that brings the activations to E‖a‖² = D.
        stages: Number of stages, J.
        moving_steps: Number of steps in which the scales follow.
        device: The device of the training.
    """

    def __init__(self, scale: float, stages: int, *, moving_steps: int, device: torch.device) -> None:
        self._scale, self._moving_steps = scale, moving_steps
        self.mean_square_J = torch.ones(stages, device=device)
        self.mean_square_J[0] = scale**-2

    def step(self, trainers: Sequence[Trainer], acts_BD: Tensor) -> tuple[list[Tensor], list[Tensor], list[Outcome]]:
        """Train every stage on one batch.

        Returns:
            For each stage: its target in the scale of its training, Σ‖a − stages so far‖², and the outcome of its step.
        """
        targets: list[Tensor] = []
        errors: list[Tensor] = []
        outcomes: list[Outcome] = []
        left_BD = acts_BD
        for stage, trainer in enumerate(trainers):
            scale = self._follow(stage, left_BD, trainer) if stage else self._scale
            target_BD = left_BD * scale
            outcome = trainer.step(target_BD)
            left_BD = left_BD - outcome.recon_BD.detach() / scale
            targets.append(target_BD)
            errors.append(outcome.squared_error / scale**2)
            outcomes.append(outcome)
        return targets, errors, outcomes

    def _follow(self, stage: int, left_BD: Tensor, trainer: Trainer) -> Tensor:
        """The scale of a stage's target, updated if scales still follow; a tensor, so that the host need not wait."""
        if trainer.done < self._moving_steps:
            now = trainer.part.mean(left_BD.square().mean())
            past = self.mean_square_J[stage] if trainer.done else now
            self.mean_square_J[stage] = MOMENTUM * past + (1 - MOMENTUM) * now
        return self.mean_square_J[stage].clamp_min(1e-30).rsqrt()

    def scales(self) -> list[float]:
        """The factor of each stage, to fold into the finished member."""
        return [self._scale, *self.mean_square_J[1:].clamp_min(1e-30).rsqrt().tolist()]
