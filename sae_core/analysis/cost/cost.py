"""What each ensemble costs, to train, to keep and to run, member by member, and what every added member buys for it."""

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

from sae_core.analysis.cost.effort import steps_taken
from sae_core.analysis.shared.terms import RULE, WORTH, where_to_stop
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.files.whole_files import read_object, read_table
from sae_core.foundation.run import Run
from sae_core.training.kernels.frozen import FrozenEncoder
from sae_core.training.operations import Boosting, EnsembleShape, ensemble_flops

TIMED_TOKENS, REPEATS = 1024, 5
"""Activations that are encoded and reconstructed to take the time, and how often; the median counts."""
Costs = dict[str, Any]


def inference_flops(ensemble: Ensemble, l0: float) -> float:
    """Floating-point operations to encode and reconstruct one token.

    2·D for each of the M features (a dense encoder) and 2·D for each of the L0 active ones (a sparse decoder).
    """
    return 2.0 * ensemble.d_in * (sum(ensemble.widths) + l0)


def measure_cost(run: Run, ensembles: Mapping[str, Ensemble], acts_BD: Tensor, *, repeats: int = REPEATS) -> Costs:
    """The content of evaluation/cost.json; what training did not record (an ensemble from elsewhere) is None.

    Of each of the ``ensembles``: ``train_seconds`` (what it would cost by itself, also where members were shared with
    another ensemble), ``tokens`` each member was trained on, ``steps`` of the optimiser one after another,
    ``tokens_per_second`` (of all members together), ``train_flops``, ``peak_memory_bytes``, ``parameters``, ``bytes``
    of the weight files, arithmetic and measured seconds to encode and reconstruct a token, the same ``by_members``
    (see `marginal`) and ``stop``, the number of members at which `RULE` says to stop.

    Args:
        run: The run; its reconstruction must have been measured, which gives L0 and what members explain.
        ensembles: Ensembles by name, on one device.
        acts_BD: Activations [B, D] on that device, on which the time is taken.
        repeats: How often it is taken.
    """
    measured = read_object(run.evaluation("reconstruction"), ensembles=dict)["ensembles"]
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
    facts, folder, members = run.facts(f"train/{name}"), run.ensemble(name), len(ensemble)
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
    """What is known of the first 1, 2, … J members without running anything."""
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
    """Seconds that each member takes to encode and reconstruct these activations: the median, after one that warms up.

    Args:
        ensemble: The ensemble; of a residual wiring each member gets what those before it leave.
        acts_BD: The activations.
        repeats: How often the time is taken.
    """
    run = FrozenEncoder().code_and_recon
    taken: list[list[float]] = [[] for _ in range(len(ensemble))]
    for _ in range(1 + repeats):
        times = [_now(acts_BD), *(_now(acts_BD) for _ in ensemble.walk(acts_BD, run))]
        for number, (began, ended) in enumerate(pairwise(times)):
            taken[number].append(ended - began)
    return [statistics.median(seconds[1:]) for seconds in taken]


def _now(acts_BD: Tensor) -> float:
    """The time, once everything that was asked of the device is done."""
    if acts_BD.device.type == "cuda":
        torch.cuda.synchronize(acts_BD.device)
    return time.perf_counter()


def training_flops_by_members(run: Run, ensemble: Ensemble, facts: Mapping[str, Any]) -> list[int | None]:
    """Operations to train the first 1, 2, … J members; None if training recorded none, or others than would be counted.

    How boosted stages got what they learnt is seen from what was recorded for all of them.

    Args:
        run: The run, whose corpus says how many different activations there were.
        ensemble: The trained ensemble.
        facts: What training recorded.
    """
    shape = EnsembleShape.of(ensemble)
    tokens, rows = facts.get("tokens"), run.facts("corpus").get("train_tokens", 0)
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
    """Seconds to train the first 1, 2, … J members: stages one after another, or a share each of those side by side."""
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
    """Add to the figures of the first 1, 2, … J members what the last of them adds.

    ``added_explained_variance`` (of the first member all that it explains), ``relative_cost`` (training arithmetic of
    this member over that of the first; its parameters if the arithmetic is not known) and ``added_per_cost``, the
    quotient. None where something is not known.
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
