"""One SAE, with which all ensembles are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sae_core.foundation.method import Method, One, Several

if TYPE_CHECKING:
    from sae_core.foundation.settings.run_settings import RunSettings


class Single(Method):
    """One SAE; as a rule it is member 0 of the bag, so that it is trained once for both."""

    name = "single"
    colour = "#7c8794"
    place = 0
    by_default = True
    is_reference = True
    is_baseline = True
    first_from: ClassVar[tuple[str, ...]] = ("bagged",)

    def layout(self, settings: RunSettings) -> Several:
        """The SAE of the settings."""
        return Several((One(settings.sae),))
