"""What each ensemble costs: to train, to keep, to run."""

from __future__ import annotations

from typing import Any

from sae_core.ensemble import Ensemble
from sae_core.files import read_json
from sae_core.run import Run


def inference_flops(ensemble: Ensemble, l0: float) -> float:
    """Floating-point operations to encode and reconstruct one token.

    2·D for each of the M features (a dense encoder) and 2·D for each of the L0 active ones (a sparse decoder).
    """
    return 2.0 * ensemble.d_in * (sum(ensemble.widths) + l0)


def measure_cost(run: Run, ensembles: dict[str, Ensemble]) -> dict[str, dict[str, Any]]:
    """The content of evaluation/cost.json; what training did not record (an ensemble from elsewhere) is None.

    ``train_seconds`` is what the ensemble would cost by itself, also where members were shared with another ensemble.
    ``bytes`` is the size of the members' weight files.

    Args:
        run: The run; its reconstruction must have been measured, which gives L0.
        ensembles: Ensembles by name.
    """
    measured = read_json(run.evaluation("reconstruction"))["ensembles"]
    costs = {}
    for name, ensemble in ensembles.items():
        facts = run.facts(f"train/{name}")
        folder = run.ensemble(name)
        files = [file for number in range(len(ensemble)) for file in folder.member(number).glob("*.safetensors")]
        costs[name] = {
            "train_seconds": facts.get("seconds"),
            "tokens": facts.get("tokens"),
            "parameters": sum(parameter.numel() for parameter in ensemble.parameters()),
            "bytes": sum(file.stat().st_size for file in files),
            "train_flops": facts.get("flops"),
            "inference_flops_per_token": inference_flops(ensemble, measured[name]["l0"]),
            "members": len(ensemble),
        }
    return costs
