"""Which features the table shows and in what order: read from the address bar, written to it, applied to a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.foundation.numbering import named
from sae_core.labels import WRITTEN

DENSITIES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Limits that a density filter can have."""
LABEL_STATES = {"": "any label", "yes": "labelled", "no": "not labelled"}
DEAD_STATES = {"": "hide dead ones", "1": "with dead ones", "only": "dead ones only"}
MATCH = "match"
"""The order in which a token or a concept ranks features."""
SORTS = {
    "feature": "number",
    "member": "member",
    "top_token": "top token",
    "label": "label",
    MATCH: "match",
    "density": "density",
    "peak": "peak activation",
    "stability": "stability",
    "family_size": "family size",
    "cluster": "cluster",
}
_SMALLEST_FIRST = ("feature", "member", "label", "top_token", "cluster", MATCH)
_TEXTS = ("label", "top_token")
DEFAULT_SORT = "density"
_LONGEST = 200
KEYS = (
    *("q", "token", "concept", "member", "labels", "sort", "dir", "from", "to"),
    *("stability", "family", "cluster", "dead"),
)
"""Names of the filters in the address bar."""


@dataclass(frozen=True, slots=True)
class Filters:
    """A choice of features.

    Attributes:
        search: Words that must all occur in a feature's number, in its tokens or in what people wrote about it.
        member: Only this member; None for all.
        labels: A key of `LABEL_STATES`.
        sort: A key of `SORTS`; empty for the usual, which is the match if a token or a concept is given.
        density: Smallest and largest density.
        stability: Smallest stability.
        dead: A key of `DEAD_STATES`: whether features that never fire are shown.
        reverse: Whether the order is the other way round than usual for its column.
        family: Smallest size of the family.
        cluster: Only this cluster of the map; None for all.
        token: Only features that this token drives.
        concept: Only features that carry this concept, as ``task/concept``.
    """

    search: str = ""
    member: int | None = None
    labels: str = ""
    sort: str = ""
    density: tuple[float, float] = (DENSITIES[0], DENSITIES[-1])
    stability: float = 0.0
    dead: str = ""
    reverse: bool = False
    family: int = 1
    cluster: int | None = None
    token: str = ""
    concept: str = ""

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """Read the address bar; a value that makes no sense counts as not given."""
        low, high = _number(query.get("from", "")), _number(query.get("to", ""))
        stability = _number(query.get("stability", ""))
        labels, sort, dead = query.get("labels", ""), query.get("sort", ""), query.get("dead", "")
        return cls(
            search=query.get("q", "")[:_LONGEST],
            member=_whole(query.get("member", "")),
            labels=labels if labels in LABEL_STATES else "",
            sort=sort if sort in SORTS else "",
            density=_ordered(_nearest(low, DENSITIES[0]), _nearest(high, DENSITIES[-1])),
            stability=min(1.0, max(0.0, stability)) if stability is not None else 0.0,
            dead=dead if dead in DEAD_STATES else "",
            reverse=query.get("dir") == "reverse",
            family=max(1, _whole(query.get("family", "")) or 1),
            cluster=_whole(query.get("cluster", ""), least=-1),
            token=query.get("token", "")[:_LONGEST],
            concept=query.get("concept", "")[:_LONGEST],
        )

    def to_query(self) -> dict[str, str]:
        """What the address bar holds; defaults are left out."""
        values: dict[str, Any] = {
            "q": self.search,
            "token": self.token,
            "concept": self.concept,
            "member": self.member,
            "labels": self.labels,
            "sort": self.sort,
            "dir": "reverse" if self.reverse else "",
            "from": f"{self.density[0]:g}" if self.density[0] > DENSITIES[0] else "",
            "to": f"{self.density[1]:g}" if self.density[1] < DENSITIES[-1] else "",
            "stability": f"{self.stability:g}" if self.stability > 0 else "",
            "family": self.family if self.family > 1 else "",
            "cluster": self.cluster,
            "dead": self.dead,
        }
        return {key: str(value) for key, value in values.items() if value is not None and value != ""}

    @property
    def ranks(self) -> bool:
        """Whether a token or a concept ranks the features."""
        return bool(self.token or self.concept)

    @property
    def column(self) -> str:
        """The column by which the features are sorted."""
        if self.sort and (self.sort != MATCH or self.ranks):
            return self.sort
        return MATCH if self.ranks else DEFAULT_SORT

    @property
    def reads_texts(self) -> bool:
        """Whether it looks at what people have written or at texts that are searched, and not at atoms alone."""
        return bool(self.search.strip() or self.labels) or self.column == "label"

    @property
    def ascending(self) -> bool:
        """Whether the smallest comes first."""
        return (self.column in _SMALLEST_FIRST) != self.reverse


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None


def _whole(text: str, *, least: int = 0) -> int | None:
    value = _number(text)
    return int(value) if value is not None and least <= value <= 1_000_000 else None


def _nearest(value: float | None, default: float) -> float:
    return default if value is None else min(DENSITIES, key=lambda limit: abs(limit - value))


def _ordered(low: float, high: float) -> tuple[float, float]:
    return (low, high) if low < high else (DENSITIES[0], DENSITIES[-1])


def searchable(features: pd.DataFrame) -> pd.Series[str]:
    """What a search looks at beside what people wrote, one lower-case text per feature."""
    columns = ("top_token", "promoted_text", "suggestion")
    parts = [features[column].fillna("").astype(str) for column in columns if column in features]
    text = features["feature"].astype(str)
    for part in parts:
        text = text + " " + part
    return text.str.lower()


def apply(features: pd.DataFrame, filters: Filters, *, ranked: Sequence[int] | None = None) -> pd.DataFrame:
    """The chosen features in the chosen order; ties by number.

    Args:
        features: One row a feature: feature, member, density, dead, stability, peak, family_size, top_token, those
            of `WRITTEN`, and if there are any promoted_text, cluster, and search_text, what `searchable` gives.
        filters: The choice.
        ranked: With a token or a concept, the features that go with it, the best first.
    """
    return features.iloc[places(features, filters, ranked=ranked)]


def places(features: pd.DataFrame, filters: Filters, *, ranked: Sequence[int] | None = None) -> NDArray[np.int64]:
    """The rows of `apply`; some milliseconds for 131,072 features."""
    numbers = features["feature"].to_numpy()
    keep = _kept(features, filters)
    match = np.zeros(len(numbers), np.int64)
    if filters.ranks:
        ranks = pd.Series(np.arange(len(ranked or ())), index=pd.Index(ranked or (), dtype=np.int64))
        found = ranks.reindex(numbers).to_numpy(np.float64)
        keep &= ~np.isnan(found)
        match = np.nan_to_num(found).astype(np.int64)
    for word in filters.search.lower().split():
        keep &= _contains(features, word) | _at(features, word)
    chosen = np.flatnonzero(keep)
    key = match[chosen] if filters.column == MATCH else _key(features[filters.column].iloc[chosen], filters)
    empty = np.zeros(len(chosen), bool)
    if filters.column in _TEXTS:  # empty texts last, or the others would be out of sight
        empty = (features[filters.column].iloc[chosen] == "").to_numpy()
    missing = np.isnan(key) if key.dtype.kind == "f" else empty
    signed = key if filters.ascending else -key
    return chosen[np.lexsort((numbers[chosen], np.where(missing, 0, signed), missing))]


def _key(column: pd.Series[Any], filters: Filters) -> NDArray[Any]:
    if filters.column in _TEXTS:
        codes, _ = pd.factorize(column.fillna("").astype(str), sort=True)
        return np.asarray(codes, np.int64)
    return column.to_numpy(np.float64)


def _kept(features: pd.DataFrame, filters: Filters) -> NDArray[np.bool_]:
    """What all filters but the search and the ranking leave."""
    keep = np.ones(len(features), bool)
    dead = features["dead"].to_numpy(bool)
    if filters.dead != "1":
        keep &= dead == (filters.dead == "only")
    if filters.density != (DENSITIES[0], DENSITIES[-1]):
        density = features["density"].to_numpy()
        keep &= (density >= filters.density[0]) & (density <= filters.density[1])
    if filters.member is not None:
        keep &= features["member"].to_numpy() == filters.member
    if filters.stability > 0:
        keep &= np.nan_to_num(features["stability"].to_numpy(np.float64)) >= filters.stability - 1e-9
    if filters.family > 1:
        keep &= features["family_size"].to_numpy() >= filters.family
    if filters.cluster is not None and "cluster" in features:
        keep &= features["cluster"].to_numpy() == filters.cluster
    if filters.labels:
        keep &= (features["label"] != "").to_numpy(bool) == (filters.labels == "yes")
    return keep


def _at(features: pd.DataFrame, word: str) -> NDArray[np.bool_]:
    """The feature that a word such as ``1:6`` names: number 6 of member 1."""
    place = named(word)
    if place is None:
        return np.zeros(len(features), bool)
    here = features["member"].to_numpy() == place[0]
    there: NDArray[np.bool_] = here & (features["latent"].to_numpy() == place[1])
    return there


def _contains(features: pd.DataFrame, word: str) -> NDArray[np.bool_]:
    text = features["search_text"] if "search_text" in features else searchable(features)
    found = np.array(text.str.contains(word, regex=False), bool)  # a copy, as it is added to
    for column in WRITTEN:
        written = np.flatnonzero((features[column] != "").to_numpy(bool))
        if len(written):
            there = features[column].iloc[written].str.lower().str.contains(word, regex=False)
            found[written] |= there.to_numpy(bool)
    return found
