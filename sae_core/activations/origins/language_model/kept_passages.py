"""Read back the documents and passages that were gathered for a run."""

from __future__ import annotations

import pandas as pd

from sae_core.activations.origins.text.documents import Document
from sae_core.foundation.files.whole_files import parse_json, read_table, reading
from sae_core.foundation.run import Run


def documents(run: Run, *, held_out: bool) -> list[Document]:
    """The beginnings of the documents that were gathered for evaluation (``held_out``) or for training, in order.

    The beginning of a document is its first passage, or all of it with ``text.cut`` first.

    Raises:
        UserError: If the corpus is missing or damaged.
    """
    return _as_documents(run, _table_of_documents(passages_table(run, held_out)))


def passages(run: Run, *, held_out: bool) -> list[Document]:
    """The passages that were gathered for evaluation (``held_out``) or for training, in corpus order.

    Raises:
        UserError: If the corpus is missing or damaged.
    """
    return _as_documents(run, passages_table(run, held_out))


def passages_table(run: Run, held_out: bool) -> pd.DataFrame:
    """One row a passage, in corpus order; `CorpusFolder.texts` says which columns.

    Raises:
        UserError: If the corpus is missing or damaged.
    """
    table = read_table(run.corpus.texts)
    return table[table["held_out"] == held_out]


def _as_documents(run: Run, table: pd.DataFrame) -> list[Document]:
    with reading(run.corpus.texts):
        return [
            Document(text, parse_json(metadata))
            for text, metadata in zip(table["text"], table["metadata"], strict=True)
        ]


def _table_of_documents(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first passage of each document; older runs have no others."""
    return table if "document" not in table else table[~table["document"].duplicated()]
