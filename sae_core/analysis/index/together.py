"""Look up the features that fire on the same tokens as a feature, its companions; `counting_together` finds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import opened_table

FORMAT = "sae-ensemble-together-1"
KEPT = 20
"""Number of companions to keep per feature."""


@dataclass(frozen=True, slots=True)
class Together:
    """An open table; its arrays are maps of the file.

    Attributes:
        tokens: Number of indexed tokens, T.
        counts: int64 [F], the number of tokens on which each feature fires.
        companions: int32 [F, K], the features that fire most often with a feature, by the cosine of the two firing
            patterns; −1 if there are no more.
        together: int32 [F, K], the number of tokens on which both fire.
    """

    tokens: int
    counts: NDArray[np.int64]
    companions: NDArray[np.int32]
    together: NDArray[np.int32]

    @classmethod
    def open(cls, path: Path) -> Together:
        """Open a table.

        Raises:
            UserError: If the file is missing, damaged or something else.
        """
        with opened_table(path, FORMAT, "a table of companions") as (arrays, metadata):
            table = cls(int(metadata["tokens"]), *(arrays[name] for name in ("counts", "companions", "together")))
            if table.companions.shape != table.together.shape or len(table.companions) != len(table.counts):
                raise ValueError("its arrays do not fit each other")
        return table

    def of(self, feature: int, count: int = 10) -> pd.DataFrame:
        """The first ``count`` companions of a feature (at most `KEPT`), in the form of `co_active`.

        Raises:
            UserError: If there is no such feature.
        """
        if not 0 <= feature < len(self.counts):
            raise UserError(f"There is no feature {feature}; the ensemble has features 0 to {len(self.counts) - 1}.")
        there = self.companions[feature] >= 0
        best = self.companions[feature][there][:count].astype(np.int64)
        both = self.together[feature][there][:count].astype(np.int64)
        share = both / max(int(self.counts[feature]), 1)
        lift = share * self.tokens / self.counts[best]
        return pd.DataFrame({"feature": best, "together": both, "share": share, "lift": lift})
