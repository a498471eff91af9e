"""Join features into families by three measures, and compare the families with chance.

A family by atoms says "the same direction". A family by correlation says "active together and equally strongly". A
family by overlap says "strongest in the same places". If the measures disagree, a feature has drifted, split, or taken
over the work of another feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array
from scipy.special import betainc
from torch import Tensor
from torch.nn.functional import normalize

from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.analysis.shared.names_in_tables import FAMILY_THRESHOLDS, THRESHOLD
from sae_core.analysis.similarity.cosines import match_atoms
from sae_core.analysis.similarity.firing import context_columns
from sae_core.analysis.similarity.firing_loops import multiply_pairs, sum_features
from sae_core.analysis.similarity.firing_matches import match_firing
from sae_core.analysis.similarity.matching import families
from sae_core.analysis.similarity.pair_scores import CONTEXT, TOP_CONTEXTS, deviations
from sae_core.foundation.progress import Progress, silent
from sae_core.training.kernels.cpu import team

PAIRS = 2048
"""Number of feature pairs to score at a time."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def relate_members(
    index: ActivationIndex, dictionaries: Sequence[Tensor], matches: pd.DataFrame, *, progress: Progress = silent
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Relate the features of different members by all three measures.

    Args:
        index: The ensemble's activations.
        dictionaries: The atoms [N, D] of each member.
        matches: The table of `match_members`.
        progress: Told the pairs of members done.

    Returns:
        (table of `match_firing`, table of `family_table`, summary). The summary has the figures of `match_firing` for
        the members (pairs) and for shifted members (null); the number of families of each size by measure (sizes), and
        for random dictionaries or shifted members (null_sizes); how often the three measures have the same best match
        (agreement); the thresholds, the tokens per context and the contexts per feature.
    """
    offsets = [0, *np.cumsum([len(atoms_ND) for atoms_ND in dictionaries]).tolist()]
    contexts = context_columns(index)
    firing, pairs = match_firing(index, contexts, offsets, progress=progress)
    shifted, null = match_firing(index, contexts, offsets, shifted=True, progress=progress)
    table = family_table(index, contexts, dictionaries, matches, firing)
    sources = {measure: matches if measure == "cosine" else firing for measure in FAMILY_THRESHOLDS}
    summary = {
        "pairs": pairs,
        "null": null,
        "sizes": {measure: _sizes(_families_by(found, offsets, measure)[1]) for measure, found in sources.items()},
        "null_sizes": {
            "cosine": random_family_sizes(np.diff(offsets).tolist(), dictionaries[0].shape[1]),
            **{name: _sizes(_families_by(shifted, offsets, name)[1]) for name in ("correlation", "overlap")},
        },
        "agreement": agreement(matches, firing),
        "thresholds": FAMILY_THRESHOLDS,
        "context_tokens": CONTEXT,
        "top_contexts": TOP_CONTEXTS,
    }
    return firing, table, summary


def family_table(
    index: ActivationIndex,
    contexts: csc_array,
    dictionaries: Sequence[Tensor],
    matches: pd.DataFrame,
    firing: pd.DataFrame,
) -> pd.DataFrame:
    """Make families by each measure: join features by one-to-one matches that reach the measure's threshold.

    Args:
        index: The ensemble's activations.
        contexts: `context_columns` of all features.
        dictionaries: The atoms [N, D] of each member.
        matches: The table of `match_members`.
        firing: The table of `match_firing`.

    Returns:
        One row per family: measure (cosine, correlation or overlap), family (number within the measure), size, features
        (ascending, at most one per member), cosine, correlation and overlap (means over pairs of features; correlation
        over all indexed tokens), density (mean) and more (the number of other features whose best match by this
        measure, at or above the threshold, is in the family: one-to-many matches).
    """
    offsets = [0, *np.cumsum([len(atoms_ND) for atoms_ND in dictionaries]).tolist()]
    parts = []
    for measure, threshold in FAMILY_THRESHOLDS.items():
        source = matches if measure == "cosine" else firing
        family_F, _ = _families_by(source, offsets, measure)
        features = _grouped(family_F)
        first_P, second_P, family_P = _pairs(features)
        scores = {
            "cosine": pair_cosines(dictionaries, first_P, second_P),
            "correlation": pair_correlations(index, first_P, second_P),
            "overlap": pair_overlaps(contexts, first_P, second_P),
        }
        pairs = np.maximum(np.bincount(family_P, minlength=len(features)), 1)
        means = {name: np.bincount(family_P, score, len(features)) / pairs for name, score in scores.items()}
        best = "best_feature" if measure == "cosine" else f"best_by_{measure}"
        parts.append(
            pd.DataFrame(
                {
                    "measure": measure,
                    "family": np.arange(len(features)),
                    "size": [len(group) for group in features],
                    "features": features,
                    **{name: mean.astype(np.float32) for name, mean in means.items()},
                    "density": [index.counts[group].mean() / max(index.tokens, 1) for group in features],
                    "more": _more(source, family_F, best, f"best_{measure}", threshold, len(features)),
                }
            )
        )
    return pd.concat(parts, ignore_index=True).astype({"size": np.int64, "density": np.float64})


def _families_by(source: pd.DataFrame, offsets: Sequence[int], measure: str) -> tuple[Ints, Ints]:
    """`families` by a measure."""
    partner = "matched_feature" if measure == "cosine" else f"matched_by_{measure}"
    return families(source, offsets, threshold=FAMILY_THRESHOLDS[measure], partner=partner, score=f"matched_{measure}")


def _grouped(family_F: Ints) -> list[Ints]:
    """The features of each family."""
    order = np.argsort(family_F, kind="stable")[np.count_nonzero(family_F < 0) :]
    return np.split(order, np.flatnonzero(np.diff(family_F[order])) + 1) if len(order) else []


def _pairs(features: Sequence[Ints]) -> tuple[Ints, Ints, Ints]:
    """(first feature, second feature, family) of all pairs within families."""
    triples = [
        (first, second, number)
        for number, group in enumerate(features)
        for first, second in combinations(group.tolist(), 2)
    ]
    first, second, family = np.array(triples, np.int64).reshape(-1, 3).T
    return first, second, family


def _more(
    source: pd.DataFrame, family_F: Ints, best: str, score: str, threshold: float, families: int
) -> NDArray[np.int64]:
    """Count the features outside each family that have their best match in the family."""
    strong = source[(source[score] >= threshold) & (source[best] >= 0)]
    feature_R, into_R = strong["feature"].to_numpy(np.int64), family_F[strong[best].to_numpy(np.int64)]
    outside = (into_R >= 0) & (family_F[feature_R] != into_R)
    distinct = np.unique(np.stack([into_R[outside], feature_R[outside]]), axis=1)
    return np.bincount(distinct[0], minlength=families)


def _sizes(size_F: Ints) -> dict[str, int]:
    """Count the families of each size, from the size of each feature's family."""
    features = np.bincount(size_F)
    return {str(size): int(features[size]) // size for size in range(2, len(features)) if features[size]}


def pair_cosines(dictionaries: Sequence[Tensor], first_P: Ints, second_P: Ints) -> Floats:
    """Cosines of the atoms of pairs of features."""
    starts = np.cumsum([0, *(len(atoms_ND) for atoms_ND in dictionaries)])

    def unit(features_P: Ints) -> Tensor:
        rows_PD = torch.empty(len(features_P), dictionaries[0].shape[1], dtype=torch.float64)
        for number, atoms_ND in enumerate(dictionaries):
            mine = np.flatnonzero((features_P >= starts[number]) & (features_P < starts[number + 1]))
            rows_PD[mine] = atoms_ND[torch.from_numpy(features_P[mine] - starts[number])].detach().double().cpu()
        return normalize(rows_PD, dim=1)

    parts = [
        (unit(first_P[start : start + PAIRS]) * unit(second_P[start : start + PAIRS])).sum(dim=1).numpy()
        for start in range(0, len(first_P), PAIRS)
    ]
    return np.concatenate([np.empty(0), *parts])


def pair_correlations(index: ActivationIndex, first_P: Ints, second_P: Ints) -> Floats:
    """Pearson correlations of the activations of pairs of features over all indexed tokens; 0 for a constant one."""
    first_P, second_P = (np.ascontiguousarray(part_P, np.int64) for part_P in (first_P, second_P))
    features_U, place_2P = np.unique(np.stack([first_P, second_P]), return_inverse=True)
    sums_U, squares_U, products_P = np.empty(len(features_U)), np.empty(len(features_U)), np.empty(len(first_P))
    team.run(sum_features, index.pointers, index.values, features_U, sums_U, squares_U)
    team.run(multiply_pairs, index.pointers, index.positions, index.values, first_P, second_P, products_P)
    mean_2P = (sums_U / max(index.tokens, 1))[place_2P.reshape(2, -1)]
    deviation_2P = deviations(sums_U, squares_U, index.tokens)[place_2P.reshape(2, -1)]
    covariance_P = products_P / max(index.tokens, 1) - mean_2P.prod(axis=0)
    scale_P = deviation_2P.prod(axis=0)
    score_P: Floats = np.divide(covariance_P, scale_P, out=np.zeros_like(scale_P), where=scale_P > 0)
    return score_P.clip(-1, 1)


def pair_overlaps(contexts: csc_array, first_P: Ints, second_P: Ints) -> Floats:
    """Jaccard indices of the top contexts of pairs of features, from `context_columns`."""
    counts_F = np.diff(contexts.indptr)
    parts = []
    for start in range(0, len(first_P), PAIRS):
        first, second = first_P[start : start + PAIRS], second_P[start : start + PAIRS]
        shared_P = contexts[:, first].multiply(contexts[:, second]).sum(axis=0)
        parts.append(shared_P / np.maximum(counts_F[first] + counts_F[second] - shared_P, 1))
    return np.concatenate([np.empty(0), *parts])


def agreement(matches: pd.DataFrame, firing: pd.DataFrame) -> dict[str, float | int | None]:
    """Measure how often the three measures have the same best match.

    The function counts pairs of a feature and another member in which the best match by at least one measure reaches
    its threshold.

    Returns:
        The number of these pairs (rows), the share in which two measures agree (cosine_correlation, cosine_overlap,
        correlation_overlap), and the share in which all three agree (all); None if there are no such pairs.
    """
    best = {
        "cosine": matches["best_feature"].to_numpy(np.int64),
        **{measure: firing[f"best_by_{measure}"].to_numpy(np.int64) for measure in ("correlation", "overlap")},
    }
    strong_R = np.zeros(len(matches), bool)
    for measure, threshold in FAMILY_THRESHOLDS.items():
        source = matches if measure == "cosine" else firing
        strong_R |= source[f"best_{measure}"].to_numpy() >= threshold
    rows = int(strong_R.sum())
    same = {f"{one}_{other}": best[one] == best[other] for one, other in combinations(best, 2)}
    same["all"] = same["cosine_correlation"] & same["cosine_overlap"]
    return {"rows": rows, **{key: float(same_R[strong_R].mean()) if rows else None for key, same_R in same.items()}}


def random_family_sizes(widths: Sequence[int], d_in: int) -> dict[str, int]:
    """Count the families of each size among random unit atoms at the cosine's threshold, for members of these widths.

    Two random directions have a cosine of at least t with probability ½·I(1 − t²; (D − 1)/2, ½), where I is the
    regularised incomplete beta function. If less than a tenth of a pair is expected among all atoms, no atoms are
    drawn.
    """
    expected = sum(a * b for a, b in combinations(widths, 2)) * chance_of_cosine(THRESHOLD, d_in)
    if expected < 0.1:
        return {}
    chance = torch.Generator().manual_seed(0)
    members = [torch.randn(width, d_in, generator=chance) for width in widths]
    offsets, parts = [0, *np.cumsum(widths).tolist()], []
    for a, b in combinations(range(len(widths)), 2):
        match = match_atoms(members[a], members[b])
        features = {"feature": match.rows + offsets[a], "matched_feature": match.columns + offsets[b]}
        parts.append(pd.DataFrame({**features, "member": a, "other_member": b, "matched_cosine": match.cosine}))
    _, size_F = families(pd.concat(parts, ignore_index=True), offsets)
    return _sizes(size_F)


def chance_of_cosine(threshold: float, d_in: int) -> float:
    """Probability that two random directions in ``d_in`` dimensions have at least this cosine, which is above 0."""
    return float(0.5 * betainc((d_in - 1) / 2, 0.5, 1 - threshold**2)) if d_in > 1 else 0.5
