"""Find the document of each held-out activation, since tokens of one document are not independent."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_core.activations.store.left_out import left_out_rows
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run


def drawn(run: Run, rows: int) -> dict[str, Any]:
    """What the bootstrap draws from held-out activations, how often, and with which seed."""
    return {
        "document_T": held_out_documents(run, rows),
        "stretch": run.settings.model.context,
        "bootstrap": run.settings.evaluation.bootstrap,
        "seed": run.settings.training.seed,
    }


def held_out_documents(run: Run, rows: int) -> NDArray[np.int64] | None:
    """The number of the document that each row of `evaluation_cache` is of [rows]; None where there are no texts.

    A long document may lie there in several passages.
    """
    if not run.corpus.texts.exists():
        return None
    document_T = np.delete(np.repeat(*held_out_passages(run)), left_out_rows(run.activations / "evaluation"))
    return document_T if len(document_T) == rows else None


def held_out_passages(run: Run) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(the number of the document of each held-out passage, its tokens); in older runs each is one of its own."""
    table = read_table(run.corpus.texts)
    held_out = table[table["held_out"]]
    numbers = held_out["document"].to_numpy(np.int64) if "document" in held_out else np.arange(len(held_out))
    return numbers, held_out["tokens"].to_numpy(np.int64)
