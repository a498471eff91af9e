"""Look up the nearest atoms of a feature within its own member; `finding_nearest` finds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import opened_table

FORMAT = "sae-ensemble-nearest-1"
KEPT = 8
"""Number of nearest atoms to keep per feature."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """An open table; its arrays are maps of the file.

    Attributes:
        nearest: int32 [M, K], the features of the same member with the most similar atoms, in the ensemble's numbering;
            −1 if there are no more.
        cosines: float32 [M, K], the cosines with these atoms, descending.
        chance: float32 [M], the mean cosine of a random atom with the nearest of equally many random atoms.
    """

    nearest: NDArray[np.int32]
    cosines: NDArray[np.float32]
    chance: NDArray[np.float32]

    @classmethod
    def open(cls, path: Path) -> Nearest:
        """Open a table.

        Raises:
            UserError: If the file is missing, damaged or something else.
        """
        with opened_table(path, FORMAT, "a table of nearest atoms") as (arrays, _):
            table = cls(*(arrays[name] for name in ("nearest", "cosines", "chance")))
            if table.nearest.shape != table.cosines.shape or len(table.nearest) != len(table.chance):
                raise ValueError("its arrays do not fit each other")
        return table

    def of(self, feature: int, count: int = KEPT) -> pd.DataFrame:
        """The ``count`` nearest atoms of a feature (at most `KEPT`): feature and cosine, the most similar first.

        Raises:
            UserError: If there is no such feature.
        """
        if not 0 <= feature < len(self.nearest):
            raise UserError(f"There is no feature {feature}; the ensemble has features 0 to {len(self.nearest) - 1}.")
        there = self.nearest[feature] >= 0
        found, cosines = (array[feature][there][:count] for array in (self.nearest, self.cosines))
        return pd.DataFrame({"feature": found.astype(np.int64), "cosine": cosines})
