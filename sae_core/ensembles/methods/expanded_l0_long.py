"""The expanded SAE of equal L0 at equal steps: trained for as many as all stages take together."""

from __future__ import annotations

from sae_core.ensembles.methods.expanded_l0 import ExpandedL0


class ExpandedL0Long(ExpandedL0):
    """`ExpandedL0` for J times the steps."""

    name = "expanded_l0_long"
    summary = "expanded_l0 for as many"
    title = "exp. (same L0), long"
    colour = "#6f3a94"
    place = 7
    long_form_of = "expanded_l0"
