"""The colours of methods."""

from __future__ import annotations

from sae_core.analysis.shared.terms import RANDOM_STAGES
from sae_core.foundation.colours import NEUTRAL

METHODS: dict[str, str] = {
    "single": "#7c8794",
    "bagged": "#2c7fd1",
    "boosted": "#d9622b",
    "expanded": "#1f9e7a",
    "expanded_l0": "#b0539f",
    "single_long": "#46525f",
    "expanded_long": "#12674f",
    "expanded_l0_long": "#6f3a94",
    RANDOM_STAGES: "#e3a27f",
    "raw activation": "#a68a3c",
    "random": "#a9b1bb",
}


def method_color(method: str) -> str:
    """The colour of a method; methods with names of their own share the neutral one."""
    return METHODS.get(method, NEUTRAL)
