"""Boosting: member j learns the residual that the frozen members before it leave (section 3.2 of the paper)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae_core.ensemble import Ensemble
from sae_core.training.source import Source
from sae_core.training.stage import Plan

SAMPLED_BATCHES = 16
"""Batches on which a stage's mean residual and scale are measured; the first that it will train on."""


@torch.no_grad()
def residual_statistics(frozen: Ensemble, source: Source, plan: Plan) -> tuple[Tensor, float]:
    """(mean [D] of the residual r that finished stages leave, √(D / E‖r‖²)).

    Residuals are smaller than activations, so every stage is trained on residuals brought to the same scale: learning
    rates, penalties and thresholds then mean the same in every stage. The factor is folded into the finished member.
    """
    batches = source.batches(batch_size=plan.batch_size, seed=plan.seed)
    count, energy, sum_D = 0, 0.0, torch.zeros(source.d_in, dtype=torch.float64)
    for _ in range(min(SAMPLED_BATCHES, plan.steps)):
        acts_BD = next(batches).to(plan.device)
        residual_BD = acts_BD - frozen(acts_BD)
        count += len(residual_BD)
        energy += float(residual_BD.double().square().sum())
        sum_D += residual_BD.double().sum(dim=0).cpu()
    return (sum_D / count).float(), math.sqrt(source.d_in * count / max(energy, 1e-30))
