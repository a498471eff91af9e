"""What one member is trained with: its own settings, and a fresh trainer for it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_core.foundation.errors import UserError
from sae_core.foundation.method import One
from sae_core.foundation.settings.bounds import LARGEST_SEED
from sae_core.foundation.settings.run_settings import MEMBER_SETTINGS, RunSettings, SAESettings, TrainingSettings
from sae_core.sae import SAE, make_sae
from sae_core.training.distribution import Part, Split
from sae_core.training.kernels import has_fast_bfloat16, step_on, use_fast
from sae_core.training.stage import Plan
from sae_core.training.step import Trainer


def member_seed(seed: int, member: int) -> int:
    """Seed of the initial weights of a member, drawn from the run's seed and its number: 32 bits, as torch keeps."""
    return int(np.random.SeedSequence([seed, member]).generate_state(1, np.uint64)[0] >> 1) & LARGEST_SEED


def initial_seed(settings: RunSettings, member: int | None) -> int:
    """Seed of the initial weights of a member of the bagged or boosted ensemble; None means an SAE by itself."""
    seeds = settings.training.member_seeds
    if member is not None and seeds is not None:
        return member_seed(seeds[member], 0)
    return member_seed(settings.training.seed, member or 0)


def member_settings(settings: RunSettings, member: int | None) -> tuple[SAESettings, TrainingSettings]:
    """The options with which a member is trained.

    Args:
        settings: Those of the run.
        member: Number of the member in the bagged ensemble, or of the stage in the boosted one; None for the single and
            the expanded SAEs, to which the settings with one value a member do not apply.

    Returns:
        The run's settings with the member's own k, sparsity and learning rate in their places. Of the settings with one
        value a member the seed alone is kept, as that of this member.
    """
    training, sae = settings.training, settings.sae
    changed: dict[str, Any] = dict.fromkeys(MEMBER_SETTINGS)
    if member is not None:
        sae = settings.sae_of_member(member)
        if training.member_seeds is not None:
            changed["member_seeds"] = (training.member_seeds[member],)
        if training.member_learning_rates is not None:
            changed["learning_rate"] = training.member_learning_rates[member]
    return sae, training.model_copy(update=changed)


def starts_alike(settings: RunSettings, one: One, other: One) -> bool:
    """Whether two SAEs of a run become the same one if they learn the same: settings, learning rate and seed."""
    (mine, my_rate, my_seed), (theirs, their_rate, their_seed) = (
        (each.sae, member_settings(settings, each.number)[1].learning_rate, initial_seed(settings, each.number))
        for each in (one, other)
    )
    return mine == theirs and my_rate == their_rate and my_seed == their_seed


def make_trainer(
    settings: RunSettings,
    b_dec_D: Tensor,
    plan: Plan,
    *,
    member: int | None,
    width: int,
    biased: bool = True,
    part: Part | None = None,
) -> Trainer:
    """A fresh member, ready to be trained; its decoder bias starts as the mean [D] of what it will see.

    Args:
        settings: Those of the run.
        b_dec_D: That mean.
        plan: How it will be trained.
        member: As in `member_settings`.
        width: Its features, N.
        biased: Whether it has that bias at all.
        part: What this process does of its training. Where batches are split, the plain kernels are used.
    """
    sae_settings, training = member_settings(settings, member)
    sae = make_sae(sae_settings, len(b_dec_D), width=width, seed=initial_seed(settings, member))
    with torch.no_grad():
        sae.b_dec.copy_(b_dec_D if biased else torch.zeros_like(b_dec_D))
    sae.biased = biased
    if sae.kernel is None:
        _refuse_what_does_not_fold(sae)
    sae = sae.to(plan.device)
    sae.train_for(plan.steps, part if isinstance(part, Split) else None)
    fast = use_fast("plain" if isinstance(part, Split) else training.kernels, sae)
    low = _low_precision(training.precision, plan.device, fast=fast)
    compiled = step_on(plan.device) if fast else None
    return Trainer(sae, sae_settings, training, steps=plan.steps, low_precision=low, compiled=compiled, part=part)


@torch.no_grad()
def _refuse_what_does_not_fold(sae: SAE) -> None:
    """Check that an architecture can be made to work on activations that are not scaled, as it is after training.

    Raises:
        UserError: If `SAE.fold_input_scale` changes what it computes, or if that has no fixed value.
    """
    folded, scale = copy.deepcopy(sae).eval(), 2.0
    acts_BD = torch.randn(16, sae.d_in, generator=torch.Generator().manual_seed(0)) + sae.b_dec
    whole_BD = copy.deepcopy(folded)(scale * acts_BD)
    folded.fold_input_scale(scale)
    error = (scale * folded(acts_BD) - whole_BD).norm() / whole_BD.norm().clamp_min(1e-12)
    if not error < 1e-3:
        raise UserError(
            f"{type(sae).__name__} is trained on scaled activations, and its fold_input_scale does not make it work on "
            "others; override it so that g(a) = g'(scale·a)/scale."
        )


def _low_precision(precision: str, device: torch.device, *, fast: bool) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # The plain step would take coarser codes; the fast one only chooses by bfloat16 what it then computes in float32.
    return fast and has_fast_bfloat16()
