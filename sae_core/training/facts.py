"""What is recorded of a training: time, memory and arithmetic."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass

import pandas as pd
import torch

from sae_core.ensemble import Ensemble
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
        residual_rows: Rows that were written after each stage, where residuals were cached; none in a pipeline.
    """

    ensemble: Ensemble
    curves: pd.DataFrame
    seconds: float
    shared_seconds: float = 0.0
    side_by_side: int = 1
    residual_rows: int | None = None


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
    ensemble = trained.ensemble
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
        "flops": training_flops(ensemble, tokens=tokens, residual_rows=trained.residual_rows),
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


def training_flops(ensemble: Ensemble, *, tokens: int, residual_rows: int | None = None) -> int:
    """Floating-point operations to train an ensemble; AuxK and the optimiser are not counted.

    A product of B×D by D×N counts 2·B·D·N. Trained densely, an SAE needs five (encoder, decoder, and three for
    gradients); trained through sparse codes one, and four sums over the member's k entries. A boosted stage also runs
    the members before it, or each but the last of them runs once over the rows of which the residual is kept.

    Args:
        ensemble: The trained ensemble.
        tokens: Activations that each member was trained on.
        residual_rows: Rows of the residual that was written after each stage; None if none was.
    """
    total = 0
    for number, member in enumerate(ensemble):
        product = 2 * member.d_in * member.width
        if member.selects:
            entries = 2 * member.d_in * int(member.k)  # type: ignore[arg-type]
            train, run = product + 4 * entries, product + entries
        else:
            train, run = 5 * product, 2 * product
        later = len(ensemble) - 1 - number if ensemble.wiring == "residual" else 0
        runs = later * tokens if residual_rows is None else min(later, 1) * residual_rows
        total += tokens * train + runs * run
    return total
