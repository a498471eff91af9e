"""Make random twins of ensembles, to measure what training adds: all members, or only later stages, are random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from sae_core.analysis.shared.names_in_tables import RANDOM
from sae_core.analysis.shared.pooling import random_dictionary
from sae_core.ensembles.coder import Coder
from sae_core.ensembles.ensemble import Ensemble, as_a_whole
from sae_core.foundation.methods import REFERENCE, control_name
from sae_core.sae import SAE

SAMPLE_ROWS = 4096
"""Number of activations for setting up random dictionaries."""
_RANDOM = 7
"""Keeps the seeds of random dictionaries apart from all other seeds."""


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
    """Make an ensemble of random dictionaries (see `random_dictionary`) with the same wiring.

    On the sample, a random member has as many active features as the member that it replaces, each on the input in its
    own ensemble: k features with TopK, otherwise through one threshold for all features (for ReLU in the bias).

    Args:
        ensemble: The ensemble to imitate.
        sample_BD: Activations [B, D] for setting thresholds, biases and gains.
        seed: Seed of the random atoms.
        kept: Number of first members to keep as they are.
        fit: Give each random member the weight that explains most of its input on the sample (least squares,
            ⟨r, m(r)⟩ / ‖m(r)‖², for the residual wiring), instead of the weight in the ensemble.
        read_BD: The input of the ensemble itself, if it is not the sample.
        path: The numbers of the members that lead to the ensemble, if it is a member itself.
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
    """The factor g with the smallest ‖target − g·made‖²; 0 if ``made`` is 0."""
    energy = float(made_BD.double().square().sum())
    return float((target_BD.double() * made_BD.double()).sum()) / energy if energy > 0 else 0.0


def random_stages(ensemble: Ensemble, sample_BD: Tensor, *, seed: int = 0) -> Ensemble:
    """Make the control of a boosted ensemble: its own first stage, then random stages, each with one fitted gain.

    The control needs no training of later stages, so the later stages have learnt only the difference to the control.

    Args:
        ensemble: The boosted ensemble.
        sample_BD: Training activations [B, D] for setting gains, thresholds and biases.
        seed: Seed of the random atoms.
    """
    return random_twin(ensemble, sample_BD, seed=seed, kept=1, fit=True)


def beside_untrained(
    ensembles: Mapping[str, Ensemble], controls: Mapping[str, Ensemble], sample_BD: Tensor, *, seed: int
) -> dict[str, Ensemble]:
    """The ensembles, behind a boosted one its control (see `control_name`), and at last `RANDOM`, a random dictionary.

    Args:
        ensembles: Ensembles by name.
        controls: The controls of boosted ensembles by the ensembles' names (see `random_stages`).
        sample_BD: Activations [B, D] for setting up the random dictionary, which imitates the single SAE, or the first
            member there is.
        seed: Seed of the random atoms.
    """
    found: dict[str, Ensemble] = {}
    for name, ensemble in ensembles.items():
        found[name] = ensemble
        if name in controls:
            found[control_name(name)] = controls[name]
    like = ensembles.get(REFERENCE) or next(iter(ensembles.values()))
    # Far from the seeds that members are initialised with: TopK members start as random dictionaries.
    random = random_dictionary(next(like.saes()), sample_BD, seed=(seed + 2**31) % 2**32)
    return {**found, RANDOM: Ensemble([random], wiring="parallel", method=RANDOM)}
