"""Make the table of features: how often and how strongly each fires, its matches, its place on the map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.activations.corpus import Corpus
from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.analysis.index.examples import strongest
from sae_core.analysis.shared.names_in_tables import THRESHOLD
from sae_core.analysis.similarity.matching import families
from sae_core.foundation.progress import Progress, Tick, silent

TOP = 20
"""Number of strongest activations; the most frequent token among them is the feature's top token."""
_REPORT = 1000


def atom_table(
    index: ActivationIndex,
    corpus: Corpus,
    *,
    matches: pd.DataFrame,
    places: pd.DataFrame,
    offsets: Sequence[int],
    progress: Progress = silent,
) -> pd.DataFrame:
    """Make the table of all features of an ensemble.

    Args:
        index: The ensemble's activations.
        corpus: The indexed corpus.
        matches: The table of `match_members`.
        places: One row per feature: x, y and cluster on the map.
        offsets: `Ensemble.offsets`.
        progress: Told the number of features done.

    Returns:
        One row per feature, in order: feature, member, latent, count, density, dead, peak, mean_active, stability
        (share of the other members with a best cosine of at least 0.7; NaN with one member), best_cosine (the largest
        over the other members; NaN with one member), family (−1 for none), family_size, x, y, cluster, top_token.
    """
    features = np.arange(offsets[-1])
    member = np.searchsorted(offsets, features, side="right") - 1
    family, family_size = families(matches, offsets)
    best = matches.groupby("feature")["best_cosine"]
    shared = (matches["best_cosine"] >= THRESHOLD).groupby(matches["feature"])
    count = index.counts
    peak, mean, top_token = _firing(index, corpus, progress)
    return pd.DataFrame(
        {
            "feature": features,
            "member": member,
            "latent": features - np.asarray(offsets)[member],
            "count": count,
            "density": count / max(index.tokens, 1),
            "dead": count == 0,
            "peak": peak,
            "mean_active": mean,
            "stability": shared.mean().reindex(features).to_numpy(np.float64),
            "best_cosine": best.max().reindex(features).to_numpy(np.float64),
            "family": family,
            "family_size": family_size,
            "x": places["x"].to_numpy(),
            "y": places["y"].to_numpy(),
            "cluster": places["cluster"].to_numpy(),
            "top_token": top_token,
        }
    )


def _firing(index: ActivationIndex, corpus: Corpus, progress: Progress) -> tuple[list[float], list[float], list[str]]:
    """(largest value, mean of the values, top token) of each feature; 0, 0 and no text for a dead one."""
    peaks, means, tokens = [], [], []
    for feature in range(index.features):
        positions, values = index.feature(feature)
        peaks.append(float(values.max(initial=0.0)))
        means.append(float(values.mean(dtype=np.float64)) if len(values) else 0.0)
        tokens.append(_top_token(corpus, positions[strongest(values, TOP)]))
        if (feature + 1) % _REPORT == 0 or feature + 1 == index.features:
            progress(Tick("describe atoms", feature + 1, index.features, unit="features"))
    return peaks, means, tokens


def _top_token(corpus: Corpus, positions: NDArray[np.int32]) -> str:
    """The most frequent token at positions; if several are equally frequent, the one that comes first."""
    common = Counter(corpus.alike_V[corpus.tokens[positions]].tolist()).most_common(1)
    return corpus.token_text(common[0][0]) if common else ""
