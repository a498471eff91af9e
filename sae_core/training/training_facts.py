"""Record the time, memory and arithmetic of a training."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass

import pandas as pd
import torch

from sae_core.ensembles.ensemble import Ensemble
from sae_core.training.operations import Boosting, EnsembleShape, ensemble_flops
from sae_core.training.stage import Plan


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of training an SAE or an ensemble.

    Attributes:
        seconds: The training time in seconds.
        shared_seconds: The part of this time that was spent on another method.
        side_by_side: Number of members that one process trained together in one pass.
        boosting: How boosted stages got their residuals; None for members trained together.
    """

    seconds: float
    shared_seconds: float = 0.0
    side_by_side: int = 1
    boosting: Boosting | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """A newly trained ensemble, its training curves, and the cost of its training."""

    ensemble: Ensemble
    curves: pd.DataFrame
    cost: Cost


def longest(curves: pd.DataFrame) -> float:
    """The time in seconds of the last recorded row of the curves of one pass."""
    return float(curves["seconds"].max())


def training_facts(ensemble: Ensemble, cost: Cost, plan: Plan, *, rows: int, peak: int) -> dict[str, float | int | str]:
    """The facts of a training for run.json.

    Args:
        ensemble: The trained ensemble.
        cost: The cost of the training.
        plan: The plan of the training.
        rows: Number of different activations.
        peak: The largest peak memory of any process.
    """
    shape = EnsembleShape.of(ensemble)
    tokens, on_gpu = plan.steps * plan.batch_size, plan.device.type == "cuda"
    return {
        "seconds": round(cost.seconds, 3),
        "shared_seconds": round(cost.shared_seconds, 3),
        # After an interruption, count only the time since the training continued.
        "wait_seconds": round(plan.waiting.seconds, 3),
        "tokens": tokens,
        "steps": plan.steps,
        "side_by_side": cost.side_by_side,
        "processes": plan.processes.size,
        "flops": ensemble_flops(shape, tokens=tokens, boosting=cost.boosting, rows=rows),
        "parameters": sum(parameter.numel() for parameter in ensemble.parameters()),
        "peak_memory_bytes": peak,
        "device": torch.cuda.get_device_name(plan.device) if on_gpu else "cpu",
    }


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process in bytes: of tensors on a GPU; on a CPU of the whole process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
