"""The colours of methods."""

from __future__ import annotations

from sae_core.analysis.shared.names_in_tables import colour_of
from sae_core.foundation.colours import NEUTRAL


def method_color(method: str) -> str:
    """The colour of a method; methods with names of their own share the neutral one."""
    return colour_of(method) or NEUTRAL
