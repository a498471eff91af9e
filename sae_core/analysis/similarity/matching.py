"""Match the features of members by decoder cosine, by best match and one to one, beside chance.

Sources: best matches as in MMCS (Sharkey et al. 2022); one-to-one matching as in PW-MCC (Song et al. 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.analysis.shared.names_in_tables import THRESHOLD
from sae_core.analysis.similarity.cosines import match_atoms, random_null
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.progress import Progress, Tick, silent

_COLUMNS = {
    "feature": "int64",
    "member": "int64",
    "other_member": "int64",
    "best_feature": "int64",
    "best_cosine": "float32",
    "matched_feature": "int64",
    "matched_cosine": "float32",
}


def match_members(ensemble: Ensemble, *, progress: Progress = silent) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Match the features of every member with those of every other member.

    Returns:
        A table with one row per feature and other member: feature, member, other_member, best_feature, best_cosine,
        matched_feature and matched_cosine (−1 and NaN where the other member is narrower), features in the ensemble's
        numbering. And a summary: for each ordered pair of members the mean best cosine of a's features in b (mmcs),
        the mean cosine of the one-to-one matching (features of the wider member that are left over count as 0) and the
        share of a's features that b has; and what chance gives.
    """
    dictionaries = [member.dictionary.detach() for member in ensemble]
    offsets = ensemble.offsets
    parts: dict[tuple[int, int], pd.DataFrame] = {}
    pairs = list(combinations(range(len(ensemble)), 2))
    for done, (a, b) in enumerate(pairs):
        match = match_atoms(dictionaries[a], dictionaries[b])
        forth, back = (match.rows, match.columns, match.cosine), (match.columns, match.rows, match.cosine)
        parts[a, b] = _part(a, b, offsets, (match.best_cosine_N, match.best_N), forth)
        parts[b, a] = _part(b, a, offsets, (match.best_cosine_M, match.best_M), back)
        progress(Tick(f"match {ensemble.method}", done + 1, len(pairs), unit="pairs"))
    ordered = [parts[key] for key in sorted(parts)]
    table = pd.concat(ordered, ignore_index=True) if ordered else pd.DataFrame(columns=list(_COLUMNS))
    summary = {
        "pairs": [_figures(a, b, parts[a, b], max(len(parts[a, b]), len(parts[b, a]))) for a, b in sorted(parts)],
        "null": _null(ensemble),
        "threshold": THRESHOLD,
    }
    return table.astype(_COLUMNS), summary


def _part(
    a: int,
    b: int,
    offsets: Sequence[int],
    best: tuple[Tensor, Tensor],
    matched: tuple[Tensor, Tensor, Tensor],
) -> pd.DataFrame:
    """The table's rows for the features of member a in member b.

    Args:
        a: The member.
        b: The other member.
        offsets: Number of the first feature of each member.
        best: Cosine and number of each feature's best match.
        matched: The one-to-one matching: features, their partners, and the cosines.
    """
    (best_cosine, best_other), (rows, columns, cosine) = best, matched
    width = len(best_cosine)
    matched_other, matched_cosine = torch.full((width,), -1), torch.full((width,), torch.nan)
    matched_other[rows], matched_cosine[rows] = columns + offsets[b], cosine
    return pd.DataFrame(
        {
            "feature": np.arange(width) + offsets[a],
            "member": a,
            "other_member": b,
            "best_feature": best_other.numpy() + offsets[b],
            "best_cosine": best_cosine.numpy(),
            "matched_feature": matched_other.numpy(),
            "matched_cosine": matched_cosine.numpy(),
        }
    )


def _figures(a: int, b: int, part: pd.DataFrame, wider: int) -> dict[str, Any]:
    """Figures of a's features in b; ``wider`` is the width of the wider member."""
    best, matched = part["best_cosine"].to_numpy(np.float64), part["matched_cosine"].to_numpy(np.float64)
    return {
        "a": a,
        "b": b,
        "mmcs": float(best.mean()),
        "mean_matched_cosine": float(np.nansum(matched)) / wider,
        "shared": float((best >= THRESHOLD).mean()),
    }


def _null(ensemble: Ensemble) -> dict[str, float] | None:
    """The level of random dictionaries of the members' sizes, averaged over pairs of members; None for one member."""
    widths = ensemble.widths
    nulls = [random_null(widths[a], widths[b], ensemble.d_in) for a, b in combinations(range(len(widths)), 2)]
    return {key: float(np.mean([null[key] for null in nulls])) for key in ("best", "matched")} if nulls else None


def families(
    matches: pd.DataFrame,
    offsets: Sequence[int],
    *,
    threshold: float = THRESHOLD,
    partner: str = "matched_feature",
    score: str = "matched_cosine",
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Join features of different members into families by one-to-one matches, at most one feature per member.

    The most similar pairs are joined first; a pair that would join two features of one member is skipped.

    Args:
        matches: The table of `match_members`, or another one of one-to-one matches.
        offsets: `Ensemble.offsets`.
        threshold: The least score of a match that joins.
        partner: The column of the matched feature.
        score: The column of the match's score.

    Returns:
        (family [M], −1 for a feature alone; size of the family [M], 1 for a feature alone). Families are numbered by
        their lowest feature.
    """
    edges = matches[(matches["member"] < matches["other_member"]) & (matches[score] >= threshold)]
    edges = edges.sort_values(score, ascending=False, kind="stable")
    features = offsets[-1]
    parent = list(range(features))
    # Store the members of a family as bits: two families share a member if and only if their bits overlap.
    members = [1 << int(member) for member in np.searchsorted(offsets, np.arange(features), side="right") - 1]

    def root(feature: int) -> int:
        while parent[feature] != feature:
            parent[feature] = parent[parent[feature]]
            feature = parent[feature]
        return feature

    for first, second in zip(edges["feature"].tolist(), edges[partner].tolist(), strict=True):
        low, high = sorted((root(first), root(second)))
        if low != high and not members[low] & members[high]:
            parent[high] = low
            members[low] |= members[high]
    roots = np.array([root(feature) for feature in range(features)], dtype=np.int64)
    size = np.bincount(roots, minlength=features)[roots]
    family = np.full(features, -1, np.int64)
    _, family[size > 1] = np.unique(roots[size > 1], return_inverse=True)
    return family, size.astype(np.int64)
