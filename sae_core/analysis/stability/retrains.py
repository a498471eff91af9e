"""Check that runs are independent trainings with other seeds, and measure how stable their features are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sae_core.analysis.shared.names_in_tables import THRESHOLD
from sae_core.analysis.similarity.cosines import Atoms, random_best
from sae_core.analysis.stability.noise_null import stages_over_trainings
from sae_core.analysis.stability.stability import Features, measure_stability, pooled_among
from sae_core.analysis.stability.stage import STABILITY
from sae_core.ensembles.ensemble import load_dictionaries
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import write_json, write_table
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.machine.device import resolve_device
from sae_core.foundation.methods import REFERENCE, REPEATS
from sae_core.foundation.progress import Progress, silent
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings

_MODEL = ("name", "revision", "layer", "site")
_FREE = {"methods", "seed", "member_seeds", "group", "device", "precision", "kernels", "residuals"}
"""Settings of training in which retrains may differ: the seed, and what is to give the same SAEs whatever it is."""


def evaluate_retrains(
    run: Run,
    retrains: Sequence[Run],
    *,
    noise: bool = True,
    progress: Progress = silent,
    device: str | None = None,
) -> None:
    """Measure how stable a run's ensembles are over independent trainings, and write evaluation/stability.

    Every ensemble that all runs have is compared as a whole. The table has a row for each feature of ``run``: ensemble,
    feature, member, stability (share of the other runs that have it), best_cosine and matched_cosine. Of boosted
    ensembles each stage is compared by itself, too, beside SAEs trained on noise (see `stages_over_trainings`).

    Args:
        run: The run.
        retrains: Runs with the same settings and text, but each with a seed of its own.
        noise: Whether to train SAEs on noise, which takes longer than all other work.
        progress: Told the number of compared pairs of runs.
        device: The device to compare on; the settings' device by default.

    Raises:
        UserError: If a run is no independent training of ``run``, or they have no ensemble in common.
    """
    started = time.perf_counter()
    runs = [run, *retrains]
    names = require_retrains(run, retrains)
    device = resolve_device(device or run.settings.training.device)
    ensembles, tables = {}, []
    for name in names:
        dictionaries = [Atoms(*load_dictionaries(each.ensemble(name), device)) for each in runs]
        figures, features = measure_stability(
            dictionaries, seed=run.settings.training.seed, stage=f"compare {name} over runs", progress=progress
        )
        stages = stages_over_trainings(runs, name, noise=noise, device=device, progress=progress)
        ensembles[name] = figures | (stages or {})
        tables.append(_table(run.ensemble(name), features[0]))
    facts = {
        "threshold": THRESHOLD,
        "runs": [{"run": each.name, "seed": each.settings.training.seed} for each in runs],
        "ensembles": ensembles,
        "single_as_often": _single_as_often(runs, names, device),
    }
    write_table(run.evaluation_table(STABILITY.name), pd.concat(tables, ignore_index=True))
    write_json(run.evaluation(STABILITY.name), facts)
    STABILITY.record(run, {"seconds": time.perf_counter() - started, "device": device, "runs": len(runs)})


def require_retrains(run: Run, retrains: Sequence[Run]) -> list[str]:
    """Return the ensembles that a run and its retrains share; refuse runs that are no independent trainings.

    Raises:
        UserError: If the runs differ in more than the seed, share a seed, or have no ensemble in common.
    """
    for number, other in enumerate(retrains):
        difference = _difference(run, other)
        if difference:
            raise UserError(f"{other.path} is no retrain of {run.path}: {difference}; give a run that differs in seed.")
        for earlier in (run, *retrains[:number]):
            for name in ("seed", "member_seeds"):
                value = getattr(other.settings.training, name)
                if value is not None and value == getattr(earlier.settings.training, name):
                    raise UserError(
                        f"{other.path} and {earlier.path} both have training.{name} {value}, so they are not "
                        "independent; train one of them with another seed."
                    )
    names = [folder.name for folder in run.ensembles() if all(_has(other, folder.name) for other in retrains)]
    if not names:
        raise UserError(f"{run.path} and {retrains[0].path} have no ensemble in common; train one in both of them.")
    return names


def _difference(run: Run, other: Run) -> str | None:
    for section, names in (("model", _MODEL), ("sae", None), ("training", None)):
        here, there = (getattr(each.settings, section).model_dump() for each in (run, other))
        for name in names or [name for name in here if section != "training" or name not in _FREE]:
            if here[name] != there[name]:
                return f"{section}.{name} is {there[name]!r} there, {here[name]!r} here"
    here, there = (each.settings.origin.data_of(each) for each in (run, other))
    return "it was trained on other activations" if here != there else None


def _has(run: Run, name: str) -> bool:
    return run.ensemble(name).manifest.exists()


def members_are_retrains(settings: RunSettings) -> bool:
    """Whether the members of a bag differ in their seeds alone, so that they are retrains of the single SAE."""
    training = settings.training
    return not (training.member_k or training.member_sparsity or training.member_learning_rates)


def _single_as_often(runs: Sequence[Run], names: Sequence[str], device: str) -> dict[str, Any] | None:
    """The pooled figure of one SAE that is trained as often as an ensemble has members.

    A feature of an ensemble is compared with all members of the other runs, but a feature of one SAE with only one SAE
    of each run. So this function compares the single SAE of each run with all members of the other runs' bags, which
    are trainings of the single SAE.
    """
    if not {REFERENCE, REPEATS} <= set(names) or not members_are_retrains(runs[0].settings):
        return None
    singles = [Atoms(*load_dictionaries(run.ensemble(REFERENCE), device)) for run in runs]
    bags = [load_dictionaries(run.ensemble(REPEATS), device) for run in runs]
    pools = [Atoms(*(atoms for bag in bags[:s] + bags[s + 1 :] for atoms in bag)) for s in range(len(runs))]
    seed = runs[0].settings.training.seed
    nulls = [random_best(len(one), len(pool), one.d_in, seed=seed) for one, pool in zip(singles, pools, strict=True)]
    return {
        "retrains": sum(map(len, bags)) - len(bags[0]),
        "pooled": pooled_among(singles, pools),
        "null_pooled": float(np.mean(nulls)),
    }


def _table(folder: EnsembleFolder, features: Features) -> pd.DataFrame:
    widths = [len(atoms) for atoms in load_dictionaries(folder)]
    return pd.DataFrame(
        {
            "ensemble": folder.name,
            "feature": np.arange(sum(widths)),
            "member": np.repeat(np.arange(len(widths)), widths),
            "stability": features.stability_N,
            "best_cosine": features.best_cosine_N.astype(np.float32),
            "matched_cosine": features.matched_cosine_N.astype(np.float32),
        }
    )
