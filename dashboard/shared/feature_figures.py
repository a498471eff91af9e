"""The figures of a feature, in the table of atoms: heading, definition, and how people read each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from sae_core.foundation.figures import Style, percents, plain
from sae_core.foundation.numbers import whole
from sae_core.foundation.origin import Words
from sae_core.report.pieces.tokens import show_alone


@dataclass(frozen=True, slots=True)
class FeatureFigure:
    """A column of the table of atoms.

    Attributes:
        key: The column.
        title: Its heading.
        definition: The tooltip of the heading, with names of `Words` in braces.
        style: How pages write it.
        format: How tables that people sort write it, as Streamlit does; "percent" draws a bar.
        scale: What such tables multiply it by.
    """

    key: str
    title: str
    definition: str
    style: Style
    format: str = "%.2f"
    scale: float = 1.0

    def explained(self, words: Words) -> str:
        """The definition of the figure in a run whose rows have these names."""
        return self.definition.format(**words._asdict())

    def text(self, row: Mapping[Any, Any] | pd.Series[Any]) -> str:
        """What pages write for a row of the table."""
        return self.style(row[self.key])

    def values(self, rows: pd.DataFrame) -> pd.Series[Any]:
        """The cells of a table that people sort."""
        return self.scale * rows[self.key]

    def column(self, words: Words) -> Any:
        """The column of a table that people sort."""
        if self.format == "percent":
            bar = st.column_config.ProgressColumn
            return bar(self.title, format=self.format, min_value=0, max_value=1, help=self.explained(words))
        return st.column_config.NumberColumn(self.title, format=self.format, help=self.explained(words))


def _token(token: Any) -> str:
    return show_alone(str(token)) if token else "–"


DENSITY = FeatureFigure(
    "density", "Density", "Share of the indexed {rows} on which it fires", percents(2), "%.3g %%", 100
)
COUNT = FeatureFigure("count", "Fires on", "Indexed {rows} on which it fires", whole)
PEAK = FeatureFigure("peak", "Peak", "Its largest activation", plain(2))
MEAN_ACTIVE = FeatureFigure("mean_active", "Mean when active", "Mean of its activations that are not 0", plain(2))
STABILITY = FeatureFigure(
    "stability",
    "Stability",
    "Share of the other members that have it too, with a cosine of at least 0.7",
    percents(0),
    "percent",
)
CLOSEST = FeatureFigure("best_cosine", "Closest match", "Largest cosine with an atom of another member", plain(2))
FAMILY = FeatureFigure("family_size", "Family", "Features that match one to one over the members; 1 is alone", whole)
TOP_TOKEN = FeatureFigure(
    "top_token", "Top token", "The most frequent {told_by} among its strongest activations; · is a space", _token
)
