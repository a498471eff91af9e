"""Score how much of a known dictionary ensembles find, beside random dictionaries of the same sizes.

The scores include explained variance, which is no ranking: SAEs with 71 % of it can find only 9 % of the true features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from sae_core.activations.origins.known.dictionary import KnownActivations, KnownDictionary
from sae_core.analysis.atoms.dictionary import firing_rows
from sae_core.analysis.reconstruction.control import control_figures, controls_of
from sae_core.analysis.reconstruction.reconstruction import Moments, Totals, defined, explained_above
from sae_core.analysis.shared.ensemble_codes import BLOCK, Encoders
from sae_core.analysis.shared.random_twin import SAMPLE_ROWS, random_twin
from sae_core.analysis.truth.figures import COMPARED
from sae_core.analysis.truth.files import recall_cap
from sae_core.analysis.truth.firing import detect_features, latent_figures
from sae_core.analysis.truth.intervals import truth_intervals
from sae_core.analysis.truth.matching import (
    THRESHOLD,
    distinct_atoms,
    frequency_bins,
    matched_cosines,
    matched_one_to_one,
    mcc,
    nearness,
)
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.methods import control_name
from sae_core.foundation.progress import Progress, Tick, silent

COLUMNS = (
    *("ensemble", "feature", "probability", "parent", "topic", "recovered", "cosine", "atom", "matched", "f1"),
    *("latent", "random_recovered", "random_cosine", "random_matched", "random_f1"),
)


def measure_truth(
    ensembles: Mapping[str, Ensemble],
    known: KnownActivations,
    rows: int,
    *,
    fit_BD: Tensor | None = None,
    bootstrap: int = 200,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = silent,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Score ensembles, each beside a twin of random atoms that encodes as it does.

    Figures of an ensemble: ``recall`` (share of the true features that get an atom of their own at |cos| ≥ 0.9),
    ``mcc`` (sum of the |cos| of the one-to-one matching over the number of true features), ``recall_cap`` (what a
    dictionary of this width can reach at most in both), ``precision`` (share of the atoms left after de-duplication
    that are true features at |cos| ≥ 0.9), ``precision_alive`` (of those of them that fire at all), ``f1`` (mean over
    the true features that fire, with the best latent of each), ``uniqueness`` (different nearest features over atoms),
    ``latents`` (the means over latents),
    all but the last two also by frequency or beside ``random`` dictionaries, explained variance, L0 and dead features.
    Recall, MCC, precision and F1 have an ``_interval`` and what they are ``_above`` others (see `truth_intervals`). A
    boosted ensemble also has its ``control``, stage 1 and random stages, with the same figures and those of
    `control_figures`.

    Args:
        ensembles: Ensembles by name, on ``device``.
        known: The activations for evaluation.
        rows: How many of them are used.
        fit_BD: Training activations on which the controls of boosted ensembles are set up; the first ones for
            evaluation if not given.
        bootstrap: Bootstrap samples behind an interval.
        seed: Seed of the bootstrap and of random atoms.
        device: Where to encode.
        progress: Told about activations, then about dictionaries.

    Returns:
        (content of evaluation/truth.json, the table with `COLUMNS`, one row per ensemble or control and true feature).
    """
    sample_BD = known.read(0, min(rows, SAMPLE_ROWS)).to(device)
    twins = {name: random_twin(ensemble, sample_BD, seed=seed) for name, ensemble in ensembles.items()}
    controls = controls_of(ensembles, sample_BD if fit_BD is None else fit_BD.to(device), seed=seed)
    # Behind all ensembles, so that an ensemble has the same draws with a control as without.
    of_control = {control_name(name): name for name in controls}
    scored = {**ensembles, **{control: controls[name] for control, name in of_control.items()}}
    everything = {**scored, **{_twin(name): twin for name, twin in twins.items()}}
    firing, truth_TF, totals = _encode(everything, known, rows, device, progress)
    above = explained_above({name: totals[name] for name in ensembles}, bootstrap=bootstrap, seed=seed)
    floors = {name: _score(twin, known.dictionary, truth_TF, firing.pop(_twin(name))) for name, twin in twins.items()}
    figures, tables, atoms = {}, [], {}
    for done, (name, ensemble) in enumerate(scored.items()):
        progress(Tick("score dictionaries", done, len(scored), "ensembles"))
        own, table = _score(ensemble, known.dictionary, truth_TF, firing.pop(name))
        # A control has the sizes of its ensemble, so both have the same random dictionaries beside them.
        floor, floor_table = floors[of_control.get(name, name)]
        reconstruction = totals[name].figures(bootstrap=bootstrap, seed=seed)
        figures[name] = _beside_floor(own, floor, reconstruction, above.get(name, {}))
        tables.append(_beside(table.assign(ensemble=name), floor_table))
        atoms[name] = [(each["precision"], each["deduplicated"]) for each in (own, floor)]
    table = pd.concat(tables, ignore_index=True)[list(COLUMNS)]
    for name, intervals in truth_intervals(table, atoms, samples=bootstrap, seed=seed).items():
        figures[name].update(intervals)
    for control, name in of_control.items():
        both = totals[name], totals[control]
        beside = control_figures(*both, controls[name], bootstrap=bootstrap, seed=seed)
        figures[name]["control"] = {**beside, **figures.pop(control)}
    progress(Tick("score dictionaries", len(scored), len(scored), "ensembles"))
    facts = {"threshold": THRESHOLD, "rows": rows, "seed": seed, "truth": _truth_facts(known.dictionary, truth_TF)}
    return {**facts, "ensembles": figures}, table


def _beside_floor(
    own: dict[str, Any], floor: dict[str, Any], reconstruction: dict[str, Any], above: dict[str, Any]
) -> dict[str, Any]:
    """The scores of an ensemble: its reconstruction, its found features (by members, too), and its random twin."""
    steps = zip(reconstruction["by_members"], own["by_members"], strict=True)
    return {
        **{key: reconstruction[key] for key in ("members", "features", "l0", "explained_variance")},
        **{key: reconstruction[key] for key in ("explained_variance_interval", "dead", "dead_fraction")},
        **above,
        **own,
        "by_members": [
            {**{key: step[key] for key in ("members", "explained_variance", "l0")}, **found} for step, found in steps
        ],
        "random": {key: floor[key] for key in COMPARED},
    }


def _beside(table: pd.DataFrame, floor: pd.DataFrame) -> pd.DataFrame:
    """The table of an ensemble, with the columns of its random twin."""
    return table.assign(**{f"random_{key}": floor[key] for key in ("recovered", "cosine", "matched", "f1")})


def _twin(name: str) -> str:
    return f"random {name}"


@torch.no_grad()
def _encode(
    ensembles: Mapping[str, Ensemble], known: KnownActivations, rows: int, device: str, progress: Progress
) -> tuple[dict[str, sparse.csr_array], sparse.csr_array, dict[str, Totals]]:
    """Encode in one pass: (firings of each ensemble's latents, firings of true features, unexplained totals)."""
    encoders = Encoders(ensembles)
    moments = Moments(rows, known.dictionary.d_in)
    totals = {name: Totals(ensemble, moments) for name, ensemble in ensembles.items()}
    firing: dict[str, list[sparse.csr_array]] = {name: [] for name in ensembles}
    truth = []
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        batch = known.batch(start, stop)
        truth.append(batch.coefs_BF != 0)
        acts_BD = batch.acts_BD.to(device)
        moments.add(start, acts_BD)
        for name, codes in encoders.codes(acts_BD, decode=True):
            members = list(codes)
            totals[name].add(start, acts_BD, members)
            firing[name].append(firing_rows(ensembles[name], members, stop - start))
        progress(Tick("encode known activations", stop, rows))
    stacked = {name: sparse.csr_array(sparse.vstack(blocks, format="csr")) for name, blocks in firing.items()}
    return stacked, sparse.csr_array(sparse.vstack(truth, format="csr")), totals


def _score(
    ensemble: Ensemble, dictionary: KnownDictionary, truth_TF: sparse.csr_array, latents_TM: sparse.csr_array
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The scores of one ensemble, and its table."""
    atoms_MD = ensemble.dictionary.detach()
    near = nearness(dictionary.atoms_FD.to(atoms_MD.device), atoms_MD)
    recovered_F = matched_one_to_one(near.near_FM)
    distinct = distinct_atoms(atoms_MD)
    matched_F = matched_cosines(dictionary.atoms_FD.to(atoms_MD.device), atoms_MD)
    true_K = near.cosine_M[distinct] >= THRESHOLD
    alive_K = np.bincount(latents_TM.indices, minlength=latents_TM.shape[1])[distinct] > 0
    detection = detect_features(truth_TF, latents_TM)
    figures = {
        "recall": float(recovered_F.mean()),
        "recall_cap": recall_cap(dictionary.features, len(atoms_MD)),
        "mcc": mcc(matched_F),
        "precision": float(true_K.mean()),
        "precision_alive": defined(_mean(true_K[alive_K])),
        "deduplicated": len(distinct),
        "f1": defined(_mean(detection.f1_F)),
        "uniqueness": len(np.unique(near.feature_M)) / len(near.feature_M),
        "latents": latent_figures(truth_TF, latents_TM, near.feature_M),
        "by_members": [
            # The first members have the first atoms.
            {"members": count, "recall": float(matched_one_to_one(near.near_FM[:, :stop]).mean())}
            for count, stop in enumerate(ensemble.offsets[1:], start=1)
        ],
        "by_frequency": [
            {
                "from": low,
                "to": high,
                "features": int(members_F.sum()),
                "recall": float(recovered_F[members_F].mean()),
                "cosine": float(near.cosine_F[members_F].mean()),
                "f1": defined(_mean(detection.f1_F[members_F])),
            }
            for low, high, members_F in frequency_bins(dictionary.probability_F)
        ],
    }
    table = pd.DataFrame(
        {
            "feature": np.arange(dictionary.features),
            "probability": dictionary.probability_F,
            "parent": dictionary.parent_F,
            "topic": dictionary.topic_F,
            "recovered": recovered_F,
            "cosine": near.cosine_F,
            "atom": near.atom_F,
            "matched": matched_F,
            "f1": detection.f1_F,
            "latent": detection.latent_F,
        }
    )
    return figures, table


def _mean(values: Any) -> float:
    """The mean without NaN; NaN if no value is left."""
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else np.nan


def _truth_facts(dictionary: KnownDictionary, truth_TF: sparse.csr_array) -> dict[str, Any]:
    """Facts about the drawn true dictionary."""
    fires_F = np.bincount(truth_TF.indices, minlength=dictionary.features)
    return {
        "features": dictionary.features,
        "dimension": dictionary.d_in,
        "l0": truth_TF.nnz / truth_TF.shape[0],
        "never_fired": int((fires_F == 0).sum()),
        "children": int((dictionary.parent_F >= 0).sum()),
        "noise_share": defined(dictionary.noise**2 * dictionary.d_in / dictionary.energy),
    }
