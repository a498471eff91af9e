"""Load the trained ensembles of a run for an evaluation."""

from __future__ import annotations

from sae_core.activations.stages import CORPUS
from sae_core.ensembles.ensemble import Ensemble, load_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run


def trained_ensembles(run: Run, device: str) -> dict[str, Ensemble]:
    """Load the ensembles of a run by name, ready for inference.

    Raises:
        UserError: If there is no ensemble, or one is damaged or was trained on activations of another dimension.
    """
    d_in = CORPUS.facts(run).get("d_in")
    ensembles = {folder.name: load_ensemble(folder, device=device, d_in=d_in) for folder in run.ensembles()}
    if not ensembles:
        raise UserError(f"{run.path} holds no trained ensemble; run sae-ensemble train on it first.")
    return ensembles
