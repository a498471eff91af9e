"""The indexed corpus, read-only: its tokens or rows, what they read like, the documents and what is known of them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pandas.api.types import is_integer_dtype

from sae_core.activations.origins.text.shown import show_alone
from sae_core.activations.origins.text.token_texts import TokenTexts
from sae_core.activations.rows_shown import RowsShown
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import map_tensors
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run

_AT_ONCE = 2**22
"""Tokens looked at together."""
_PLACES = ("document", "passage")
"""Columns of the metadata that say which passage of which document of the source one is."""


class Corpus:
    """Tokens that were indexed, passage after passage; position p is row p of the activations.

    What is called a document here is one passage: the text of one pass through the model. `source_documents` says which
    of them are of one text.

    Attributes:
        tokens: int32 [T], a map of the file.
        offsets: int64 [documents + 1]; document i has the positions offsets[i] to offsets[i + 1].
        documents: One row a passage, the metadata of its document.
        texts: What the tokens read like.
        rows: What people look at where rows are no tokens of a text; else None.
        compared: int32 [T]; two windows in which it agrees look the same to people.
        runs: int64; no window goes beyond the stretch between two of these positions. The offsets, unless given.
    """

    def __init__(
        self,
        tokens: NDArray[np.int32],
        offsets: NDArray[np.int64],
        documents: pd.DataFrame,
        texts: TokenTexts,
        *,
        rows: RowsShown | None = None,
        compared: NDArray[np.int32] | None = None,
        runs: NDArray[np.int64] | None = None,
    ) -> None:
        self.tokens, self.offsets, self.documents, self.texts = tokens, offsets, documents, texts
        self.rows = rows
        self.compared = tokens if compared is None else compared
        self.runs = offsets if runs is None else runs
        # Metadata of a source are texts; ours are numbers, so a column of a file that has this name is none of them.
        self._places = [name for name in _PLACES if name in documents and is_integer_dtype(documents[name])]

    @classmethod
    def open(cls, run: Run) -> Corpus:
        """Open a run's corpus.

        Raises:
            UserError: If there is none, or a file is missing, damaged or does not fit the others.
        """
        folder = run.corpus
        run.settings.origin.require_rows(run)
        arrays, _ = map_tensors(folder.tokens)
        documents = read_table(folder.documents)
        try:
            tokens, offsets = arrays["tokens"], arrays["offsets"].astype(np.int64)
        except KeyError as error:
            raise UserError(f"{folder.tokens} holds no {error}; delete the run and train again.") from None
        ascending = len(offsets) and offsets[0] == 0 and offsets[-1] == len(tokens) and np.all(np.diff(offsets) >= 0)
        if not ascending or len(documents) != len(offsets) - 1:
            raise UserError(f"{folder.tokens} does not fit {folder.documents}; delete the run and train again.")
        file = folder.tokenizer / "tokenizer.json"
        if not file.exists() and folder.vocabulary.exists():
            texts = TokenTexts.of_table(folder.vocabulary)
        else:
            texts = TokenTexts(file if file.exists() else None)
        if not folder.rows.exists():
            return cls(tokens, offsets, documents, texts)
        rows = RowsShown.open(run)
        if any(len(part) != len(tokens) for part in (rows, arrays.get("alike", ()))) or "runs" not in arrays:
            raise UserError(f"{folder.tokens} does not fit {folder.rows}; delete the run and train again.")
        runs = arrays["runs"].astype(np.int64)
        return cls(tokens, offsets, documents, texts, rows=rows, compared=arrays["alike"], runs=runs)

    def __len__(self) -> int:
        """Tokens, T."""
        return len(self.tokens)

    def token_text(self, token: int) -> str:
        """What a token reads like on its own, leading space included."""
        return self.texts.text(token)

    @cached_property
    def alike_V(self) -> NDArray[np.int32]:
        """For each token up to the largest of the corpus the smallest one of it that reads the same; else itself.

        Several numbers may stand for one text, such as a byte and the letter that it is. Who reads a token cannot tell
        them apart, so what is said of it is said of all of them.
        """
        there_V = np.zeros(int(self.tokens.max(initial=0)) + 1, np.bool_)
        for start in range(0, len(self.tokens), _AT_ONCE):
            there_V[self.tokens[start : start + _AT_ONCE]] = True
        alike_V = np.arange(len(there_V), dtype=np.int32)
        first: dict[str, int] = {}
        for token in np.flatnonzero(there_V).tolist():
            alike_V[token] = first.setdefault(show_alone(self.token_text(token)), token)
        return alike_V

    def window_texts(self, positions: range) -> list[str]:
        """What the tokens of a window read like; together they are its text."""
        return self.texts.sequence(self.tokens[positions.start : positions.stop].tolist())

    def document_of(self, positions: ArrayLike) -> NDArray[np.int64]:
        """Number of the passage of each position, as `offsets` and `documents` count them."""
        # The right side, since an empty document begins where the next one does.
        return np.asarray(np.searchsorted(self.offsets, positions, side="right") - 1, dtype=np.int64)

    @property
    def labels(self) -> pd.DataFrame:
        """What is known of each passage's document, without the numbers that say which passage it is."""
        return self.documents.drop(columns=self._places)

    @property
    def source_documents(self) -> NDArray[np.int64]:
        """The number of the source's document that each passage is of; in older runs each is one of its own."""
        if "document" not in self._places:
            return np.arange(len(self.documents))
        return self.documents["document"].to_numpy(np.int64)

    def span(self, position: int, before: int, after: int) -> range:
        """The positions from ``before`` tokens before to ``after`` tokens after a position, within its document.

        A series is shown as far as it goes, although its documents are short stretches of it.
        """
        place = int(np.searchsorted(self.runs, position, side="right"))
        start, stop = int(self.runs[place - 1]), int(self.runs[place])
        return range(max(start, position - before), min(stop, position + after + 1))

    def metadata(self, document: int) -> dict[str, Any]:
        """What is known of a document, column by column; unknown values are left out."""
        known = {name: values[document] for name, values in self._columns.items() if _is_known(values[document])}
        if self.rows is not None or self._alone[document]:
            for name in self._places:
                del known[name]  # a document of one passage needs no numbers
        return known

    @cached_property
    def _alone(self) -> NDArray[np.bool_]:
        """Whether each passage is the only one of its document."""
        _, document_P, count_D = np.unique(self.source_documents, return_inverse=True, return_counts=True)
        return np.asarray(count_D[document_P] == 1)

    @cached_property
    def _columns(self) -> dict[str, list[Any]]:
        # Lists, since picking a row from a DataFrame costs a hundred times as much.
        return {str(name): self.documents[name].tolist() for name in self.documents.columns}


def _is_known(value: Any) -> bool:
    return value is not None and value is not pd.NA and value == value  # NaN is not itself
