"""Find evidence for a feature's meaning in the texts of a task: words that go with the feature, its strongest texts.

A feature's tokens in the indexed corpus show its meaning there. On other texts, such as biographies, the feature may
mean something else, so this module looks at the texts themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

WORD = r"(?u)\b\w+\b"
"""The pattern of a word; scikit-learn's own pattern leaves out words of one letter."""
FEWEST = 0.02
"""Only words that occur in at least this share of the texts, and are missing in at least this share, are correlated."""


@dataclass(frozen=True, slots=True)
class Telling:
    """A word and the correlation of its presence in a text with a feature's mean coefficient there."""

    word: str
    correlation: float


class Words:
    """The presence of words in texts, for correlations with features.

    Args:
        texts: The texts.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counter = CountVectorizer(token_pattern=WORD, binary=True, dtype=np.float64, min_df=min(2, len(texts)))
        try:
            found = sparse.csr_array(counter.fit_transform(texts))
            words = counter.get_feature_names_out()
        except ValueError:  # no word occurs often enough
            found, words = sparse.csr_array((len(texts), 0), dtype=np.float64), np.empty(0, dtype=object)
        share_W = np.asarray(found.sum(axis=0)).ravel() / max(len(texts), 1)
        kept_W = (share_W >= FEWEST) & (share_W <= 1 - FEWEST)
        self._words, self._share_W = words[kept_W], share_W[kept_W]
        self._found_XW = sparse.csc_array(found)[:, np.flatnonzero(kept_W)]

    def correlations(self, coefs_XF: Floats) -> Floats:
        """Pearson correlations [F, W] of features' mean coefficients [texts, F] with the presence of words.

        A feature with the same mean coefficient in all texts has correlation 0 with every word.
        """
        centred_XF = coefs_XF - coefs_XF.mean(axis=0)
        deviation_F = np.sqrt((centred_XF**2).mean(axis=0))
        constant_F = deviation_F <= 1e-9 * np.sqrt((coefs_XF**2).mean(axis=0))
        together_FW = np.asarray((self._found_XW.T @ centred_XF).T) / max(len(coefs_XF), 1)
        spread_FW = np.where(constant_F, np.inf, deviation_F)[:, None] * np.sqrt(self._share_W * (1 - self._share_W))
        correlations_FW: Floats = together_FW / spread_FW
        return correlations_FW

    def telling(self, coefs_XF: Floats, *, count: int = 4, least: float = 0.2) -> list[list[Telling]]:
        """For each feature, the words with the largest correlations, best first; equal words are in alphabetical order.

        Args:
            coefs_XF: Mean coefficients [texts, F].
            count: Largest number of words.
            least: Smallest correlation of a word.
        """
        found = []
        for row_W in self.correlations(coefs_XF):
            best = np.argsort(-row_W, kind="stable")[:count]
            found.append([Telling(str(self._words[at]), float(row_W[at])) for at in best if row_W[at] >= least])
        return found


def strongest(coefs_X: Floats, rows: Integers, *, count: int = 3) -> Integers:
    """The texts among ``rows`` with the feature's largest mean coefficients above 0; of equal texts the first ones.

    Args:
        coefs_X: Mean coefficients of all texts.
        rows: The texts to choose from.
        count: Largest number of texts.
    """
    order = rows[np.argsort(-coefs_X[rows], kind="stable")[:count]]
    return order[coefs_X[order] > 0]
