"""Measure the share of each feature's tokens that lie in passages of one kind, for all features at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sae_core.activations.corpus import Corpus
from sae_core.analysis.index.activation_index import ActivationIndex

_MOST_VALUES = 40
ENTRIES_AT_A_TIME = 2**22
"""Number of index entries to process at a time."""


def concept_columns(corpus: Corpus) -> dict[str, list[str]]:
    """The columns of metadata that label documents: those with 2 to 40 different texts, each with its sorted texts."""
    found = {}
    known = corpus.labels
    for name in known.columns:
        values = known[name].dropna()
        if len(values) and values.map(lambda value: isinstance(value, str)).all():
            distinct = sorted(set(values))
            if 2 <= len(distinct) <= _MOST_VALUES:
                found[str(name)] = distinct
    return found


def concept_share(index: ActivationIndex, corpus: Corpus, column: str, value: str) -> tuple[NDArray[np.float64], float]:
    """For each feature, the share of its tokens that lie in documents whose ``column`` is ``value``.

    Returns:
        (the shares [F], NaN for a feature that never fires; the share of all indexed tokens, which is the expected
        share of a feature unrelated to the concept).
    """
    chosen = (corpus.documents[column].astype(object) == value).to_numpy(bool)
    within_T = np.repeat(chosen, np.diff(corpus.offsets))[: index.tokens]
    pointers = np.asarray(index.pointers)
    hits_F = np.zeros(index.features, np.int64)
    first = 0
    while first < index.features:
        # As many features as fit, and at least one.
        last = max(first + 1, int(np.searchsorted(pointers, pointers[first] + ENTRIES_AT_A_TIME, side="right")) - 1)
        start, stop = pointers[first], pointers[last]
        summed = np.concatenate([[0], np.cumsum(within_T[index.positions[start:stop]])])
        hits_F[first:last] = np.diff(summed[pointers[first : last + 1] - start])
        first = last
    counts_F = np.diff(pointers)
    share_F = np.divide(hits_F, counts_F, out=np.full(len(hits_F), np.nan), where=counts_F > 0)
    return share_F, float(within_T.mean()) if len(within_T) else float("nan")
