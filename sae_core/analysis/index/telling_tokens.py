"""Make the table by token: one pass over the index keeps the best features of each token."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sae_core.activations.corpus import Corpus
from sae_core.analysis.index.by_token import FEATURES_A_TOKEN, FORMAT
from sae_core.analysis.index.by_token_loops import keep_best
from sae_core.analysis.index.reading import ActivationIndex
from sae_core.foundation.files.mapped_tensors import writing_tensors
from sae_core.foundation.progress import Progress, Tick, silent

_BLOCK = 1024
_COLUMNS = {"features": np.int32, "share": np.float32, "fires": np.float32}


def write_by_token(
    index: ActivationIndex,
    corpus: Corpus,
    path: Path,
    *,
    kept: int = FEATURES_A_TOKEN,
    features_at_a_time: int = _BLOCK,
    progress: Progress = silent,
) -> int:
    """Make the table from an index and write it.

    The work takes 20 bytes for each of ``kept`` features of each different token, for an index of any size.

    Args:
        index: The ensemble's activations.
        corpus: The indexed corpus.
        path: The file.
        kept: Number of features to keep per token.
        features_at_a_time: Number of features between two reports of progress.
        progress: Told the number of features done.

    Returns:
        Number of rows written.
    """
    # Tokens with the same text are one token, under the smallest of their numbers.
    read_T = corpus.alike_V[corpus.tokens[: index.tokens]]
    tokens_V, token_T, occurrences_V = np.unique(read_T, return_inverse=True, return_counts=True)
    token_T, occurrences_V = token_T.astype(np.int32), occurrences_V.astype(np.int64)
    kept, count = max(1, min(kept, index.features)), len(tokens_V)
    room = (np.zeros(count), *(np.zeros(count, np.int64) for _ in range(2)))
    filled_V, scores_VK = np.zeros(count, np.int64), np.empty((count, kept))
    features_VK = np.empty((count, kept), np.int32)
    share_VK, fires_VK = (np.empty((count, kept), np.float32) for _ in range(2))
    best = (filled_V, scores_VK, features_VK, share_VK, fires_VK)
    for start in range(0, index.features, features_at_a_time):
        stop = min(start + features_at_a_time, index.features)
        keep_best(start, stop, index.pointers, index.positions, index.values, token_T, occurrences_V, *room, *best)
        progress(Tick("features by token", stop, index.features, "features"))
    driven_K = np.flatnonzero(filled_V)
    layout = {
        "pointers": (np.int64, (len(driven_K) + 1,)),
        "tokens": (np.int32, (len(driven_K),)),
        **{name: (kind, (int(filled_V.sum()),)) for name, kind in _COLUMNS.items()},
    }
    with writing_tensors(path, layout, {"format": FORMAT}) as writer:
        writer.write("pointers", 0, np.cumsum(np.append(0, filled_V[driven_K])))
        writer.write("tokens", 0, tokens_V[driven_K].astype(np.int32))
        place = 0
        for token in driven_K.tolist():
            full = slice(int(filled_V[token]))
            order = np.lexsort((features_VK[token, full], -scores_VK[token, full]))
            for name, column_VK in zip(_COLUMNS, (features_VK, share_VK, fires_VK), strict=True):
                writer.write(name, place, column_VK[token, full][order])
            place += len(order)
    return place
