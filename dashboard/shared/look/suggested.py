"""Suggested labels as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_core.foundation.numbers import percent
from sae_core.report.html import Html, element

MEASURED_ON = "the half of the indexed documents on which it was not chosen; the SAEs were trained on both halves"
"""On what text a suggestion has its precision and recall."""


def suggestion_text(row: Mapping[Any, Any]) -> str:
    """A suggested label with its measured precision and recall; empty where there is none. Not escaped."""
    if not row.get("suggestion"):
        return ""
    return f"{row['suggestion']} (precision {percent(row['precision'], 0)}, recall {percent(row['recall'], 0)})"


def suggestion_line(row: Mapping[Any, Any]) -> Html:
    """The same as HTML, marked as a suggestion."""
    text = suggestion_text(row)
    why = (
        "Made from the tokens and contexts that drive it, and measured as a detector of it on "
        f"{MEASURED_ON}; · is a space. No person has confirmed it"
    )
    return element("div", "suggested: ", element("i", text), kind="note", title=why) if text else Html()
