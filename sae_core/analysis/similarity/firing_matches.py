"""Make the tables of matches by firing: every pair of members, by each measure, and the same for shifted members.

For the null, the tokens (or contexts) of member j are rotated by the share j/J of all. Each feature then fires as
often, as strongly and in as long runs as before, but beside other text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csc_array

from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.analysis.similarity.firing import (
    CORRELATION,
    OVERLAP,
    Columns,
    Floats,
    Ints,
    Matching,
    Measure,
    Others,
    match_columns,
    stride_for,
    token_columns,
    turned,
)
from sae_core.foundation.progress import Progress, Tick, silent

MEASURES = (CORRELATION, OVERLAP)


def match_firing(
    index: ActivationIndex,
    contexts: csc_array,
    offsets: Sequence[int],
    *,
    shifted: bool = False,
    progress: Progress = silent,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Match the living features of every member with those of every other member, by correlation and by overlap.

    Args:
        index: The ensemble's activations.
        contexts: `context_columns` of all features.
        offsets: `Ensemble.offsets`.
        shifted: Shift the members against each other, for the null.
        progress: Told the pairs of members done.

    Returns:
        A table with the same rows as that of `match_members`: feature, member, other_member, and for both measures
        best_by_<measure> (a feature, −1 for none), best_<measure> (its score), matched_by_<measure> and
        matched_<measure>, one to one; scores are 0 where there is no match. And a summary: for each measure and ordered
        pair of members a and b, over a's living features, the mean best score (best), the mean one-to-one score
        (matched) and the share whose best score reaches the threshold (shared); the tokens that were looked at
        (tokens), which are one of so many (stride).
    """
    stride = stride_for(index, offsets)

    def tokens_of(member: int) -> csc_array:
        return token_columns(index, offsets[member], offsets[member + 1], stride=stride)

    def contexts_of(member: int) -> csc_array:
        return contexts[:, offsets[member] : offsets[member + 1]]

    alive_F = index.counts > 0
    table = _rows(offsets)
    facts: dict[str, Any] = {"tokens": -(-index.tokens // stride), "stride": stride}
    for number, (measure, columns) in enumerate(zip(MEASURES, (tokens_of, contexts_of), strict=True)):
        found = _pairs(measure, columns, len(offsets) - 1, shifted, number, progress)
        _fill(table, measure.name, found, offsets)
        facts[measure.name] = _figures(measure, found, offsets, alive_F)
    return table, facts


def _rows(offsets: Sequence[int]) -> pd.DataFrame:
    """feature, member and other_member, ordered by member, other member and feature as in `match_members`."""
    parts = [
        pd.DataFrame(
            {
                "feature": np.arange(offsets[a], offsets[a + 1], dtype=np.int32),
                "member": np.int16(a),
                "other_member": np.int16(b),
            }
        )
        for a in range(len(offsets) - 1)
        for b in range(len(offsets) - 1)
        if a != b
    ]
    empty = pd.DataFrame({"feature": np.empty(0, np.int32), "member": np.empty(0, np.int16)})
    return pd.concat(parts, ignore_index=True) if parts else empty.assign(other_member=np.empty(0, np.int16))


def _pairs(
    measure: Measure, columns: Columns, members: int, shifted: bool, number: int, progress: Progress
) -> dict[tuple[int, int], Matching]:
    """The matching of every ordered pair of members by a measure; each unordered pair is computed once."""
    found: dict[tuple[int, int], Matching] = {}
    pairs = members * (members - 1) // 2

    def of(member: int) -> csc_array:
        return turned(columns(member), member / members) if shifted else columns(member)

    for b in range(members):
        other = Others.of(of(b), measure)
        for a in range(b):
            found[a, b] = match_columns(of(a), other)
            found[b, a] = found[a, b].turned()
            done = number * pairs + len(found) // 2
            progress(Tick(f"match by {measure.name}", done, len(MEASURES) * pairs, unit="pairs"))
    return found


def _fill(
    table: pd.DataFrame,
    name: str,
    found: dict[tuple[int, int], Matching],
    offsets: Sequence[int],
) -> None:
    """Write a measure's columns into the table."""
    ordered = [(offsets[b], found[a, b]) for a, b in sorted(found)]

    def numbered(others: list[Ints]) -> NDArray[np.int32]:
        shifted = [np.where(part >= 0, part + first, -1) for (first, _), part in zip(ordered, others, strict=True)]
        return np.concatenate([np.empty(0, np.int32), *shifted]).astype(np.int32)

    def scores(parts: list[Floats]) -> NDArray[np.float32]:
        return np.concatenate([np.empty(0, np.float32), *parts]).astype(np.float32)

    table[f"best_by_{name}"] = numbered([match.best_N for _, match in ordered])
    table[f"best_{name}"] = scores([match.best_score_N for _, match in ordered])
    table[f"matched_by_{name}"] = numbered([match.partner_N for _, match in ordered])
    table[f"matched_{name}"] = scores([match.partner_score_N for _, match in ordered])


def _figures(
    measure: Measure, found: dict[tuple[int, int], Matching], offsets: Sequence[int], alive_F: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """The figures of each ordered pair of members: means over a's living features; None if a has none."""
    figures = []
    for a, b in sorted(found):
        alive_N, match = alive_F[offsets[a] : offsets[a + 1]], found[a, b]
        best_A, matched_A = match.best_score_N[alive_N], match.partner_score_N[alive_N]
        means = {"best": best_A, "matched": matched_A, "shared": best_A >= measure.threshold}
        figures.append({"a": a, "b": b, **{key: float(x.mean()) if len(x) else None for key, x in means.items()}})
    return figures
