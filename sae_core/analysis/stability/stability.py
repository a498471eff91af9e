"""Measure stability, whether independent trainings find the same features, by three figures beside random atoms.

pooled  mean over a run's features of the best cosine with *any* feature of all the other runs (Gadgil, Lin, Lee,
        *Ensembling Sparse Autoencoders*, as their code computes it). More or wider runs raise it by themselves.
MMCS    mean best cosine with one other run, over ordered pairs of runs (Sharkey et al. 2022).
PW-MCC  mean cosine of the one-to-one matching of two runs, over pairs of runs (Song et al. 2025); of dictionaries of
        different widths, the atoms of the wider one that are left over count as 0.

The "runs" are independent trainings of one ensemble, or the members of one ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.analysis.shared.names_in_tables import THRESHOLD
from sae_core.analysis.similarity.cosines import (
    Atoms,
    best_matches,
    match_atoms,
    mean_matched,
    random_best,
    random_null,
    random_shared,
)
from sae_core.foundation.progress import Progress, Tick, silent

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Features:
    """The matches of one run's N features in the other runs.

    Attributes:
        stability_N: Share of the other runs in which a feature has a best cosine of at least the threshold.
        best_cosine_N: Largest cosine with any feature of any other run.
        matched_cosine_N: Mean cosine of a feature's one-to-one matches; NaN for a feature without any match.
    """

    stability_N: Floats
    best_cosine_N: Floats
    matched_cosine_N: Floats


@torch.no_grad()
def measure_stability(
    runs: Sequence[Tensor | Atoms],
    *,
    seed: int = 0,
    stage: str = "compare dictionaries",
    progress: Progress = silent,
) -> tuple[dict[str, Any], list[Features]]:
    """Compare the dictionaries of at least two runs, pair by pair.

    Args:
        runs: The dictionary of each run.
        seed: Seed of the random dictionaries.
        stage: The name of this work in progress reports.
        progress: Told the number of compared pairs.

    Returns:
        The figures: ``runs``, ``pooled``, ``mmcs``, ``pw_mcc``, ``shared_fraction`` (share of features that one other
        run has, over ordered pairs), ``in_all`` and ``in_none`` (share of features that all or none of the other runs
        have), and ``null_pooled``, ``null_best``, ``null_matched`` and ``null_shared``: pooled, mmcs, pw_mcc and
        shared_fraction of random unit dictionaries of the same sizes. And what is known of the features of each run.
    """
    atoms = [Atoms.of(run) for run in runs]
    pairs = list(combinations(range(len(atoms)), 2))
    # By (run, other run): the best cosine [N] of each feature, and that of its match, NaN without one.
    best: dict[tuple[int, int], Floats] = {}
    matched: dict[tuple[int, int], Floats] = {}
    matched_means = []
    for done, (a, b) in enumerate(pairs):
        match = match_atoms(atoms[a], atoms[b])
        cosine = match.cosine.double().numpy()
        best[a, b], best[b, a] = match.best_cosine_N.double().numpy(), match.best_cosine_M.double().numpy()
        matched[a, b], matched[b, a] = (np.full(len(atoms[run]), np.nan) for run in (a, b))
        matched[a, b][match.rows.numpy()], matched[b, a][match.columns.numpy()] = cosine, cosine
        matched_means.append(mean_matched(match.cosine, len(atoms[a]), len(atoms[b])))
        progress(Tick(stage, done + 1, len(pairs), unit="pairs"))
    features = [_features(run, len(atoms), best, matched) for run in range(len(atoms))]
    figures = {
        "runs": len(atoms),
        "pooled": _mean(float(run.best_cosine_N.mean()) for run in features),
        "mmcs": _mean(float(cosine_N.mean()) for cosine_N in best.values()),
        "pw_mcc": _mean(matched_means),
        "shared_fraction": _mean(float((cosine_N >= THRESHOLD).mean()) for cosine_N in best.values()),
        "in_all": _mean(float((run.stability_N == 1).mean()) for run in features),
        "in_none": _mean(float((run.stability_N == 0).mean()) for run in features),
        **_nulls([len(run) for run in atoms], atoms[0].d_in, seed),
    }
    return figures, features


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _features(
    run: int, runs: int, best: dict[tuple[int, int], Floats], matched: dict[tuple[int, int], Floats]
) -> Features:
    others = [other for other in range(runs) if other != run]
    cosine_ON = np.stack([best[run, other] for other in others])
    matched_ON = np.stack([matched[run, other] for other in others])
    known_N = (~np.isnan(matched_ON)).sum(axis=0)
    mean_N = np.full(len(known_N), np.nan)
    np.divide(np.nansum(matched_ON, axis=0), known_N, out=mean_N, where=known_N > 0)
    return Features((cosine_ON >= THRESHOLD).mean(axis=0), cosine_ON.max(axis=0), mean_N)


def _nulls(widths: Sequence[int], d_in: int, seed: int) -> dict[str, float]:
    """The figures of random dictionaries: for pairs of runs, and for one run against all others."""
    ordered = list(permutations(widths, 2))
    return {
        "null_pooled": _mean(random_best(width, sum(widths) - width, d_in, seed=seed) for width in widths),
        "null_best": _mean(random_best(a, b, d_in, seed=seed) for a, b in ordered),
        "null_matched": _mean(random_null(min(a, b), max(a, b), d_in, seed=seed)["matched"] for a, b in ordered),
        "null_shared": _mean(random_shared(a, b, d_in, THRESHOLD, seed=seed) for a, b in ordered),
    }


@torch.no_grad()
def pooled_among(runs: Sequence[Tensor | Atoms], pools: Sequence[Atoms]) -> float:
    """The mean, over runs and their features, of the best cosine with any atom of the run's pool."""
    return _mean(float(best_matches(run, pool)[0].double().mean()) for run, pool in zip(runs, pools, strict=True))
