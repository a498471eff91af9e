"""A choice of features as a table and as CSV."""

from __future__ import annotations

from typing import Any

import pandas as pd

_COLUMNS = (
    "feature",
    "member",
    "latent",
    "top_token",
    "label",
    "suggestion",
    "density",
    "stability",
    "cluster",
    "x",
    "y",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def selection_csv(chosen: pd.DataFrame, *, header: bool = True, **where: str) -> str:
    """Features as CSV, one a row; text that a spreadsheet would take for a formula gets an apostrophe in front.

    Args:
        chosen: The features, with those of the map's columns that there are.
        header: Whether the first line names the columns.
        where: Columns that are the same for all, put first: run, ensemble.
    """
    table = chosen[[name for name in _COLUMNS if name in chosen]].rename(columns={"latent": "number_in_member"})
    for place, (name, value) in enumerate(where.items()):
        table.insert(place, name, value)
    texts = [name for name in (*where, "top_token", "label", "suggestion") if name in table]
    return table.assign(**{name: table[name].map(_harmless) for name in texts}).to_csv(index=False, header=header)


def _harmless(cell: Any) -> str:
    text = str(cell)
    return f"'{text}" if text.startswith(_FORMULA) else text
