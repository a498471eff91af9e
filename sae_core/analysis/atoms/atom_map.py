"""The map of all atoms: UMAP on cosine (McInnes et al. 2018), computed once; and the clusters one sees in it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from sae_core.foundation.progress import Progress, Tick, silent

NEIGHBORS = 15
EPOCHS = 200
CELLS = 2**26
"""Cosines that exist at a time (256 MB)."""
_FEWEST = 8
"""Fewer atoms than this have no neighbourhoods worth mapping; they are laid on a circle."""


def map_atoms(dictionary_MD: Tensor, *, seed: int = 0, progress: Progress = silent) -> NDArray[np.float32]:
    """Places [M, 2] of atoms such that similar ones lie close together; the same seed gives the same map.

    Neighbours are exact, which spares UMAP's approximate search its long compilation and its randomness.
    """
    if len(dictionary_MD) < _FEWEST:
        angles = 2 * np.pi * np.arange(len(dictionary_MD)) / max(len(dictionary_MD), 1)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    atoms_MD = normalize(dictionary_MD.detach().float())
    places_MK, distances_MK = nearest(atoms_MD, min(NEIGHBORS, len(atoms_MD) - 1), progress=progress)
    return lay_out(atoms_MD.cpu(), places_MK, distances_MK, seed=seed)


def lay_out(atoms_MD: Tensor, places_MK: Tensor, distances_MK: Tensor, *, seed: int) -> NDArray[np.float32]:
    """Places [M, 2] of unit atoms by UMAP from their neighbours, as `nearest` finds them, the main directions first."""
    import umap  # takes seconds, and only this function needs it

    reducer = umap.UMAP(
        n_neighbors=places_MK.shape[1],
        metric="cosine",
        init="pca",
        n_epochs=EPOCHS,
        random_state=seed,
        n_jobs=1,
        precomputed_knn=(places_MK.numpy().astype(np.int32), distances_MK.numpy(), None),
    )
    with warnings.catch_warnings():
        # It regrets that new points cannot be mapped; none will be.
        warnings.filterwarnings("ignore", message=r"precomputed_knn\[2\]")
        return np.ascontiguousarray(reducer.fit_transform(atoms_MD.numpy()), dtype=np.float32)


def rows_at_a_time(count: int) -> int:
    """Atoms whose cosines with all ``count`` are held at a time."""
    return max(1, CELLS // max(1, count))


def nearest(
    atoms_MD: Tensor,
    neighbors: int,
    *,
    first: int = 0,
    last: int | None = None,
    block: int | None = None,
    progress: Progress = silent,
) -> tuple[Tensor, Tensor]:
    """The exact nearest neighbours of unit atoms by cosine, the atom itself first, computed where the atoms are.

    Args:
        atoms_MD: The atoms.
        neighbors: How many, K, the atom itself counted.
        first: The first atom whose neighbours are sought.
        last: The one after the last; all, if not given.
        block: Atoms at a time.
        progress: Told the atoms done.

    Returns:
        (numbers int64 [last − first, K], cosine distances [last − first, K], ascending), on the CPU.
    """
    last = len(atoms_MD) if last is None else min(last, len(atoms_MD))
    block = block or rows_at_a_time(len(atoms_MD))
    places, distances = [], []
    for start in range(first, last, block):
        cosine_BM = atoms_MD[start : min(start + block, last)] @ atoms_MD.T
        rows_B = torch.arange(len(cosine_BM), device=cosine_BM.device)
        # Above every cosine, so that an atom comes before its own duplicates.
        cosine_BM[rows_B, start + rows_B] = torch.inf
        best_BK, places_BK = cosine_BM.topk(neighbors, dim=1)
        best_BK[:, 0] = 1.0
        places.append(places_BK.cpu())
        distances.append((1 - best_BK).clamp_min(0).cpu())
        progress(Tick("map atoms", start + len(rows_B) - first, last - first, unit="atoms"))
    return torch.cat(places), torch.cat(distances)


def cluster_map(xy_M2: NDArray[np.float32]) -> NDArray[np.int64]:
    """The cluster of each atom on the map (HDBSCAN), numbered from the largest; −1 for atoms between clusters.

    Where excess of mass puts more than half of all atoms into one cluster, which then says nothing, the leaves of the
    tree are taken instead: the places where atoms lie closest.
    """
    smallest = max(5, len(xy_M2) // 400)
    if len(xy_M2) < 2 * smallest:
        return np.full(len(xy_M2), -1, np.int64)
    found = _clusters(xy_M2, min_cluster_size=smallest)
    sizes = np.bincount(found[found >= 0], minlength=1)
    if 2 * sizes.max() > len(found):
        found = _clusters(xy_M2, min_cluster_size=smallest, min_samples=5, cluster_selection_method="leaf")
        sizes = np.bincount(found[found >= 0], minlength=1)
    rank = np.empty(len(sizes) + 1, np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    rank[-1] = -1  # also where −1 looks
    return rank[found]


def _clusters(xy_M2: NDArray[np.float32], **options: Any) -> NDArray[np.int64]:
    from sklearn.cluster import HDBSCAN

    found: NDArray[np.int64] = HDBSCAN(copy=True, **options).fit_predict(xy_M2.astype(np.float64))
    return found
