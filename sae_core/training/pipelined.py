"""Pipelined boosting: all stages in one pass over the stream, each on what those before it leave at that step.

Nothing is run twice: a stage's reconstruction of the batch, which its own step gives, is what is taken away for the
next one, without a gradient. So stage 1 is the single SAE bit by bit, and the whole costs what a bag of as many members
does. The price is that later stages follow a target that moves until the learning rate has fallen.
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
    """The scales of what the stages see, and the step that advances all stages.

    What stages leave shrinks as they learn, and its scale is not known beforehand. It is followed by a running mean
    square while the learning rate is up, so that rates, penalties and thresholds mean in every stage what they mean in
    the first. While the rate falls it stays as it is, so that what is folded into a finished member is the scale on
    which it was last trained. Only batches decide it: it is the same whenever training was interrupted.

    Args:
        scale: Factor that brings the activations to E‖a‖² = D.
        stages: Number of stages, J.
        moving_steps: Steps in which the scales follow.
        device: Where it is trained.
    """

    def __init__(self, scale: float, stages: int, *, moving_steps: int, device: torch.device) -> None:
        self._scale, self._moving_steps = scale, moving_steps
        self.mean_square_J = torch.ones(stages, device=device)
        self.mean_square_J[0] = scale**-2

    def step(self, trainers: Sequence[Trainer], acts_BD: Tensor) -> tuple[list[Tensor], list[Tensor], list[Outcome]]:
        """Train every stage on one batch.

        Returns:
            For each stage its target, as it saw it, Σ‖a − stages so far‖² and what its step gave.
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
        """Scale of a stage's target, after a look at it if scales still follow; a tensor, so that no host waits."""
        if trainer.done < self._moving_steps:
            now = trainer.part.mean(left_BD.square().mean())
            past = self.mean_square_J[stage] if trainer.done else now
            self.mean_square_J[stage] = MOMENTUM * past + (1 - MOMENTUM) * now
        return self.mean_square_J[stage].clamp_min(1e-30).rsqrt()

    def scales(self) -> list[float]:
        """Factor of each stage, to be folded into the finished member."""
        return [self._scale, *self.mean_square_J[1:].clamp_min(1e-30).rsqrt().tolist()]
