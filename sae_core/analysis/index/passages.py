"""Compare the passages in which a feature fires with all passages: the share of each label in both."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.activations.corpus import Corpus
from sae_core.analysis.index.activation_index import ActivationIndex

MOST_LABELS = 40
"""A metadata column with more different values than this identifies passages and does not label them."""


class _Column(NamedTuple):
    """A column of the documents' metadata that labels them.

    Attributes:
        name: The column's name.
        labels_L: The different values.
        code_D: The number of each document's value; −1 for none.
        share_L: The share of each value among the documents that have a value.
    """

    name: str
    labels_L: NDArray[np.object_]
    code_D: NDArray[np.int64]
    share_L: NDArray[np.float64]


class PassageLabels:
    """The labels of a corpus' passages, ready to be counted for many features.

    Args:
        corpus: The indexed corpus; its documents are passages.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._offsets = corpus.offsets.astype(np.int32)
        self._columns: list[_Column] = []
        known = corpus.labels
        for name in known.columns:
            values = known[name]
            texts = values.astype(str).where(values.notna() & (values.astype(str) != ""))
            codes, labels = pd.factorize(texts, sort=True)
            if 1 < len(labels) <= MOST_LABELS:
                share_L = np.bincount(codes[codes >= 0], minlength=len(labels)) / np.count_nonzero(codes >= 0)
                labels_L = np.array([str(label) for label in labels], object)
                self._columns.append(_Column(str(name), labels_L, codes.astype(np.int64), share_L))

    def shares(self, index: ActivationIndex, feature: int) -> pd.DataFrame:
        """The share of each label among the passages in which a feature fires.

        Args:
            index: The ensemble's activations.
            feature: Number of the feature in the ensemble.

        Returns:
            Rows column, label, passages (passages with this label in which the feature fires), share (among labelled
            passages in which the feature fires), corpus_share (among all labelled passages) and lift (share divided by
            corpus_share), by column and then by passages, the most first. Empty for a feature that never fires.
        """
        positions, _ = index.feature(feature)
        fires_D = np.diff(np.searchsorted(positions, self._offsets)) > 0
        found: list[tuple[NDArray[Any], ...]] = []
        for column in self._columns:
            codes = column.code_D[fires_D]
            here_L = np.bincount(codes[codes >= 0], minlength=len(column.labels_L))
            order = np.argsort(-here_L, kind="stable")[: np.count_nonzero(here_L)]
            here, usual = here_L[order], column.share_L[order]
            share = here / max(here_L.sum(), 1)
            name = np.full(len(order), column.name, object)
            found.append((name, column.labels_L[order], here, share, usual, share / usual))
        columns = ("column", "label", "passages", "share", "corpus_share", "lift")
        if not found:
            return pd.DataFrame(columns=list(columns))
        arrays = (np.concatenate(each) for each in zip(*found, strict=True))
        return pd.DataFrame(dict(zip(columns, arrays, strict=True)))
