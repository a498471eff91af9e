"""Find the nearest atoms of every feature within its own member, exactly: duplicates, and parts of a split feature.

All cosines of a member are computed once, some rows at a time, so memory grows with the width and not with its square.
A member of N atoms in D dimensions takes 2·D·N² operations.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sae_core.analysis.similarity.cosines import CELLS, Atoms, cosine_blocks, random_best
from sae_core.analysis.similarity.nearest import FORMAT, KEPT
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.files.mapped_tensors import writing_tensors
from sae_core.foundation.progress import Progress, Tick, silent


@torch.no_grad()
def write_nearest(
    ensemble: Ensemble, path: Path, *, kept: int = KEPT, cells: int = CELLS, progress: Progress = silent
) -> None:
    """Find the nearest atoms of every feature in its own member and write them.

    Args:
        ensemble: The ensemble; its device computes the cosines.
        path: The file.
        kept: Number of nearest atoms to keep per feature.
        cells: Approximate number of cosines in memory at a time.
        progress: Told the number of features done.
    """
    features = ensemble.offsets[-1]
    layout = {
        "nearest": (np.int32, (features, kept)),
        "cosines": (np.float32, (features, kept)),
        "chance": (np.float32, (features,)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing_tensors(path, layout, {"format": FORMAT}) as writer:
        for member, offset in zip(ensemble, ensemble.offsets, strict=False):
            width, atoms = member.width, Atoms(member.dictionary.detach())
            chance = random_best(width, width - 1, member.d_in) if width > 1 else 0.0
            writer.write("chance", offset, np.full(width, chance, np.float32))
            for start, cosine_bN in cosine_blocks(atoms, atoms, cells=cells):
                rows_b = torch.arange(len(cosine_bN), device=cosine_bN.device)
                # Leave out only the atom itself, since its duplicates are wanted.
                cosine_bN[rows_b, start + rows_b] = -torch.inf
                best_bK, places_bK = cosine_bN.topk(min(kept, width - 1), dim=1)
                first, missing = offset + start, ((0, 0), (0, kept - best_bK.shape[1]))
                nearest_bK = np.pad(places_bK.cpu().numpy() + offset, missing, constant_values=-1)
                writer.write("nearest", first * kept, nearest_bK)
                writer.write("cosines", first * kept, np.pad(best_bK.clamp(-1, 1).cpu().numpy(), missing))
                progress(Tick("nearest atoms", first + len(rows_b), features, unit="features"))
