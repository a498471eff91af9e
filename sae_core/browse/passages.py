"""What is known of the passages in which a feature fires: the share of each label among them, against all passages."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.browse.corpus import Corpus
from sae_core.browse.index import ActivationIndex

MOST_LABELS = 40
"""A column of the documents' metadata with more different values than this names passages and does not label them."""


class PassageLabels:
    """The labels of a corpus' passages, ready to be counted for one feature after another.

    Args:
        corpus: What was indexed; a passage is a document of it.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._offsets = corpus.offsets.astype(np.int32)
        self._columns: dict[str, tuple[NDArray[np.int64], list[str]]] = {}
        for name in corpus.documents.columns:
            values = corpus.documents[name]
            texts = values.astype(str).where(values.notna() & (values.astype(str) != ""))
            codes, labels = pd.factorize(texts, sort=True)
            if 1 < len(labels) <= MOST_LABELS:
                self._columns[str(name)] = (codes.astype(np.int64), [str(label) for label in labels])

    def shares(self, index: ActivationIndex, feature: int) -> pd.DataFrame:
        """The share of each label among the passages in which a feature fires.

        Args:
            index: The ensemble's activations.
            feature: Number of the feature in the ensemble.

        Returns:
            Rows column, label, passages (in which it fires, with this label), share (of those in which it fires and
            that have any label of the column), corpus_share (of all passages with one) and lift (share over
            corpus_share), by column and then by passages, the most first. Empty for a feature that never fires.
        """
        positions, _ = index.feature(feature)
        fires_D = np.diff(np.searchsorted(positions, self._offsets)) > 0
        tables = []
        for name, (codes_D, labels) in self._columns.items():
            known_D = codes_D >= 0
            all_L = np.bincount(codes_D[known_D], minlength=len(labels))
            here_L = np.bincount(codes_D[known_D & fires_D], minlength=len(labels))
            share_L, corpus_L = here_L / max(here_L.sum(), 1), all_L / all_L.sum()
            table = pd.DataFrame(
                {
                    "column": name,
                    "label": labels,
                    "passages": here_L,
                    "share": share_L,
                    "corpus_share": corpus_L,
                    "lift": share_L / corpus_L,
                }
            )
            tables.append(table[here_L > 0].sort_values("passages", ascending=False, kind="stable"))
        columns = ["column", "label", "passages", "share", "corpus_share", "lift"]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
