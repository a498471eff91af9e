"""Name the clusters of a map by the words that a cluster's features share and other features do not.

Source: class-based TF-IDF (Grootendorst 2022, *BERTopic*), with a cluster as the class and a feature as the document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import log

import numpy as np
from numpy.typing import NDArray

WORDS = 3
"""Largest number of words in a name."""
_SHARE = 0.25
"""A further word joins the name if its weight is at least this share of the first word's weight."""


def name_clusters(cluster_M: NDArray[np.int64], words_M: Sequence[Iterable[str]]) -> list[str]:
    """Name each cluster, such as ``array, shape``; the name is empty if the features have no words.

    The weight of word w in cluster c is f(w, c) / Σ_w f(w, c) · ln(1 + A / f(w)). Here f counts the features with the
    word, and A is the mean number of words in a cluster; all features outside the clusters count as one more cluster.

    Args:
        cluster_M: The cluster of each of M features, numbered from 0; negative for none.
        words_M: Each feature's words, such as those of its suggested label; each counts once.
    """
    counts: list[Counter[str]] = [Counter() for _ in range(int(cluster_M.max(initial=-1)) + 2)]
    for cluster, words in zip(cluster_M.tolist(), words_M, strict=True):
        counts[max(cluster, -1)].update(set(words))
    everywhere: Counter[str] = Counter()
    for count in counts:
        everywhere.update(count)
    average = everywhere.total() / len(counts)
    return [_name(count, everywhere, average) for count in counts[:-1]]


def _name(count: Counter[str], everywhere: Counter[str], average: float) -> str:
    total = count.total()
    weights = {word: number / total * log(1 + average / everywhere[word]) for word, number in count.items()}
    # Sort words of equal weight by alphabet, so that a name does not depend on the order of features.
    best = sorted(weights, key=lambda word: (-weights[word], word))[:WORDS]
    return ", ".join(word for word in best if weights[word] >= _SHARE * weights[best[0]])
