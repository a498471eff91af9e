"""What the page of one feature shows of the index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.queries.cached import ENTRIES, modified
from dashboard.queries.tables import corpus, index
from sae_core.browse.examples import Example, Quantile, co_active, histogram, quantile_examples, top_examples
from sae_core.browse.together import Together
from sae_core.run import Run


@dataclass(frozen=True, slots=True)
class FeatureView:
    """What a feature's page shows of the index."""

    top: Sequence[Example]
    quantiles: Sequence[Quantile]
    edges: Sequence[float]
    counts: Sequence[int]
    peak: float
    tokens: int


def feature_view(run: Run, ensemble: str, feature: int, *, count: int = 12) -> FeatureView | None:
    """Examples and the histogram of one feature; None where there is no index or no corpus."""
    entries, text = index(run, ensemble), corpus(run)
    if entries is None or text is None:
        return None
    _, values = entries.feature(feature)
    edges, counts = histogram(values)
    return FeatureView(
        top=top_examples(entries, text, feature, count=count),
        quantiles=quantile_examples(entries, text, feature),
        edges=[float(edge) for edge in edges],
        counts=[int(number) for number in counts],
        peak=float(values.max()) if len(values) else 0.0,
        tokens=entries.tokens,
    )


def often_together(run: Run, ensemble: str, feature: int, *, count: int = 6) -> pd.DataFrame | None:
    """Features that fire on the same tokens: feature, together, share, lift.

    Looked up where they were counted when the run was indexed; else all positions of the index are read.
    """
    path = run.ensemble(ensemble).together
    if path.exists():
        return _together(str(path), modified(path)).of(feature, count)
    entries = index(run, ensemble)
    return None if entries is None else co_active(entries, feature, count=count)


@st.cache_resource(max_entries=ENTRIES, show_spinner=False)
def _together(path: str, modified: int) -> Together:
    return Together.open(Path(path))


def peak_tokens(run: Run, ensemble: str, feature: int, *, count: int = 5) -> list[str]:
    """The different tokens on which a feature fires most strongly."""
    entries, text = index(run, ensemble), corpus(run)
    if entries is None or text is None:
        return []
    positions, values = entries.feature(feature)
    strongest = np.argsort(-np.asarray(values), kind="stable")[: 12 * count]
    tokens = dict.fromkeys(int(text.tokens[position]) for position in np.asarray(positions)[strongest])
    return [text.token_text(token) for token in list(tokens)[:count]]
