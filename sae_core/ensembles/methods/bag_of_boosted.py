"""A bag of boosted ensembles: boosted ensembles that differ in their seeds, averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sae_core.foundation.method import Method, Several

if TYPE_CHECKING:
    from sae_core.foundation.settings.run_settings import RunSettings


class BagOfBoosted(Method):
    """J SAEs as J/K members side by side, each of which has K stages."""

    name = "bag_of_boosted"
    summary = "a bag whose members are boosted ensembles of training.inner SAEs"
    title = "bag of boosted"
    colour = "#7e8c2e"
    place = 8
    first_from: ClassVar[tuple[str, ...]] = ("single", "bagged")

    def layout(self, settings: RunSettings) -> Several:
        """Boosted ensembles, in parallel."""
        return Several(tuple(Several(ones, "residual") for ones in self.groups(settings)))

    def fault(self, settings: RunSettings) -> str | None:
        """If the SAEs cannot be divided into ensembles of equal size."""
        return self.uneven(settings)
