"""Make one SAE of a bag that keeps the k largest of each member, and measure what that changes."""

from __future__ import annotations

from typing import Any

import torch

from sae_core.activations.harvest import evaluation_cache
from sae_core.analysis.reconstruction.reconstruction import Moments, run_over
from sae_core.analysis.shared.sample import training_sample
from sae_core.ensembles.ensemble import Ensemble
from sae_core.ensembles.exporting import as_one, matching_thresholds
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run
from sae_core.sae import SAE

ROWS, COMPARED = 8192, 2048
"""Training activations on which levels are measured, and held-out ones on which active features are compared."""


@torch.no_grad()
def one_with_thresholds(run: Run, ensemble: Ensemble) -> tuple[SAE, dict[str, Any]]:
    """The SAE with a threshold for each member, measured on training activations, and how it differs on held-out ones.

    Returns:
        The SAE; ``tokens``, ``explained_variance`` and ``l0`` of it, the same of the ensemble (``ensemble_…``), and
        ``agreeing``, the share of the ensemble's active coefficients that are active in it.

    Raises:
        UserError: If the run's activations are gone, or the ensemble is boosted.
    """
    if not run.activations.exists():
        raise UserError(f"{run.activations} is gone, on which thresholds would be measured; export without --one.")
    sae = as_one(ensemble, matching_thresholds(ensemble, training_sample(run, ROWS)))
    cache = evaluation_cache(run)
    both = {"one": Ensemble([sae], wiring="parallel"), "ensemble": ensemble}
    totals = run_over(
        both, Moments(cache.rows, cache.d_in), cache.read, cache.rows, device="cpu", tell=lambda done: None
    )
    figures = {name: total.figures(bootstrap=1, seed=0) for name, total in totals.items()}
    acts_BD = cache.read(0, min(cache.rows, COMPARED))
    fires_BM, mine_BM = ensemble.encode(acts_BD) > 0, sae.encode(acts_BD) > 0
    told = {key: figures["one"][key] for key in ("explained_variance", "l0")}
    theirs = {f"ensemble_{key}": figures["ensemble"][key] for key in told}
    agreeing = float((fires_BM & mine_BM).sum() / fires_BM.sum().clamp_min(1))
    return sae, {"tokens": cache.rows, **told, **theirs, "agreeing": agreeing}
