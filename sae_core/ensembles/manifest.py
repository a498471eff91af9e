"""What ensemble.json says of an ensemble, without torch: whoever only lists ensembles loads no weights."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_object
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.method import Wiring


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of ensemble.json, checked.

    Attributes:
        path: The file.
        method: What trained the ensemble.
        wiring: How the members are wired.
        weights: α_j, one a member.
        members: Names of the members' folders.
        given_widths: Features of each member; None where the file does not say.
    """

    path: Path
    method: str
    wiring: Wiring
    weights: tuple[float, ...]
    members: tuple[str, ...]
    given_widths: tuple[int, ...] | None

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of each member.

        Raises:
            UserError: If the file does not say.
        """
        if self.given_widths is None:
            raise UserError(f"{self.path} does not give the widths of the members; train the ensemble again.")
        return self.given_widths

    @property
    def stages(self) -> int:
        """Members that are stages, each of which reads what those before it leave; 1 where none does."""
        return len(self.members) if self.wiring == "residual" else 1

    @property
    def is_staged(self) -> bool:
        """Whether there are stages after the first."""
        return self.stages > 1


def read_manifest(folder: EnsembleFolder) -> Manifest:
    """Read the manifest of an ensemble.

    Raises:
        UserError: If it is missing or damaged, names what is not in the folder, or a member has no finite weight.
    """
    path = folder.manifest
    given = read_object(path, members=list, wiring=str, weights=list, method=str)
    names, weights, wiring, widths = given["members"], given["weights"], given["wiring"], given.get("widths")
    inside = all(isinstance(name, str) and re.fullmatch(r"[\w-]+", name) for name in names)
    finite = all(isinstance(weight, int | float) and math.isfinite(weight) for weight in weights)
    if not names or not inside or not finite or len(weights) != len(names):
        raise UserError(f"{path} does not name members and a weight for each; train the ensemble again.")
    if wiring not in ("parallel", "residual"):
        raise UserError(f"{path} has the wiring {wiring[:40]!r}; train the ensemble again.")
    there = None if widths is None else tuple(widths)
    return Manifest(path, given["method"], wiring, tuple(weights), tuple(names), there)
