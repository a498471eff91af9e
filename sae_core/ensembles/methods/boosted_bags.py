"""Boosting of bags: each stage is a bag on what the bags before it leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_core.foundation.method import Method, Several

if TYPE_CHECKING:
    from sae_core.foundation.settings.run_settings import RunSettings


class BoostedBags(Method):
    """J SAEs as J/K stages, each of which is a bag of K."""

    name = "boosted_bags"
    summary = "a boosted ensemble whose stages are bags of training.inner SAEs"
    title = "boosted bags"
    colour = "#b8609a"
    place = 9

    def layout(self, settings: RunSettings) -> Several:
        """Bags, as stages."""
        return Several(tuple(map(Several, self.groups(settings))), "residual")

    def fault(self, settings: RunSettings) -> str | None:
        """If the SAEs cannot be divided into bags of equal size."""
        return self.uneven(settings)
