"""A choice of features as a table and as CSV."""

from __future__ import annotations

import pandas as pd

from dashboard.shared.look.suggested import MEASURED_ON
from sae_core.foundation.files.spreadsheets import write_rows
from sae_core.foundation.numbering import COLUMNS

_SUGGESTED = ("suggestion", "suggestion_precision", "suggestion_recall", "suggestion_measured_on")
_COLUMNS = (*COLUMNS, "top_token", "label", *_SUGGESTED, "density", "stability", "cluster", "x", "y")


def selection_csv(chosen: pd.DataFrame, *, header: bool = True, **where: str) -> str:
    """Features as CSV, one a row, which the import of labels takes too.

    Args:
        chosen: The features, with those of the map's columns that there are.
        header: Whether the first line names the columns.
        where: Columns that are the same for all, put first: run, ensemble.
    """
    if "suggestion" in chosen:
        said = chosen["suggestion"].map(lambda text: MEASURED_ON if isinstance(text, str) and text else "")
        chosen = chosen.assign(suggestion_measured_on=said)
    names = [name for name in _COLUMNS if name in chosen]
    table = chosen[names].astype(object)
    columns = [table[name].where(table[name].notna(), "").tolist() for name in names]
    text = write_rows([*where, *names], ([*where.values(), *cells] for cells in zip(*columns, strict=True)))
    return text if header else text.split("\n", 1)[1]
