"""An index and a corpus from hand-written arrays, for tests of reading."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sae_core.activations.corpus import Corpus
from sae_core.activations.origins.text.token_texts import TokenTexts
from sae_core.analysis.index.activation_index import ActivationIndex


def index_of(dense_TF: ArrayLike) -> ActivationIndex:
    """The index of a dense code [T, F]."""
    dense_FT = np.asarray(dense_TF, np.float32).T
    features, positions = np.nonzero(dense_FT)
    pointers = np.searchsorted(features, np.arange(len(dense_FT) + 1))
    return ActivationIndex(
        dense_FT.shape[1], pointers.astype(np.int64), positions.astype(np.int32), dense_FT[features, positions]
    )


def corpus_of(documents: Sequence[Sequence[int]]) -> Corpus:
    """A corpus without a tokenizer, in which document i has the metadata ``{"name": "d<i>"}``."""
    tokens = np.array([token for document in documents for token in document], np.int32)
    offsets = np.cumsum([0, *map(len, documents)])
    names = pd.DataFrame({"name": [f"d{number}" for number in range(len(documents))]})
    return Corpus(tokens, offsets, names, TokenTexts())
