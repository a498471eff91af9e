"""Ensembles whose members, or whose later stages, are random dictionaries: what training them is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from sae_core.analysis.shared.pooling import random_dictionary
from sae_core.ensembles.coder import Coder
from sae_core.ensembles.ensemble import Ensemble, as_a_whole
from sae_core.sae import SAE

SAMPLE_ROWS = 4096
"""Activations on which random dictionaries are set up."""
_RANDOM = 7
"""Sets the seeds of random dictionaries apart from all others."""


@torch.no_grad()
def random_twin(
    ensemble: Ensemble,
    sample_BD: Tensor,
    *,
    seed: int = 0,
    kept: int = 0,
    fit: bool = False,
    read_BD: Tensor | None = None,
    path: Sequence[int] = (),
) -> Ensemble:
    """An ensemble with random dictionaries for members (see `random_dictionary`), wired alike.

    A random member has as many active features on the sample as the member in its place has there, each on what it
    reads in its own ensemble: k with TopK, by one threshold for all features (for ReLU in the bias) otherwise.

    Args:
        ensemble: The ensemble to imitate.
        sample_BD: Activations [B, D] on which thresholds, biases and gains are set.
        seed: Seed of the random atoms.
        kept: So many of the first members stay as they are.
        fit: Give each random member the weight that explains most of what it reads on the sample (least squares,
            ⟨r, m(r)⟩ / ‖m(r)‖², for the residual wiring), instead of the weight in the ensemble.
        read_BD: What the ensemble itself reads, where that is not the sample.
        path: Numbers that lead to it, where it is itself a member.
    """
    members, weights = [], []
    twin_BD = sample_BD
    for step in ensemble.walk(sample_BD if read_BD is None else read_BD, as_a_whole, decode=False):
        is_random, twin, weight = step.number >= kept, step.member, step.weight
        if is_random:
            twin = _random_member(step.member, twin_BD, step.input_BD, seed=seed, path=(*path, step.number))
        made_BD = twin(twin_BD)
        if is_random and fit:
            weight = _gain(twin_BD, made_BD)
        members.append(twin)
        weights.append(weight)
        twin_BD = ensemble.after(twin_BD, weight * made_BD)
    return Ensemble(members, wiring=ensemble.wiring, weights=weights, method="random").eval()


def _random_member(like: Coder, acts_BD: Tensor, read_BD: Tensor, *, seed: int, path: Sequence[int]) -> Coder:
    """A random twin of a member that reads ``read_BD`` in its own ensemble; the path of its numbers sets its seed."""
    if isinstance(like, Ensemble):
        return random_twin(like, acts_BD, seed=seed, read_BD=read_BD, path=path)
    # Not the seeds that members are initialised with: TopK members start as random dictionaries. Hashed to 32 bits, of
    # which alone torch's generator makes use.
    own_seed = np.random.SeedSequence([_RANDOM, seed, *path]).generate_state(1)[0]
    return random_dictionary(cast(SAE, like), acts_BD, seed=int(own_seed), read_BD=read_BD)


def _gain(target_BD: Tensor, made_BD: Tensor) -> float:
    """The factor g that makes ‖target − g·made‖² smallest; 0 where nothing was made."""
    energy = float(made_BD.double().square().sum())
    return float((target_BD.double() * made_BD.double()).sum()) / energy if energy > 0 else 0.0


def random_stages(ensemble: Ensemble, sample_BD: Tensor, *, seed: int = 0) -> Ensemble:
    """The control of a boosted ensemble: its own first stage, then random ones, each with one gain fitted.

    What it explains needs no training of the later stages, so only what is above it is what these have learnt.

    Args:
        ensemble: The boosted ensemble.
        sample_BD: Training activations [B, D]; gains, thresholds and biases are set on these.
        seed: Seed of the random atoms.
    """
    return random_twin(ensemble, sample_BD, seed=seed, kept=1, fit=True)
