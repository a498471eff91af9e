"""From a token to the features that it drives: a table by token, made once from the index by feature.

How well feature f tells token v over the indexed corpus is the F1 of two shares: how much of all activation of f falls
on v (precision, weighted by activation), and on how many of the occurrences of v it fires (recall).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.browse.corpus import Corpus
from sae_core.browse.index import ActivationIndex
from sae_core.mapped import opened_table, writing_tensors
from sae_core.progress import Progress, Tick, silent

FORMAT = "sae-ensemble-by-token-1"
FEATURES_A_TOKEN = 128
"""Features kept for a token: those that tell it best."""
ENTRIES_AT_A_TIME = 4_000_000
"""Activations that are summed at a time; that takes some 60 bytes for each."""


@dataclass(frozen=True, slots=True)
class ByToken:
    """An open table; its arrays are maps of the file.

    Attributes:
        tokens: int32 [K], the tokens on which any feature fires, ascending.
        pointers: int64 [K + 1]; token k has the rows pointers[k] to pointers[k + 1].
        features: int32 [R], the feature of each row; for each token the one that tells it best first.
        share: float32 [R], Σ of the feature's activations on the token / Σ of all its activations.
        fires: float32 [R], the share of the token's occurrences on which the feature fires.
    """

    tokens: NDArray[np.int32]
    pointers: NDArray[np.int64]
    features: NDArray[np.int32]
    share: NDArray[np.float32]
    fires: NDArray[np.float32]

    @classmethod
    def open(cls, path: Path) -> ByToken:
        """Open a table.

        Raises:
            UserError: If the file is missing, damaged or something else.
        """
        with opened_table(path, FORMAT, "a table by token") as (arrays, _):
            table = cls(*(arrays[name] for name in ("tokens", "pointers", "features", "share", "fires")))
            rows = len(table.features)
            if len(table.pointers) != len(table.tokens) + 1 or table.pointers[-1] != rows or len(table.share) != rows:
                raise ValueError("the pointers do not fit the rows")
        return table

    def driven_by(self, tokens: list[int]) -> pd.DataFrame:
        """The features that tell any of some tokens, each by the token that it tells best, the best first.

        Returns:
            Rows feature, token, share, fires and score, their F1; ties by number.
        """
        parts = [self._rows(token) for token in tokens]
        found = pd.concat([self._frame([], []), *(self._frame(token, rows) for token, rows in parts if len(rows))])
        found = found.sort_values(["score", "feature"], ascending=[False, True], kind="stable")
        return found.drop_duplicates("feature").reset_index(drop=True)

    def _rows(self, token: int) -> tuple[int, NDArray[np.int64]]:
        place = int(np.searchsorted(self.tokens, token))
        if place == len(self.tokens) or self.tokens[place] != token:
            return token, np.arange(0)
        return token, np.arange(self.pointers[place], self.pointers[place + 1])

    def _frame(self, token: int | list[int], rows: NDArray[np.int64] | list[int]) -> pd.DataFrame:
        places = np.asarray(rows, np.int64)
        share, fires = (np.asarray(column[places], np.float64) for column in (self.share, self.fires))
        return pd.DataFrame(
            {
                "feature": self.features[places].astype(np.int64),
                "token": np.full(len(places), token, np.int64) if len(places) else np.empty(0, np.int64),
                "share": share,
                "fires": fires,
                "score": f1(share, fires),
            }
        )


def f1(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    """The harmonic mean; 0 where both are."""
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


class _Pairs(NamedTuple):
    """Features and tokens on which they fire, one a row."""

    tokens: NDArray[np.int64]
    features: NDArray[np.int64]
    share: NDArray[np.float64]
    fires: NDArray[np.float64]


def write_by_token(
    index: ActivationIndex,
    corpus: Corpus,
    path: Path,
    *,
    kept: int = FEATURES_A_TOKEN,
    entries_at_a_time: int = ENTRIES_AT_A_TIME,
    progress: Progress = silent,
) -> int:
    """Make the table from an index and write it.

    Args:
        index: The ensemble's activations.
        corpus: What was indexed.
        path: The file.
        kept: Features kept for a token.
        entries_at_a_time: Activations that are summed at a time.
        progress: Told the features done.

    Returns:
        Rows written.
    """
    tokens_T = np.asarray(corpus.tokens[: index.tokens], np.int64)
    occurrences_V = np.bincount(tokens_T, minlength=1)
    empty, none = np.empty(0, np.int64), np.empty(0)
    best = _Pairs(empty, empty, none, none)
    for start, stop in _blocks(index, entries_at_a_time):
        found = _pairs(index, tokens_T, occurrences_V, start, stop)
        best = _best(_Pairs(*(np.concatenate(columns) for columns in zip(best, found, strict=True))), kept)
        progress(Tick("features by token", stop, index.features, "features"))
    tokens_K, firsts_K = np.unique(best.tokens, return_index=True)
    rows = len(best.tokens)
    layout = {
        "pointers": (np.int64, (len(tokens_K) + 1,)),
        "tokens": (np.int32, (len(tokens_K),)),
        "features": (np.int32, (rows,)),
        "share": (np.float32, (rows,)),
        "fires": (np.float32, (rows,)),
    }
    with writing_tensors(path, layout, {"format": FORMAT}) as writer:
        writer.write("pointers", 0, np.append(firsts_K, rows))
        writer.write("tokens", 0, tokens_K)
        for name in ("features", "share", "fires"):
            writer.write(name, 0, getattr(best, name))
    return rows


def _blocks(index: ActivationIndex, entries: int) -> Iterator[tuple[int, int]]:
    """Ranges of features with about so many activations together; one that has more stands alone."""
    start = 0
    while start < index.features:
        stop = int(np.searchsorted(index.pointers, index.pointers[start] + entries, side="right")) - 1
        stop = min(max(stop, start + 1), index.features)
        yield start, stop
        start = stop


def _pairs(
    index: ActivationIndex, tokens_T: NDArray[np.int64], occurrences_V: NDArray[np.int64], start: int, stop: int
) -> _Pairs:
    """All pairs of the features of a range."""
    first, end = int(index.pointers[start]), int(index.pointers[stop])
    features_E = np.repeat(np.arange(stop - start), np.diff(index.pointers[start : stop + 1]))
    keys_E = features_E * len(occurrences_V) + tokens_T[index.positions[first:end]]
    keys_P, pair_E, counts_P = np.unique(keys_E, return_inverse=True, return_counts=True)
    values_E = np.asarray(index.values[first:end], np.float64)
    mass_P = np.bincount(pair_E, values_E, minlength=len(keys_P))
    total_F = np.bincount(features_E, values_E, minlength=stop - start)
    features_P, tokens_P = np.divmod(keys_P, len(occurrences_V))
    share_P = mass_P / np.maximum(total_F[features_P], np.finfo(np.float64).tiny)
    return _Pairs(tokens_P, features_P + start, share_P, counts_P / occurrences_V[tokens_P])


def _best(pairs: _Pairs, kept: int) -> _Pairs:
    """The best pairs of each token, by token, the best first; ties by the feature's number."""
    order = np.lexsort((pairs.features, -f1(pairs.share, pairs.fires), pairs.tokens))
    tokens = pairs.tokens[order]
    starts = np.flatnonzero(np.diff(tokens, prepend=-1))
    rank = np.arange(len(tokens)) - np.repeat(starts, np.diff(np.append(starts, len(tokens))))
    chosen = order[rank < kept]
    return _Pairs(pairs.tokens[chosen], pairs.features[chosen], pairs.share[chosen], pairs.fires[chosen])


class TokenNames:
    """Finds the tokens that a typed text means.

    Args:
        corpus: The corpus, of whose vocabulary the texts are.
        tokens: The tokens that can be found.
    """

    def __init__(self, corpus: Corpus, tokens: NDArray[np.int32]) -> None:
        occurrences_V = np.bincount(corpus.tokens, minlength=int(tokens.max(initial=0)) + 1)
        frequent_first = tokens[np.argsort(-occurrences_V[tokens], kind="stable")].tolist()
        self._texts = {token: corpus.token_text(token) for token in frequent_first}
        self._by_word: dict[str, list[int]] = {}
        for token, text in self._texts.items():
            self._by_word.setdefault(_word(text), []).append(token)

    def find(self, typed: str) -> list[int]:
        """The tokens that read like this, the most frequent first.

        Spaces around a word and capitals do not count, unless a space is typed as ``·``: ``·the`` is that token alone.
        """
        shown = typed.translate(_SIGNS)
        if shown != typed:
            return [token for token, text in self._texts.items() if text == shown]
        return self._by_word.get(_word(typed), [])

    def like(self, typed: str, count: int = 8) -> list[int]:
        """The most frequent tokens that begin with what was typed."""
        word = _word(typed.translate(_SIGNS))
        found = (token for token, text in self._texts.items() if _word(text).startswith(word))
        return [token for token, _ in zip(found, range(count), strict=False)]


_SIGNS = str.maketrans({"·": " ", "⏎": "\n", "→": "\t"})


def _word(text: str) -> str:
    return text.strip().casefold() or text
