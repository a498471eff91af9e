"""What the page of one feature shows of the index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.shared.reads.cached import ENTRIES, modified, optional_file
from dashboard.shared.reads.tables import corpus, index, matches
from sae_core.activations.corpus import Corpus
from sae_core.analysis.index.examples import (
    Example,
    Quantile,
    co_active,
    histogram,
    quantile_examples,
    strongest,
    top_examples,
)
from sae_core.analysis.index.passages import PassageLabels
from sae_core.analysis.index.together import Together
from sae_core.analysis.similarity.nearest import Nearest
from sae_core.foundation.run import Run


@dataclass(frozen=True, slots=True)
class FeatureView:
    """What a feature's page shows of the index."""

    top: Sequence[Example]
    quantiles: Sequence[Quantile]
    edges: Sequence[float]
    counts: Sequence[int]
    peak: float
    tokens: int


def feature_view(
    run: Run, ensemble: str, feature: int, *, count: int = 12, window: int = 16, quantiles: bool = True
) -> FeatureView | None:
    """Examples and the histogram of one feature; None where there is no index or no corpus.

    Args:
        run: The run.
        ensemble: Name of the ensemble.
        feature: Number of the feature.
        count: Strongest examples.
        window: Tokens shown on either side.
        quantiles: Whether examples from lower quantiles are wanted, too.
    """
    entries, text = index(run, ensemble), corpus(run)
    if entries is None or text is None:
        return None
    _, values = entries.feature(feature)
    edges, counts = histogram(values)
    return FeatureView(
        top=top_examples(entries, text, feature, count=count, window=window),
        quantiles=quantile_examples(entries, text, feature, window=window) if quantiles else (),
        edges=edges.tolist(),
        counts=counts.tolist(),
        peak=float(values.max(initial=0.0)),
        tokens=entries.tokens,
    )


def examples(run: Run, ensemble: str, feature: int, *, count: int = 3, window: int = 16) -> Sequence[Example]:
    """Where a feature is strongest; nothing where there is no index or no corpus."""
    entries, text = index(run, ensemble), corpus(run)
    return () if entries is None or text is None else top_examples(entries, text, feature, count=count, window=window)


def often_together(run: Run, ensemble: str, feature: int, *, count: int = 6) -> pd.DataFrame | None:
    """Features that fire on the same tokens: feature, together, share, lift.

    Looked up where they were counted when the run was indexed; else all positions of the index are read.
    """
    counted = optional_file(run.ensemble(ensemble).together, Together)
    if counted is not None:
        return counted.of(feature, count)
    entries = index(run, ensemble)
    return None if entries is None else co_active(entries, feature, count=count)


def nearest_within(run: Run, ensemble: str, feature: int) -> tuple[pd.DataFrame, float] | None:
    """(The nearest atoms of a feature's own member: feature and cosine; what chance gives for the nearest one).

    None for a run that was indexed by a version that did not look for them.
    """
    table = optional_file(run.ensemble(ensemble).nearest, Nearest)
    return None if table is None else (table.of(feature), float(table.chance[feature]))


class Match(NamedTuple):
    """What another member has of a feature: the most similar one, and the one that it is matched with one to one."""

    other_member: int
    best_feature: int
    best_cosine: float
    matched_feature: int


def matches_of(run: Run, ensemble: str, feature: int) -> list[Match] | None:
    """The matches of a feature in the other members; None where members are not matched."""
    table = matches(run, ensemble)
    if table is None:
        return None
    # By NumPy, as a large ensemble has a million rows.
    rows = np.flatnonzero(table["feature"].to_numpy() == feature)
    return [Match(*row) for row in zip(*(table[name].to_numpy()[rows].tolist() for name in Match._fields), strict=True)]


def peak_tokens(run: Run, ensemble: str, features: Iterable[int], *, count: int = 5) -> dict[int, list[str]]:
    """The different tokens on which features fire most strongly, by feature."""
    entries, text = index(run, ensemble), corpus(run)
    if entries is None or text is None:
        return {feature: [] for feature in features}
    found = {}
    for feature in features:
        positions, values = entries.feature(feature)
        tokens = dict.fromkeys(text.alike_V[text.tokens[positions[strongest(values, 12 * count)]]].tolist())
        found[feature] = [text.token_text(token) for token in list(tokens)[:count]]
    return found


def passage_labels(run: Run, ensemble: str, feature: int) -> pd.DataFrame | None:
    """The share of each label among the passages in which a feature fires, as `PassageLabels.shares` gives it."""
    entries, text = index(run, ensemble), corpus(run)
    if entries is None or text is None:
        return None
    return _passages(text, str(run.path), modified(run.corpus.documents)).shares(entries, feature)


@st.cache_resource(max_entries=ENTRIES, show_spinner=False)
def _passages(_text: Corpus, path: str, modified: int) -> PassageLabels:
    return PassageLabels(_text)
