"""Rows of the feature table: from the table of all features to the cells of one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dashboard.components.feature_list import Column, Page
from dashboard.shared.feature_figures import DENSITY, FAMILY, PEAK, STABILITY, TOP_TOKEN
from dashboard.shared.filters import MATCH, Filters
from sae_core.foundation.colours import member_color
from sae_core.foundation.numbers import MISSING, decimal, is_missing, percent, whole
from sae_core.foundation.origin import OF_TOKENS, Words
from sae_core.report.pieces.tokens import show_alone

ROWS = 50
"""Rows of a page."""
_SCORES = ("score", "share", "fires")
PROMOTED = 4
"""Promoted tokens shown of a feature."""


def columns(
    member_word: str, *, members: int, filters: Filters, table: pd.DataFrame, words: Words = OF_TOKENS
) -> list[Column]:
    """The columns of the table, each with its definition.

    Args:
        member_word: What a member is called.
        members: How many there are; what compares members is left out for one.
        filters: The choice; a token or a concept brings columns of its own.
        table: The table of all features.
        words: What rows are called.
    """
    found = [Column("feature", "Feature", "number", "Number of the feature in the ensemble")]
    if members > 1:
        text = f"The {member_word} that it belongs to; numbered from 0"
        found.append(Column("member", member_word.capitalize(), "member", text))
    found.append(Column("top_token", f"Top {words.told_by}", "token", TOP_TOKEN.explained(words)))
    found.append(Column("label", "Label", "label", "What people call it; in italics what is only suggested"))
    if filters.token:
        text = (
            f"How well it tells the {words.told_by}: the F1 of two shares, of its activation that falls on the "
            f"{words.told_by}, and of the {words.told_by}'s occurrences on which it fires"
        )
        found.append(Column(MATCH, "Tells it", "share", text))
        text = f"Share of all its activation that falls on the {words.told_by}"
        found.append(Column("share", "On it", "number", text, sorts=False))
        text = f"Share of the {words.told_by}'s occurrences on which it fires"
        found.append(Column("fires", "Fires", "number", text, sorts=False))
    elif filters.concept:
        text = "It is among this many features that were chosen on training texts to detect the concept"
        found.append(Column(MATCH, "Among the best", "number", text))
    found.append(Column(DENSITY.key, DENSITY.title, "number", DENSITY.explained(words)))
    found.append(Column(PEAK.key, PEAK.title, "number", PEAK.definition, wide=True))
    if members > 1:
        found.append(Column(STABILITY.key, STABILITY.title, "share", STABILITY.definition))
        found.append(Column(FAMILY.key, FAMILY.title, "number", FAMILY.definition, wide=True))
    found.append(Column("cluster", "Cluster", "number", "Its cluster on the atom map; – is none", wide=True))
    if "promoted_text" in table:
        text = "Tokens whose prediction it raises most (logit lens)"
        found.append(Column("promotes", "Promotes", "text", text, wide=True, sorts=False))
    return found


def page(
    table: pd.DataFrame,
    order: NDArray[np.int64],
    number: int,
    *,
    columns: Sequence[Column],
    filters: Filters,
    scores: pd.DataFrame | None,
    pinned: Sequence[int],
    chosen: int | None = None,
) -> Page:
    """One page.

    Args:
        table: One row a feature; its row number is the feature.
        order: The chosen features in order.
        number: Number of the page; one that is not there becomes the nearest that is.
        columns: What `columns` gives.
        filters: The choice.
        scores: What ranks the features: feature and score, for a token also share and fires.
        pinned: Pinned features.
        chosen: The feature at which the cursor begins.
    """
    pages = max(1, -(-len(order) // ROWS))
    number = min(max(number, 0), pages - 1)
    shown = order[number * ROWS : (number + 1) * ROWS]
    rows = table.iloc[shown]
    if scores is not None:
        by_feature = scores.set_index("feature").reindex(shown)
        rows = rows.assign(**{name: by_feature[name].to_numpy() for name in _SCORES if name in by_feature})
    cells = _cells(filters)
    there = set(shown.tolist())
    return Page(
        columns=list(columns),
        rows=[[cells[column.key](row) for column in columns] for row in rows.to_dict("records")],
        features=shown.tolist(),
        pinned=[feature for feature in pinned if feature in there],
        sort=filters.column,
        # Of a rank, 1 is the best.
        ascending=filters.ascending != (filters.column == MATCH),
        number=number,
        pages=pages,
        chosen=chosen,
    )


def page_with(order: NDArray[np.int64], feature: int | None) -> int:
    """The number of the page on which a feature stands; the first, 0, if it stands on none or there is none."""
    if feature is None:
        return 0
    found = np.flatnonzero(order == feature)
    return int(found[0]) // ROWS if len(found) else 0


def _cells(filters: Filters) -> dict[str, Callable[[Mapping[Any, Any]], Any]]:
    """What stands in the cell of each column, by its key."""
    return {
        "feature": lambda row: whole(row["feature"]),
        "member": lambda row: [str(row["member"]), member_color(int(row["member"]))],
        "top_token": lambda row: show_alone(str(row["top_token"])) if row["top_token"] else "",
        "label": _label,
        MATCH: lambda row: _share(row["score"]) if filters.token else whole(round(1 / row["score"])),
        "share": lambda row: percent(row["share"], 0),
        "fires": lambda row: percent(row["fires"], 0),
        "density": lambda row: percent(row["density"], 2),
        "peak": lambda row: decimal(row["peak"]),
        "stability": lambda row: _share(row["stability"]),
        "family_size": lambda row: str(int(row["family_size"])),
        "cluster": lambda row: str(int(row["cluster"])) if row["cluster"] >= 0 else MISSING,
        "promotes": lambda row: " ".join(show_alone(text) for text in str(row["promoted_text"]).split()[:PROMOTED]),
    }


def _share(value: Any) -> float | None:
    return None if is_missing(value) else round(float(value), 4)


def _label(row: Mapping[Any, Any]) -> list[Any]:
    label, suggestion = str(row["label"] or ""), str(row.get("suggestion") or "")
    return [label, False] if label else [suggestion, bool(suggestion)]
