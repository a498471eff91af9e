"""Boosting of a given SAE: new ones learn what it leaves on one's own domain (*SAE Boost*, 2507.12990)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sae_core.foundation.method import Given, Method, Several

if TYPE_CHECKING:
    from sae_core.foundation.settings.run_settings import RunSettings


class Extended(Method):
    """The given SAE first, unchanged; then new ones, without decoder bias, each on what those before it leave.

    So where no new feature fires, as on text of other domains, the reconstruction is that of the given SAE.
    """

    name = "extended"
    summary = "SAEs that learn what a given one leaves (--boost-from)"
    title = "boosted from a given SAE"
    colour = "#8a6d3b"
    place = 11
    extends_given = True

    def layout(self, settings: RunSettings) -> Several:
        """The given SAE and ``training.members`` new ones."""
        return Several((Given(), *(replace(one, biased=False) for one in self.saes(settings))), "residual")

    def fault(self, settings: RunSettings) -> str | None:
        """If no given SAE is named."""
        if settings.training.boost_from:
            return None
        return f"training.methods names {self.name}, but training.boost_from no ensemble; give --boost-from SAE"
