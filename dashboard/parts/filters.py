"""Which features the table shows and in what order: read from the address bar, written to it, applied to a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import pandas as pd

DENSITIES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Limits that a density filter can have."""
LABEL_STATES = {"": "any label", "yes": "labelled", "no": "not labelled"}
SORTS = {
    "feature": "number",
    "density": "density",
    "stability": "stability",
    "peak": "peak activation",
    "family_size": "family size",
    "label": "label",
    "top_token": "top token",
}
_SMALLEST_FIRST = ("feature", "label", "top_token")
DEFAULT_SORT = "density"
KEYS = ("q", "member", "labels", "sort", "from", "to", "stability", "dead")
"""Names of the filters in the address bar."""


@dataclass(frozen=True, slots=True)
class Filters:
    """A choice of features.

    Attributes:
        search: Words that must all occur in a feature's number, tokens, label or note.
        member: Only this member; None for all.
        labels: A key of `LABEL_STATES`.
        sort: A key of `SORTS`.
        density: Smallest and largest density.
        stability: Smallest stability.
        dead: Whether features that never fire are shown.
    """

    search: str = ""
    member: int | None = None
    labels: str = ""
    sort: str = DEFAULT_SORT
    density: tuple[float, float] = (DENSITIES[0], DENSITIES[-1])
    stability: float = 0.0
    dead: bool = False

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """Read the address bar; a value that makes no sense counts as not given."""
        member = _number(query.get("member", ""))
        low, high = _number(query.get("from", "")), _number(query.get("to", ""))
        stability = _number(query.get("stability", ""))
        labels, sort = query.get("labels", ""), query.get("sort", "")
        return cls(
            search=query.get("q", "")[:200],
            member=int(member) if member is not None and 0 <= member <= 10_000 else None,
            labels=labels if labels in LABEL_STATES else "",
            sort=sort if sort in SORTS else DEFAULT_SORT,
            density=_ordered(_nearest(low, DENSITIES[0]), _nearest(high, DENSITIES[-1])),
            stability=min(1.0, max(0.0, stability)) if stability is not None else 0.0,
            dead=query.get("dead") == "1",
        )

    def to_query(self) -> dict[str, str]:
        """What the address bar holds; defaults are left out."""
        query: dict[str, str] = {}
        if self.search:
            query["q"] = self.search
        if self.member is not None:
            query["member"] = str(self.member)
        if self.labels:
            query["labels"] = self.labels
        if self.sort != DEFAULT_SORT:
            query["sort"] = self.sort
        if self.density[0] > DENSITIES[0]:
            query["from"] = f"{self.density[0]:g}"
        if self.density[1] < DENSITIES[-1]:
            query["to"] = f"{self.density[1]:g}"
        if self.stability > 0:
            query["stability"] = f"{self.stability:g}"
        if self.dead:
            query["dead"] = "1"
        return query


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None


def _nearest(value: float | None, default: float) -> float:
    return default if value is None else min(DENSITIES, key=lambda limit: abs(limit - value))


def _ordered(low: float, high: float) -> tuple[float, float]:
    return (low, high) if low < high else (DENSITIES[0], DENSITIES[-1])


def searchable(features: pd.DataFrame) -> pd.Series[str]:
    """Everything that a search looks at, one lower-case text per feature."""
    parts = [features["feature"].astype(str)]
    parts += [
        features[column].fillna("").astype(str)
        for column in ("top_token", "label", "note", "promoted_text")
        if column in features
    ]
    text = parts[0]
    for part in parts[1:]:
        text = text + " " + part
    return text.str.lower()


def apply(features: pd.DataFrame, filters: Filters) -> pd.DataFrame:
    """The chosen features in the chosen order; ties by number.

    Args:
        features: One row a feature: feature, member, density, dead, stability, peak, family_size, top_token, label,
            note, and if there is a lens promoted_text.
        filters: The choice.
    """
    keep = features["density"].between(*filters.density)
    if not filters.dead:
        keep &= ~features["dead"]
    if filters.member is not None:
        keep &= features["member"] == filters.member
    if filters.stability > 0:
        keep &= features["stability"].fillna(0.0) >= filters.stability - 1e-9
    if filters.labels:
        keep &= (features["label"] != "") == (filters.labels == "yes")
    chosen = features[keep]
    for word in filters.search.lower().split():
        chosen = chosen[searchable(chosen).str.contains(word, regex=False)]
    ascending = filters.sort in _SMALLEST_FIRST
    if filters.sort == "label":  # empty labels last, or the labelled ones would be out of sight
        chosen = chosen.assign(_empty=chosen["label"] == "").sort_values(["_empty", "label", "feature"])
        return chosen.drop(columns="_empty")
    return chosen.sort_values([filters.sort, "feature"], ascending=[ascending, True], na_position="last")


def neighbours(order: pd.Series[int], feature: int) -> tuple[int | None, int | None]:
    """The features before and after one in an order; a feature that is not in it has its neighbours by number."""
    numbers = order.tolist()
    if feature in numbers:
        place = numbers.index(feature)
        before = numbers[place - 1] if place > 0 else None
        return before, numbers[place + 1] if place + 1 < len(numbers) else None
    lower = [number for number in numbers if number < feature]
    higher = [number for number in numbers if number > feature]
    return (max(lower) if lower else None), (min(higher) if higher else None)
