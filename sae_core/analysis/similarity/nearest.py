"""The nearest atoms of every feature within its own member, such as duplicates: find them exactly, and look them up.

All cosines of a member are computed once, some rows at a time, so memory grows with the width and not with its square.
A member of N atoms in D dimensions takes 2·D·N² operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.foundation.files.mapped_tables import MappedTable
from sae_core.foundation.files.mapped_tensors import writing_tensors
from sae_core.foundation.numbering import require_feature
from sae_core.foundation.progress import Progress, Tick, silent

if TYPE_CHECKING:
    from sae_core.ensembles.ensemble import Ensemble

KEPT = 8
"""Number of nearest atoms to keep per feature."""


@dataclass(frozen=True, slots=True)
class Nearest(MappedTable):
    """The open table.

    Attributes:
        nearest: [M, K], the features of the same member with the most similar atoms, in the ensemble's numbering; −1 if
            there are no more.
        cosines: [M, K], the cosines with these atoms, descending.
        chance: [M], the mean cosine of a random atom with the nearest of equally many random atoms.
    """

    FORMAT: ClassVar[str] = "sae-ensemble-nearest-1"
    TITLE: ClassVar[str] = "a table of nearest atoms"

    nearest: NDArray[np.int32]
    cosines: NDArray[np.float32]
    chance: NDArray[np.float32]

    def check(self) -> None:
        """Check that each feature has a row."""
        if self.nearest.shape != self.cosines.shape or len(self.nearest) != len(self.chance):
            raise ValueError("its arrays do not fit each other")

    def of(self, feature: int, count: int = KEPT) -> pd.DataFrame:
        """The ``count`` nearest atoms of a feature (at most `KEPT`): feature and cosine, the most similar first.

        Raises:
            UserError: If there is no such feature.
        """
        require_feature(feature, len(self.nearest))
        there = self.nearest[feature] >= 0
        found, cosines = (array[feature][there][:count] for array in (self.nearest, self.cosines))
        return pd.DataFrame({"feature": found.astype(np.int64), "cosine": cosines})


def write_nearest(
    ensemble: Ensemble, path: Path, *, kept: int = KEPT, cells: int | None = None, progress: Progress = silent
) -> None:
    """Find the nearest atoms of every feature in its own member and write them.

    Args:
        ensemble: The ensemble; its device computes the cosines.
        path: The file.
        kept: Number of nearest atoms to keep per feature.
        cells: Approximate number of cosines in memory at a time; `cosines.CELLS` by default.
        progress: Told the number of features done.
    """
    # Pages only read the table, and do not wait for torch.
    import torch

    from sae_core.analysis.similarity.cosines import CELLS, Atoms, cosine_blocks, random_best

    features = ensemble.offsets[-1]
    layout = Nearest.layout(nearest=(features, kept), cosines=(features, kept), chance=(features,))
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), writing_tensors(path, layout, Nearest.header()) as writer:
        for member, offset in zip(ensemble, ensemble.offsets, strict=False):
            width, atoms = member.width, Atoms(member.dictionary.detach())
            chance = random_best(width, width - 1, member.d_in) if width > 1 else 0.0
            writer.write("chance", offset, np.full(width, chance, np.float32))
            for start, cosine_bN in cosine_blocks(atoms, atoms, cells=cells or CELLS):
                rows_b = torch.arange(len(cosine_bN), device=cosine_bN.device)
                # Leave out only the atom itself, since its duplicates are wanted.
                cosine_bN[rows_b, start + rows_b] = -torch.inf
                best_bK, places_bK = cosine_bN.topk(min(kept, width - 1), dim=1)
                first, missing = offset + start, ((0, 0), (0, kept - best_bK.shape[1]))
                nearest_bK = np.pad(places_bK.cpu().numpy() + offset, missing, constant_values=-1)
                writer.write("nearest", first * kept, nearest_bK)
                writer.write("cosines", first * kept, np.pad(best_bK.clamp(-1, 1).cpu().numpy(), missing))
                progress(Tick("nearest atoms", first + len(rows_b), features, unit="features"))
