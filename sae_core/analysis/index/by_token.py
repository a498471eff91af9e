"""Look up the features that a token drives, in a table by token. `telling_tokens` makes the table from the index.

The score of feature f for token v over the indexed corpus is the F1 of two shares: the share of f's activation that
falls on v (precision, weighted by activation), and the share of v's occurrences on which f fires (recall).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.activations.corpus import Corpus
from sae_core.activations.origins.text.shown import NEWLINE, SPACE, TAB, show_alone
from sae_core.activations.origins.text.shown import typed as signs
from sae_core.foundation.files.mapped_tensors import opened_table

FORMAT = "sae-ensemble-by-token-1"
FEATURES_A_TOKEN = 128
"""Number of features to keep per token: those with the best scores."""


@dataclass(frozen=True, slots=True)
class ByToken:
    """An open table; its arrays are maps of the file.

    Attributes:
        tokens: int32 [K], the tokens on which any feature fires, ascending.
        pointers: int64 [K + 1]; token k has the rows pointers[k] to pointers[k + 1].
        features: int32 [R], the feature of each row; for each token, the best feature comes first.
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
        """The features for any of some tokens, each with its best token, the best feature first.

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
    """The harmonic mean; 0 if both are 0."""
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


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
            return [token for token, shown in self._shown.items() if shown == signs(typed)]
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
