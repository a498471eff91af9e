"""The single SAE at equal steps: trained for as many as all stages of a boosted ensemble take together."""

from __future__ import annotations

from sae_core.ensembles.methods.single import Single


class SingleLong(Single):
    """`Single` for J times the steps."""

    name = "single_long"
    summary = "single for as many times the steps as there are members"
    title = "single, long"
    colour = "#46525f"
    place = 5
    by_default = False
    is_reference = False
    long_form_of = "single"
    first_from = ()
