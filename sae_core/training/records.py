"""What is recorded of a training: time, memory and arithmetic."""

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
class Trained:
    """An ensemble just trained and what it took.

    Attributes:
        ensemble: The ensemble.
        curves: Its training curves.
        seconds: Seconds that it cost.
        shared_seconds: Those of them that were spent on another method.
        side_by_side: Members that one process trained side by side in one pass.
        boosting: How boosted stages got what they learn; None for members side by side.
        rows: Different activations.
    """

    ensemble: Ensemble
    curves: pd.DataFrame
    seconds: float
    shared_seconds: float = 0.0
    side_by_side: int = 1
    boosting: Boosting | None = None
    rows: int = 0


def longest(curves: pd.DataFrame) -> float:
    """Seconds after which the last row of the curves of one pass was recorded."""
    return float(curves["seconds"].max())


def training_facts(trained: Trained, plan: Plan, *, peak: int) -> dict[str, float | int | str]:
    """What run.json keeps.

    Args:
        trained: The ensemble.
        plan: How it was trained.
        peak: The peak memory of the process that needed most.
    """
    ensemble, shape = trained.ensemble, EnsembleShape.of(trained.ensemble)
    tokens, on_gpu = plan.steps * plan.batch_size, plan.device.type == "cuda"
    return {
        "seconds": round(trained.seconds, 3),
        "shared_seconds": round(trained.shared_seconds, 3),
        # Since the training last went on, as far as it was interrupted.
        "wait_seconds": round(plan.waiting.seconds, 3),
        "tokens": tokens,
        "steps": plan.steps,
        "side_by_side": trained.side_by_side,
        "processes": plan.processes.size,
        "flops": ensemble_flops(shape, tokens=tokens, boosting=trained.boosting, rows=trained.rows),
        "parameters": sum(parameter.numel() for parameter in ensemble.parameters()),
        "peak_memory_bytes": peak,
        "device": torch.cuda.get_device_name(plan.device) if on_gpu else "cpu",
    }


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has taken at most: on a GPU for tensors, on a CPU for all that it did before, too."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
