"""What comparing members needs: families by three measures, matches by what features do, energy by stage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.shared.reads.cached import modified, optional_table
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.shared.reads.tables import atoms, index, matches
from dashboard.shared.reads.typed_text import loaded_ensemble, text_read
from sae_core.analysis.shared.names_in_tables import FAMILY_THRESHOLDS
from sae_core.analysis.similarity.pair_scores import atom_cosines, correlations, overlaps
from sae_core.foundation.files.whole_files import read_object, read_table
from sae_core.foundation.run import Run

if TYPE_CHECKING:  # What computes needs torch and compiled code, which pages of other things are not to wait for.
    from sae_core.analysis.atoms.stage_energy import StageEnergy

KEPT = 4
"""Tables of families kept; one of a large ensemble takes some ten megabytes."""


def firing_matches(run: Run, ensemble: str) -> pd.DataFrame | None:
    """Matches across members by what features do, with the rows of `matches`."""
    return optional_table(run.ensemble(ensemble).firing_matches)


def family_summary(run: Run, ensemble: str) -> dict[str, Any] | None:
    """Figures of pairs of members by what features do, families of each size, and what chance gives."""
    path = run.ensemble(ensemble).family_summary
    return read_object(path) if path.exists() else None


def stage_energy(run: Run, ensemble: str) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """(energy that each feature removes, figures of each stage) of a boosted ensemble."""
    folder = run.ensemble(ensemble)
    table = optional_table(folder.stage_energy)
    return None if table is None else (table, read_object(folder.stage_energy_summary))


def families(run: Run, ensemble: str) -> pd.DataFrame | None:
    """Every family of features once, whichever measures find it, the largest first and then the most frequent.

    Returns:
        family (its number, the row), features (one of a member), size, found (the measures that find just this
        family), by_<measure> (whether it is one of them), cosine, correlation, overlap, density, more (the largest
        over these measures) and tokens (their different top tokens). A run that was indexed before there were three
        measures has the families by cosine; the other scores are NaN.
    """
    folder = run.ensemble(ensemble)
    if not folder.atoms.exists():
        return None
    return _families(str(folder.families), modified(folder.families), str(folder.atoms), modified(folder.atoms))


@st.cache_resource(max_entries=KEPT, show_spinner=False)
def _families(path: str, modified: int, atoms_path: str, modified_atoms: int) -> pd.DataFrame:
    atoms = read_table(Path(atoms_path))
    found = united(read_table(Path(path)) if modified else from_atoms(atoms))
    tokens = atoms["top_token"].astype(str).tolist()
    found["tokens"] = [list(dict.fromkeys(tokens[feature] for feature in group)) for group in found["features"]]
    return found


def from_atoms(atoms: pd.DataFrame) -> pd.DataFrame:
    """Families by cosine in the form of `family_table.family_table`, from the table of atoms alone."""
    rows = [
        {
            "measure": "cosine",
            "features": part["feature"].to_numpy(),
            "size": len(part),
            "cosine": part["best_cosine"].mean(),
            "density": part["density"].mean(),
        }
        for _, part in atoms[atoms["family"] >= 0].groupby("family")
    ]
    known = pd.DataFrame(rows, columns=["measure", "features", "size", "cosine", "density"])
    return known.assign(correlation=np.nan, overlap=np.nan, more=0)


def united(table: pd.DataFrame) -> pd.DataFrame:
    """Families of several measures that have the same features, as one row each; see `families`."""
    rows: dict[tuple[int, ...], dict[str, Any]] = {}
    for row in table.to_dict("records"):
        features = tuple(int(feature) for feature in row["features"])
        known = rows.setdefault(
            features, {**{str(key): value for key, value in row.items()}, "features": features, "found": ()}
        )
        known["found"] = (*known["found"], row["measure"])
        known["more"] = max(known["more"], row["more"])
    columns = ["features", "size", "found", "cosine", "correlation", "overlap", "density", "more"]
    found = pd.DataFrame(list(rows.values()), columns=columns)
    found = found.sort_values(["size", "density"], ascending=False, kind="stable", ignore_index=True)
    for measure in FAMILY_THRESHOLDS:
        found[f"by_{measure}"] = [measure in ways for ways in found["found"]]
    found.insert(0, "family", found.index)
    return found


def family_of(run: Run, ensemble: str, measure: str) -> dict[int, int]:
    """The family of each feature that has one by a measure."""
    table = families(run, ensemble)
    if table is None:
        return {}
    mine = table[table[f"by_{measure}"]]
    return {
        feature: number for number, group in zip(mine["family"], mine["features"], strict=True) for feature in group
    }


def family_pairs(run: Run, info: EnsembleInfo, features: Sequence[int]) -> pd.DataFrame | None:
    """The three scores of every pair of a family's features: first, second, cosine, correlation, overlap."""
    path = run.ensemble(info.name).index
    if not path.exists() or len(features) < 2:
        return None
    return _family_pairs(run, info, str(path), modified(path), tuple(features))


@st.cache_data(max_entries=500, show_spinner=False)
def _family_pairs(_run: Run, _info: EnsembleInfo, path: str, modified: int, features: tuple[int, ...]) -> pd.DataFrame:
    entries = index(_run, _info.name)
    assert entries is not None, "looked at before"
    pairs = list(combinations(features, 2))
    folder, widths = _run.ensemble(_info.name), _info.widths
    cosines = [atom_cosines(folder, widths, one, features[number + 1 :]) for number, one in enumerate(features)]
    return pd.DataFrame(
        {
            "first": [first for first, _ in pairs],
            "second": [second for _, second in pairs],
            "cosine": np.concatenate(cosines),
            "correlation": correlations(entries, features),
            "overlap": overlaps(entries, features),
        }
    )


def nearest_elsewhere(run: Run, ensemble: str, features: Sequence[int]) -> dict[int, dict[str, tuple[int, float]]]:
    """What comes closest to a family in each member, its own ones too: by member and measure, (feature, score)."""
    found: dict[int, dict[str, tuple[int, float]]] = {}
    for measure, table in _sources(run, ensemble).items():
        best, score = _best(measure)
        # A large ensemble has a million rows, so they are looked through once.
        rows = table[table["feature"].isin(features)]
        rows = rows[rows[best] >= 0].sort_values(score, ascending=False, kind="stable").drop_duplicates("other_member")
        for member, feature, value in zip(rows["other_member"], rows[best], rows[score], strict=True):
            found.setdefault(int(member), {})[measure] = int(feature), float(value)
    return found


def more_of_family(run: Run, ensemble: str, features: Sequence[int]) -> pd.DataFrame:
    """The features outside a family whose best match is in it, at its measure's threshold: those that match many to
    one.

    Returns:
        feature, measure, into (the family's feature), score; the highest score first.
    """
    parts = []
    for measure, table in _sources(run, ensemble).items():
        best, score = _best(measure)
        rows = table[table[best].isin(features) & (table[score] >= FAMILY_THRESHOLDS[measure])]
        rows = rows[~rows["feature"].isin(features)]
        columns = {"feature": rows["feature"], "measure": measure, "into": rows[best], "score": rows[score]}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts).sort_values("score", ascending=False) if parts else pd.DataFrame()


def best_scores(run: Run, ensemble: str) -> pd.DataFrame | None:
    """The largest score of each feature with any of another member, by each measure, with the rows of `atoms`."""
    table = atoms(run, ensemble)
    if table is None:
        return None
    known = pd.DataFrame({"cosine": table["best_cosine"].to_numpy()})
    folder = run.ensemble(ensemble).firing_matches
    if folder.exists():
        for measure, score in _best_firing(str(folder), modified(folder)).items():
            known[str(measure)] = score.reindex(table["feature"]).to_numpy()
    return known


@st.cache_resource(max_entries=KEPT, show_spinner=False)
def _best_firing(path: str, modified: int) -> pd.DataFrame:
    table = read_table(Path(path)).groupby("feature")[["best_correlation", "best_overlap"]].max()
    return table.rename(columns=lambda name: name.removeprefix("best_"))


def _sources(run: Run, ensemble: str) -> dict[str, pd.DataFrame]:
    """The table that holds the matches by each measure."""
    found = {"cosine": matches(run, ensemble)}
    found |= dict.fromkeys(("correlation", "overlap"), firing_matches(run, ensemble))
    return {measure: table for measure, table in found.items() if table is not None}


def _best(measure: str) -> tuple[str, str]:
    return ("best_feature" if measure == "cosine" else f"best_by_{measure}"), f"best_{measure}"


def energy_of_text(run: Run, ensemble: str, text: str) -> list[tuple[StageEnergy, pd.DataFrame]]:
    """What each stage of a boosted ensemble removes of the energy of a text, and which of its features do it.

    Returns:
        For each stage its `StageEnergy`, and by feature (in the ensemble's numbering) the sums over the text of what it
        removes, as removed and alone, and the tokens on which it fires, as fired; what removes most comes first.

    Raises:
        UserError: As `live_text`.
    """
    from sae_core.analysis.atoms.stage_energy import energy_by_stage

    loaded = loaded_ensemble(str(run.path), ensemble, modified(run.ensemble(ensemble).manifest))
    acts_TD = text_read(str(run.path), modified(run.manifest_path), text).acts_TD
    found = []
    for offset, stage in zip(loaded.offsets, energy_by_stage(loaded, acts_TD), strict=False):
        sums: dict[str, Any] = {"feature": stage.features_E.cpu().numpy() + offset}
        sums |= {"removed": stage.removed_E.cpu().numpy(), "alone": stage.alone_E.cpu().numpy(), "fired": 1}
        table = pd.DataFrame(sums).groupby("feature", as_index=False).sum()
        found.append((stage, table.sort_values("removed", ascending=False, ignore_index=True)))
    return found
