"""One SAE as wide as all members together and with as many active features: at equal width and L0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_core.foundation.method import Method, One, Several

if TYPE_CHECKING:
    from sae_core.foundation.settings.run_settings import RunSettings


class ExpandedL0(Method):
    """One SAE of the members' total width and total k."""

    name = "expanded_l0"
    summary = "one SAE of their total width and total k, for architectures whose L0 is set"
    title = "expanded (same L0)"
    colour = "#9a63c4"
    place = 4
    is_baseline = True
    size = "one SAE of the same width and L0"
    needs_fixed_l0 = True

    def layout(self, settings: RunSettings) -> Several:
        """The SAE of the settings, J times as wide and with the k of all members."""
        training, sae = settings.training, settings.sae
        k = sum(training.member_k or [sae.k] * training.members)
        return Several((One(sae.model_copy(update={"width": training.members * sae.width, "k": k})),))
