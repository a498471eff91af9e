"""Compare the members of an ensemble with each other: what each explains alone, and what of it the others have, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sae_core.activations.harvest import evaluation_cache
from sae_core.activations.stages import CORPUS
from sae_core.analysis.reconstruction.held_out import drawn
from sae_core.analysis.reconstruction.reconstruction import measure_reconstruction
from sae_core.analysis.shared.names_in_tables import THRESHOLD
from sae_core.analysis.similarity.family_table import chance_of_cosine
from sae_core.ensembles.ensemble import Ensemble, load_ensemble
from sae_core.foundation.files.whole_files import read_json, read_table
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.machine.device import resolve_device
from sae_core.foundation.progress import Progress, silent
from sae_core.foundation.run import Run

ALONE = ("explained_variance", "explained_variance_interval", "l0", "dead_fraction")
"""Figures of a member alone, on held-out activations."""


def compare_members(run: Run, name: str, *, progress: Progress = silent) -> dict[str, Any]:
    """Compare the members of an ensemble that is indexed.

    Returns:
        ``members``: of each its features, `ALONE` (not of members that read a residual), ``shared`` (the share of its
        features with a cosine of at least 0.7 to one of another member), ``shared_by_chance`` (of random directions),
        ``stability`` (mean share of the other members that have a feature) and ``in_all`` (the share of its features
        in families with one of every member). ``pairs``: the share of a's features that b has. ``families``: by each
        of the three ways of matching, how many of each size, and how many by chance. ``tokens``: indexed ones.

    Raises:
        UserError: If a file is missing or damaged.
    """
    folder = run.ensemble(name)
    device = resolve_device(run.settings.training.device)
    ensemble = load_ensemble(folder, device=device, d_in=CORPUS.facts(run).get("d_in"))
    atoms = read_table(folder.atoms)
    matches, families = read_json(folder.match_summary), read_json(folder.family_summary)
    alone = _alone(run, ensemble, device, progress)
    return {
        "ensemble": name,
        "tokens": families["pairs"]["tokens"],
        "threshold": THRESHOLD,
        "members": [
            {"member": number, **_figures(atoms, number, ensemble), **alone.get(number, dict.fromkeys(ALONE))}
            for number in range(len(ensemble))
        ],
        "pairs": [{key: pair[key] for key in ("a", "b", "shared", "mmcs")} for pair in matches["pairs"]],
        "families": {
            way: {"sizes": sizes, "by_chance": families["null_sizes"][way]} for way, sizes in families["sizes"].items()
        },
    }


def _alone(run: Run, ensemble: Ensemble, device: str, progress: Progress) -> dict[int, dict[str, Any]]:
    """What each member makes of held-out activations by itself."""
    if ensemble.is_staged:
        return {}
    cache = evaluation_cache(run)
    each = {str(number): Ensemble([member], wiring="parallel") for number, member in enumerate(ensemble)}
    options = drawn(run, cache.rows)
    found, _ = measure_reconstruction(each, cache.read, cache.rows, **options, device=device, progress=progress)
    return {int(number): {key: own[key] for key in ALONE} for number, own in found["ensembles"].items()}


def _figures(atoms: pd.DataFrame, number: int, ensemble: Ensemble) -> dict[str, Any]:
    own = atoms[atoms["member"] == number]
    others = ensemble.width - len(own)
    one = chance_of_cosine(THRESHOLD, ensemble.d_in)
    return {
        "features": len(own),
        "shared": _mean(own["best_cosine"] >= THRESHOLD) if others else None,
        "shared_by_chance": float(-np.expm1(others * np.log1p(-one))) if others else None,
        "stability": _mean(own["stability"]) if others else None,
        "in_all": _mean(own["family_size"] == len(ensemble)) if others else None,
    }


def _mean(column: pd.Series[Any]) -> float:
    return float(column.mean())


def features_of(folder: EnsembleFolder, sources: Mapping[int, str]) -> pd.DataFrame:
    """One row a feature of an ensemble: whose it is, how it fires, who else has it, its place on the map, a suggestion.

    Args:
        folder: The ensemble, which is indexed.
        sources: Where each member came from.
    """
    table = read_table(folder.atoms)
    table.insert(2, "source", table["member"].map(dict(sources)))
    if folder.suggestions.exists():
        table["suggestion"] = (
            read_table(folder.suggestions).set_index("feature")["suggestion"].reindex(table["feature"]).to_numpy()
        )
    return table
