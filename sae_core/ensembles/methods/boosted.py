"""Boosting: each SAE learns what those before it leave (Gadgil, Lin, Lee, *Ensembling Sparse Autoencoders*, 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_core.foundation.method import RANDOM_STAGES, Method, Several

if TYPE_CHECKING:
    from sae_core.foundation.settings.run_settings import RunSettings


class Boosted(Method):
    """Stages on the residual, in turn or pipelined; the first one usually is the single SAE."""

    name = "boosted"
    colour = "#d9622b"
    place = 2
    by_default = True
    first_from = ("single", "bagged")
    control = RANDOM_STAGES

    def layout(self, settings: RunSettings) -> Several:
        """All members, as stages."""
        return Several(self.saes(settings), "residual")
