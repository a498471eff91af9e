"""SAEs and ensembles of every architecture with random weights, ready for inference."""

from __future__ import annotations

import pytest
import torch

from sae_core.ensembles.ensemble import Ensemble, Wiring
from sae_core.foundation.settings.run_settings import Architecture, SAESettings
from sae_core.sae import ARCHITECTURES, SAE, BatchTopKSAE, make_sae

ALL = tuple(ARCHITECTURES)
_OFTEN = ("topk", "batchtopk", "relu", "jumprelu")
TRAINED = [pytest.param(name, marks=() if name in _OFTEN else pytest.mark.slow) for name in ALL]
"""The same, for tests that train whole ensembles: the four of which the others are kinds always, all with the slow."""


def random_sae(architecture: Architecture, *, d_in: int = 12, width: int = 40, seed: int = 0) -> SAE:
    """An SAE whose every parameter differs from its initial value, ready for inference."""
    settings = SAESettings(architecture=architecture, width=width, k=4, initial_threshold=0.4, bandwidth=0.2)
    sae = make_sae(settings, d_in, seed=seed)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        if isinstance(sae, BatchTopKSAE):
            sae.threshold.fill_(0.6)
    return sae.eval()


def random_ensemble(
    architecture: Architecture, wiring: Wiring, widths: tuple[int, ...] = (24, 40, 16), *, d_in: int = 8
) -> Ensemble:
    """An ensemble of members of these widths, every weight and threshold of which matters."""
    settings = SAESettings(architecture=architecture, width=24, k=3, initial_threshold=0.4)
    members = [make_sae(settings, d_in, width=width, seed=seed) for seed, width in enumerate(widths)]
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for member in members:
            member.b_dec.normal_(generator=generator)
            member.b_enc.normal_(std=0.1, generator=generator).sub_(0.2)
            if isinstance(member, BatchTopKSAE):
                member.threshold.fill_(0.7)
    weights = [0.5, 0.3, 0.2] if wiring == "parallel" else [1.0, 0.75, 1.0]
    return Ensemble(members, wiring=wiring, weights=weights[: len(widths)]).eval()
