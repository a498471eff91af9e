"""One SAE as wide as all members together, the paper's baseline of equal size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_core.foundation.method import Method, One, Several

if TYPE_CHECKING:
    from sae_core.foundation.settings.run_settings import RunSettings


class Expanded(Method):
    """One SAE of the members' total width, with the k of one of them."""

    name = "expanded"
    summary = "one SAE of the members' total width"
    colour = "#1f9e7a"
    place = 3
    by_default = True
    is_baseline = True
    size = "one SAE of the same width (whose L0 follows from its penalty)"

    def layout(self, settings: RunSettings) -> Several:
        """The SAE of the settings, J times as wide."""
        wide = {"width": settings.training.members * settings.sae.width}
        return Several((One(settings.sae.model_copy(update=wide)),))
