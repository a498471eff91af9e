"""Measure the cost of training, storing and running each ensemble, and the gain of every added member."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from sae_core.activations.stages import CORPUS
from sae_core.analysis.cost.effort import steps_taken
from sae_core.analysis.reconstruction.stage import RECONSTRUCTION
from sae_core.analysis.shared.names_in_tables import RULE, WORTH, where_to_stop
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.files.whole_files import read_object, read_table
from sae_core.foundation.run import Run
from sae_core.training.declared import TRAIN
from sae_core.training.kernels.frozen import FrozenEncoder
from sae_core.training.operations import Boosting, EnsembleShape, ensemble_flops

TIMED_TOKENS, REPEATS = 1024, 5
"""Number of activations to encode and reconstruct for a time measurement, and of repeats; the median counts."""
Costs = dict[str, Any]


def inference_flops(ensemble: Ensemble, l0: float) -> float:
    """Floating-point operations to encode and reconstruct one token.

    2·D for each of the M features (a dense encoder) and 2·D for each of the L0 active ones (a sparse decoder).
    """
    return 2.0 * ensemble.d_in * (sum(ensemble.widths) + l0)


def measure_cost(run: Run, ensembles: Mapping[str, Ensemble], acts_BD: Tensor, *, repeats: int = REPEATS) -> Costs:
    """Measure the content of evaluation/cost.json. A figure that training did not record (imported ensembles) is None.

    Each of the ``ensembles`` has ``train_seconds`` (the time of training it alone, even if it shared members with
    another ensemble), ``tokens`` per member, ``steps`` of the optimiser one after another, ``tokens_per_second`` (of
    all members together), ``train_flops``, ``peak_memory_bytes``, ``parameters``, ``bytes`` of the weight files, the
    arithmetic and the measured seconds to encode and reconstruct a token, the same figures ``by_members`` (see
    `marginal`) and ``stop``, the number of members at which `RULE` says to stop.

    Args:
        run: The run, with measured reconstruction, which gives L0 and the explained variance of members.
        ensembles: Ensembles by name, on one device.
        acts_BD: Activations [B, D] on that device for the time measurement.
        repeats: Number of time measurements.
    """
    measured = read_object(run.evaluation(RECONSTRUCTION.name), ensembles=dict)["ensembles"]
    device = acts_BD.device
    figures = {name: _ensemble_cost(run, name, ensembles[name], measured[name], acts_BD, repeats) for name in ensembles}
    return {
        "timed_tokens": len(acts_BD),
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "rule": RULE,
        "worth": WORTH,
        "ensembles": figures,
    }


def _ensemble_cost(
    run: Run, name: str, ensemble: Ensemble, measured: Mapping[str, Any], acts_BD: Tensor, repeats: int
) -> dict[str, Any]:
    facts, folder, members = TRAIN.facts(run, name), run.ensemble(name), len(ensemble)
    files = [list(folder.member(number).rglob("*.safetensors")) for number in range(members)]
    seconds, tokens = facts.get("seconds"), facts.get("tokens")
    steps = _steps(ensemble, measured["by_members"])
    for step, size, time_J, flops in zip(
        steps,
        accumulate(sum(file.stat().st_size for file in own) for own in files),
        accumulate(inference_seconds(ensemble, acts_BD, repeats=repeats)),
        training_flops_by_members(run, ensemble, facts),
        strict=True,
    ):
        step |= {"bytes": size, "inference_seconds_per_token": time_J / len(acts_BD), "train_flops": flops}
    for step, total in zip(steps, _seconds_by_members(run, name, ensemble, seconds), strict=True):
        step["train_seconds"] = total
    steps = marginal(steps)
    return {
        "members": members,
        "train_seconds": seconds,
        "tokens": tokens,
        "steps": steps_taken(run, name),
        "tokens_per_second": tokens * len(list(ensemble.saes())) / seconds if seconds and tokens else None,
        "train_flops": facts.get("flops"),
        "peak_memory_bytes": facts.get("peak_memory_bytes"),
        "train_device": facts.get("device"),
        **{key: steps[-1][key] for key in ("parameters", "bytes", "inference_flops_per_token")},
        "inference_seconds_per_token": steps[-1]["inference_seconds_per_token"],
        "by_members": steps,
        "stop": where_to_stop(steps),
    }


def _steps(ensemble: Ensemble, measured: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The figures of the first 1, 2, … J members that need no further run."""
    steps = []
    for figures in measured:
        first = ensemble.first(figures["members"])
        steps.append(
            {
                **{key: figures[key] for key in ("members", "explained_variance", "l0")},
                "parameters": sum(parameter.numel() for parameter in first.parameters()),
                "inference_flops_per_token": inference_flops(first, figures["l0"]),
            }
        )
    return steps


@torch.no_grad()
def inference_seconds(ensemble: Ensemble, acts_BD: Tensor, *, repeats: int = REPEATS) -> list[float]:
    """Measure the seconds in which each member encodes and reconstructs activations: the median after a warm-up.

    Args:
        ensemble: The ensemble; with residual wiring, each member reads the residual of the earlier members.
        acts_BD: The activations.
        repeats: Number of time measurements.
    """
    run = FrozenEncoder().code_and_recon
    taken: list[list[float]] = [[] for _ in range(len(ensemble))]
    for _ in range(1 + repeats):
        times = [_now(acts_BD), *(_now(acts_BD) for _ in ensemble.walk(acts_BD, run))]
        for number, (began, ended) in enumerate(pairwise(times)):
            taken[number].append(ended - began)
    return [statistics.median(seconds[1:]) for seconds in taken]


def _now(acts_BD: Tensor) -> float:
    """Wait for the device to finish, and return the time."""
    if acts_BD.device.type == "cuda":
        torch.cuda.synchronize(acts_BD.device)
    return time.perf_counter()


def training_flops_by_members(run: Run, ensemble: Ensemble, facts: Mapping[str, Any]) -> list[int | None]:
    """Operations to train the first 1, 2, … J members; None if training recorded none, or another number than expected.

    The recorded total shows whether boosted stages read cached or recomputed residuals.

    Args:
        run: The run, whose corpus gives the number of different activations.
        ensemble: The trained ensemble.
        facts: The facts that training recorded.
    """
    shape = EnsembleShape.of(ensemble)
    tokens, rows = facts.get("tokens"), CORPUS.facts(run).get("train_tokens", 0)
    ways: tuple[Boosting, ...] = ("cached", "recomputed", "pipelined")
    for boosting in ways:
        if not tokens:
            break
        counted = [
            ensemble_flops(replace(shape, members=shape.members[:count]), tokens=tokens, boosting=boosting, rows=rows)
            for count in range(1, len(ensemble) + 1)
        ]
        if counted[-1] == facts.get("flops"):
            return list(counted)
    return [None] * len(ensemble)


def _seconds_by_members(run: Run, name: str, ensemble: Ensemble, seconds: float | None) -> list[float | None]:
    """Seconds to train the first 1, 2, … J members: sums over stages, or equal shares of members trained together."""
    members = len(ensemble)
    if not seconds:
        return [None] * members
    sequential = ensemble.in_turn and run.settings.training.boosting == "sequential"
    if sequential and run.ensemble(name).curves.exists():
        curves: pd.DataFrame = read_table(run.ensemble(name).curves)
        own = curves.groupby("member")["seconds"].max()
        if len(own) == members:
            return list(accumulate(own.tolist()))
    return [seconds * (number + 1) / members for number in range(members)]


def marginal(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add the gain of the last member to the figures of the first 1, 2, … J members.

    The gain is ``added_explained_variance`` (for the first member, all of its explained variance), ``relative_cost``
    (training arithmetic of this member divided by that of the first; parameters if the arithmetic is not known) and
    ``added_per_cost``, the quotient. A figure is None if it is not known.
    """
    basis = "train_flops" if all(step.get("train_flops") for step in steps) else "parameters"
    found: list[dict[str, Any]] = []
    before: Mapping[str, Any] = {"explained_variance": 0.0, basis: 0}
    for step in steps:
        one, other = step["explained_variance"], before["explained_variance"]
        added = None if one is None or other is None else one - other
        cost = (step[basis] - before[basis]) / steps[0][basis]
        found.append(
            {
                **step,
                "added_explained_variance": added,
                "relative_cost": cost,
                "added_per_cost": None if added is None or cost <= 0 else added / cost,
            }
        )
        before = step
    return found
