"""Show what a feature fires on: examples in context, a histogram, co-active features, from one slice of the index.

No function loops over a feature's activations in Python, so a feature with millions of them takes milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.activations.corpus import Corpus
from sae_core.activations.rows_shown import RowShown
from sae_core.analysis.index.activation_index import ActivationIndex, Positions, Values

NEAR_IDENTICAL = 0.8
"""Two examples are near-identical if this share of the tokens around their peaks agrees, place by place."""

_SEARCHED = 64
_COMPARED = 8
"""Number of tokens to compare on either side. The shown window has no influence, so it does not change the choice."""
_SCAN = 4_000_000

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Example:
    """A window of tokens around an activation, within one document.

    Attributes:
        position: Position of the activation in the corpus.
        document: Number of the document.
        start: Position in the corpus at which the window begins.
        token_ids: The window's tokens.
        texts: The readable texts of the tokens.
        values: The feature's activation at each token; 0 where the feature does not fire.
        peak: The activation at ``position``.
        metadata: Metadata of the document.
        row: What people look at where rows are no tokens of a text; else None.
    """

    position: int
    document: int
    start: int
    token_ids: list[int]
    texts: list[str]
    values: list[float]
    peak: float
    metadata: dict[str, Any]
    row: RowShown | None = None


class Quantile(NamedTuple):
    """Examples from one band of a feature's activations. Bands hold equally many activations; band 1 is the weakest."""

    number: int
    low: float
    high: float
    examples: list[Example]


def top_examples(
    index: ActivationIndex,
    corpus: Corpus,
    feature: int,
    *,
    count: int = 20,
    window: int = 16,
    distinct: bool = True,
) -> list[Example]:
    """The examples in which a feature fires most strongly, the strongest first, at most one per document.

    Args:
        index: The ensemble's index.
        corpus: The indexed corpus.
        feature: Number of the feature in the ensemble.
        count: Number of wanted examples; there may be fewer.
        window: Number of tokens to show on either side.
        distinct: Leave out examples that are near-identical to a stronger one, searching 64·count documents.
    """
    positions, values = index.feature(feature)
    wanted = _SEARCHED * count if distinct else count
    places = _document_peaks(corpus, positions, values, wanted)
    if distinct:
        places = _distinct(corpus, positions, places, count=count, reach=_COMPARED)
    return [_example(corpus, positions, values, place, window) for place in places.tolist()]


def quantile_examples(
    index: ActivationIndex,
    corpus: Corpus,
    feature: int,
    *,
    quantiles: int = 5,
    per_quantile: int = 4,
    window: int = 16,
    seed: int = 0,
) -> list[Quantile]:
    """Draw random examples from each band of a feature's activations, the strongest band first, without empty bands.

    The strongest examples alone can mislead people about a feature's usual behaviour.

    Args:
        index: The ensemble's index.
        corpus: The indexed corpus.
        feature: Number of the feature in the ensemble.
        quantiles: Number of bands, which hold equally many activations.
        per_quantile: Number of examples per band, from different documents and not near-identical, if possible.
        window: Number of tokens to show on either side.
        seed: The same seed gives the same examples.
    """
    positions, values = index.feature(feature)
    if not len(values):
        return []
    bounds = np.quantile(values, np.linspace(0, 1, quantiles + 1)).astype(np.float32)
    generator = np.random.default_rng((seed, feature))
    bands = []
    for number in range(quantiles, 0, -1):
        low, high = bounds[number - 1], bounds[number]
        # A value on a bound belongs to the band above it; the strongest value belongs to the last band.
        below = values <= high if number == quantiles else values < high
        inside = np.flatnonzero((values >= low) & below)
        if not len(inside):
            continue
        drawn = generator.choice(inside, min(_SEARCHED * per_quantile, len(inside)), replace=False)
        places = drawn[_first_of_each(corpus.document_of(positions[drawn]))]
        kept = _distinct(corpus, positions, places, count=per_quantile, reach=_COMPARED)
        kept = kept[np.argsort(-values[kept], kind="stable")]
        examples = [_example(corpus, positions, values, place, window) for place in kept.tolist()]
        bands.append(Quantile(number, float(low), float(high), examples))
    return bands


def histogram(values: Values, bins: int = 40) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(edges [bins + 1], counts [bins]) of a feature's activations, from 0 to the largest."""
    largest = float(values.max(initial=0.0)) or 1.0
    counts, edges = np.histogram(values, bins=bins, range=(0.0, largest))
    return edges.astype(np.float64), counts.astype(np.int64)


def co_active(index: ActivationIndex, feature: int, count: int = 10) -> pd.DataFrame:
    """The features that fire most often on the same tokens, by the cosine of the two firing patterns.

    The function reads all positions of the index once: some 30 ms for 10M entries. `together` stores the result for all
    features.

    Returns:
        Rows feature, together (tokens on which both fire), share (of this feature's tokens) and lift (how many times
        more often than if they were independent).
    """
    positions, _ = index.feature(feature)
    fires_T = np.zeros(index.tokens, bool)
    fires_T[positions] = True
    together_F = np.zeros(index.features, np.int64)
    for start in range(0, index.entries, _SCAN):
        # All positions are in range; "clip" avoids checking each of them.
        hits = np.flatnonzero(fires_T.take(index.positions[start : start + _SCAN], mode="clip"))
        together_F += np.diff(np.searchsorted(hits, index.pointers - start))
    together_F[feature] = 0
    counts_F = index.counts
    cosine_F = together_F / np.sqrt(np.maximum(counts_F, 1) * float(max(len(positions), 1)))
    best = np.argsort(-cosine_F, kind="stable")[:count]
    best = best[together_F[best] > 0]
    together = together_F[best]
    share = together / max(len(positions), 1)
    return pd.DataFrame(
        {"feature": best, "together": together, "share": share, "lift": share * index.tokens / counts_F[best]}
    )


def strongest(values: Values, wanted: int) -> Places:
    """Places of the ``wanted`` largest values, the largest first; of equal values the earlier comes first."""
    chosen = np.arange(len(values))
    if 0 < wanted < len(values):
        least = np.partition(values, len(values) - wanted)[len(values) - wanted]
        # Compare all values equal to the smallest by place, so that the choice does not depend on the partition.
        chosen = np.flatnonzero(values >= least)
    return chosen[np.argsort(-values[chosen], kind="stable")][:wanted]


def _document_peaks(corpus: Corpus, positions: Positions, values: Values, wanted: int) -> Places:
    """Places of the peaks of the ``wanted`` documents with the largest peaks, the largest first."""
    if not len(positions):
        return np.arange(0)
    # Positions ascend, so a document's activations lie side by side. Look up each document's first activation, and not
    # the document of each activation, of which there may be a thousand times as many.
    firsts = np.searchsorted(positions, corpus.offsets.astype(positions.dtype))
    starts = firsts[:-1][np.diff(firsts) > 0]
    best = strongest(np.maximum.reduceat(values, starts), wanted)
    ends = np.append(starts[1:], len(values))
    return np.array([starts[one] + values[starts[one] : ends[one]].argmax() for one in best.tolist()], np.int64)


def _first_of_each(keys: NDArray[np.int64]) -> Places:
    """The place where each key occurs first, in the order of occurrence."""
    return np.sort(np.unique(keys, return_index=True)[1])


def _distinct(corpus: Corpus, positions: Positions, places: Places, *, count: int, reach: int) -> Places:
    """Keep the first ``count`` places whose surroundings are not near-identical to those of an earlier kept place."""
    windows_CW = _windows(corpus, positions[places], reach)
    kept: list[int] = []
    for candidate, window_W in enumerate(windows_CW):
        before_KW = windows_CW[kept]
        same_K = ((before_KW == window_W) & (window_W >= 0)).sum(axis=1)
        either_K = ((before_KW >= 0) | (window_W >= 0)).sum(axis=1)
        if not np.any(same_K >= NEAR_IDENTICAL * either_K):
            kept.append(candidate)
            if len(kept) == count:
                break
    return places[kept]


def _windows(corpus: Corpus, positions: Positions, reach: int) -> NDArray[np.int64]:
    """The tokens around each position [C, 2·reach + 1]; −1 outside its document."""
    documents = corpus.document_of(positions)
    around_CW = positions[:, None].astype(np.int64) + np.arange(-reach, reach + 1)
    inside_CW = (around_CW >= corpus.offsets[documents][:, None]) & (around_CW < corpus.offsets[documents + 1][:, None])
    return np.where(inside_CW, corpus.compared[np.clip(around_CW, 0, len(corpus) - 1)], -1)


def _example(corpus: Corpus, positions: Positions, values: Values, place: int, window: int) -> Example:
    position = int(positions[place])
    span = corpus.span(position, window, window)
    first, end = np.searchsorted(positions, (span.start, span.stop)).tolist()
    shown = np.zeros(len(span), np.float32)
    shown[positions[first:end] - span.start] = values[first:end]
    document = int(corpus.document_of(position))
    return Example(
        position=position,
        document=document,
        start=span.start,
        token_ids=corpus.tokens[span.start : span.stop].tolist(),
        texts=corpus.window_texts(span),
        values=shown.tolist(),
        peak=float(values[place]),
        metadata=corpus.metadata(document),
        row=corpus.rows.at(position, span) if corpus.rows is not None else None,
    )
