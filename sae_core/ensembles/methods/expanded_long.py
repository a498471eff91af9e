"""The expanded SAE at equal steps: trained for as many as all stages of a boosted ensemble take together."""

from __future__ import annotations

from sae_core.ensembles.methods.expanded import Expanded


class ExpandedLong(Expanded):
    """`Expanded` for J times the steps."""

    name = "expanded_long"
    summary = "expanded for as many"
    title = "expanded, long"
    colour = "#12674f"
    place = 6
    by_default = False
    long_form_of = "expanded"
