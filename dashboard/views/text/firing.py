"""What a typed text makes features do: which of them are shown, with what is known of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dashboard.components.live_strip import Firing
from sae_core.foundation.colours import member_color
from sae_core.foundation.numbers import MISSING, percent
from sae_core.report.pieces.tokens import show_alone

if TYPE_CHECKING:  # it comes with torch
    from sae_core.analysis.live_text import LiveText

FEATURES, A_TOKEN = 300, 8
"""Features shown of a text: the strongest of all, and the strongest of each token."""


def firing(found: LiveText, table: pd.DataFrame | None, offsets: list[int]) -> list[Firing]:
    """The features to show, each with all its activations on the text.

    Args:
        found: What the ensemble makes of the text.
        table: The table of all features, whose row number is the feature; None for a run without an index.
        offsets: Number of the first feature of each member.
    """
    chosen = np.isin(found.features, list(_chosen(found)))
    features, rows, values = found.features[chosen], found.rows[chosen], found.values[chosen]
    order = np.lexsort((rows, features))
    numbers, starts = np.unique(features[order], return_index=True)
    return [
        Firing(
            feature=int(number),
            rows=rows[part].tolist(),
            values=[round(float(value), 4) for value in values[part]],
            **_known(int(number), table, offsets),
        )
        for number, part in zip(numbers, np.split(order, starts[1:]), strict=True)
    ]


def _chosen(found: LiveText) -> set[int]:
    strongest_first = np.argsort(-found.values, kind="stable")
    _, firsts = np.unique(found.features[strongest_first], return_index=True)
    overall = found.features[strongest_first[np.sort(firsts)[:FEATURES]]]
    by_token = np.lexsort((-found.values, found.rows))
    rows = found.rows[by_token]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    return {*overall.tolist(), *found.features[by_token[rank < A_TOKEN]].tolist()}


def _known(feature: int, table: pd.DataFrame | None, offsets: list[int]) -> dict[str, Any]:
    """What is known of a feature beside the text."""
    member = int(np.searchsorted(offsets, feature, side="right") - 1)
    known: dict[str, Any] = {"member": (str(member), member_color(member))}
    if table is None:
        return {**known, "token": "", "label": ("", False), "density": MISSING, "peak": 0.0}
    names = ("top_token", "label", "density", "peak", "suggestion")
    row = {name: table[name].iloc[feature] for name in names if name in table}
    label, suggestion = str(row["label"]), str(row.get("suggestion", ""))
    return {
        **known,
        "token": show_alone(str(row["top_token"])) if row["top_token"] else "",
        "label": (label or suggestion, not label and suggestion != ""),
        "density": percent(row["density"], 2),
        "peak": float(row["peak"]),
    }
