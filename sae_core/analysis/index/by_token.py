"""The table by token: find the features that each token drives, and look them up by a typed text.

The score of feature f for token v over the indexed corpus is the F1 of two shares: the share of f's activation that
falls on v (precision, weighted by activation), and the share of v's occurrences on which f fires (recall).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.activations.corpus import Corpus
from sae_core.activations.origins.text.shown import NEWLINE, SPACE, TAB, show_alone
from sae_core.activations.origins.text.shown import typed as signs
from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.foundation.files.mapped_tables import MappedTable
from sae_core.foundation.files.mapped_tensors import writing_tensors
from sae_core.foundation.progress import Progress, Tick, silent

FEATURES_A_TOKEN = 128
"""Number of features to keep per token: those with the best scores."""
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class ByToken(MappedTable):
    """The open table.

    Attributes:
        tokens: [K], the tokens on which any feature fires, ascending.
        pointers: [K + 1]; token k has the rows pointers[k] to pointers[k + 1].
        features: [R], the feature of each row; for each token, the best feature comes first.
        share: [R], Σ of the feature's activations on the token / Σ of all its activations.
        fires: [R], the share of the token's occurrences on which the feature fires.
    """

    FORMAT: ClassVar[str] = "sae-ensemble-by-token-1"
    TITLE: ClassVar[str] = "a table by token"

    tokens: NDArray[np.int32]
    pointers: NDArray[np.int64]
    features: NDArray[np.int32]
    share: NDArray[np.float32]
    fires: NDArray[np.float32]

    def check(self) -> None:
        """Check that the pointers are those of the rows."""
        rows = {len(self.features), len(self.share), len(self.fires)}
        if len(self.pointers) != len(self.tokens) + 1 or rows != {int(self.pointers[-1])}:
            raise ValueError("the pointers do not fit the rows")

    def driven_by(self, tokens: list[int]) -> pd.DataFrame:
        """The features for any of some tokens, each with its best token, the best feature first.

        Returns:
            Rows feature, token, share, fires and score, their F1; ties by number.
        """
        places = np.searchsorted(self.tokens, tokens).tolist()
        pairs = zip(places, tokens, strict=True)
        known = np.array([place for place, token in pairs if token in self.tokens[place : place + 1]], np.int64)
        rows = np.concatenate([np.arange(0), *(np.arange(*self.pointers[place : place + 2]) for place in known)])
        share, fires = (np.asarray(column[rows], np.float64) for column in (self.share, self.fires))
        columns = {
            "feature": self.features[rows].astype(np.int64),
            "token": np.repeat(self.tokens[known], np.diff(self.pointers)[known]).astype(np.int64),
            "share": share,
            "fires": fires,
            "score": f1(share, fires),
        }
        found = pd.DataFrame(columns).sort_values(["score", "feature"], ascending=[False, True], kind="stable")
        return found.drop_duplicates("feature").reset_index(drop=True)


def f1(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    """The harmonic mean; 0 if both are 0."""
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


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
    from sae_core.analysis.index.by_token_loops import keep_best  # pages only read, and need no compiled code

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
    columns = {"features": features_VK, "share": share_VK, "fires": fires_VK}
    rows = dict.fromkeys(columns, (int(filled_V.sum()),))
    layout = ByToken.layout(tokens=(len(driven_K),), pointers=(len(driven_K) + 1,), **rows)
    with writing_tensors(path, layout, ByToken.header()) as writer:
        writer.write("pointers", 0, np.cumsum(np.append(0, filled_V[driven_K])))
        writer.write("tokens", 0, tokens_V[driven_K].astype(np.int32))
        place = 0
        for token in driven_K.tolist():
            full = slice(int(filled_V[token]))
            order = np.lexsort((features_VK[token, full], -scores_VK[token, full]))
            for name, column_VK in columns.items():
                writer.write(name, place, column_VK[token, full][order])
            place += len(order)
    return place


class TokenNames:
    """Find the tokens that a typed text means.

    Args:
        corpus: The corpus, which has the texts of tokens.
        tokens: The tokens that can be found.
    """

    def __init__(self, corpus: Corpus, tokens: NDArray[np.int32]) -> None:
        occurrences_V = np.bincount(corpus.tokens, minlength=int(tokens.max(initial=0)) + 1)
        frequent_first = tokens[np.argsort(-occurrences_V[tokens], kind="stable")].tolist()
        texts = {token: corpus.token_text(token) for token in frequent_first}
        self._shown = {token: show_alone(text) for token, text in texts.items()}
        self._texts, self._by_word = texts, dict[str, list[int]]()
        for token, text in texts.items():
            self._by_word.setdefault(_word(text), []).append(token)

    def find(self, typed: str) -> list[int]:
        """The tokens with a text, the most frequent first.

        Spaces around a word and capitals do not count, unless a space is typed as ``·``: ``·the`` means that token
        alone.
        """
        if any(sign in typed for sign in _SIGNS):
            wanted = signs(typed).replace(" ", SPACE)
            return [token for token, shown in self._shown.items() if shown.replace(" ", SPACE) == wanted]
        return self._by_word.get(_word(typed), [])

    def like(self, typed: str, count: int = 8) -> list[int]:
        """The most frequent tokens that begin with the typed text."""
        word = _word(typed.translate(_AS_TEXT))
        found = (token for token, text in self._texts.items() if _word(text).startswith(word))
        return [token for token, _ in zip(found, range(count), strict=False)]


_SIGNS = (SPACE, NEWLINE, TAB)
_AS_TEXT = str.maketrans({SPACE: " ", NEWLINE: "\n", TAB: "\t"})


def _word(text: str) -> str:
    return text.strip().casefold() or text
