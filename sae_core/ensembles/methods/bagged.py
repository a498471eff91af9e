"""Naive bagging: SAEs that differ in their seeds, averaged (Gadgil, Lin, Lee, *Ensembling Sparse Autoencoders*)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_core.foundation.method import Method, Several

if TYPE_CHECKING:
    from sae_core.foundation.settings.run_settings import RunSettings


class Bagged(Method):
    """Members side by side, each on the activations."""

    name = "bagged"
    colour = "#2c7fd1"
    place = 1
    by_default = True
    repeats_reference = True

    def layout(self, settings: RunSettings) -> Several:
        """All members, in parallel."""
        return Several(self.saes(settings))
