"""A collection of SAEs that were brought in: of any tool, width and architecture, and not trained here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sae_core.foundation.errors import UserError
from sae_core.foundation.method import Method, Several

if TYPE_CHECKING:
    from sae_core.foundation.settings.run_settings import RunSettings


class Imported(Method):
    """The members are given, and so is their wiring."""

    name = "imported"
    title = "imported SAEs"
    colour = "#5b8f8a"
    place = 10
    is_given = True

    def layout(self, settings: RunSettings) -> Several:
        """Nothing can be laid out.

        Raises:
            UserError: Always.
        """
        raise UserError("Imported SAEs are not trained, so that nothing can be planned for them; leave out imported.")
