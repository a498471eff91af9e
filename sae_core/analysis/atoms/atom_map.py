"""Map all atoms with UMAP on cosine (McInnes et al. 2018), and cluster the map."""

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
"""Number of cosines in memory at a time (256 MB)."""
_FEWEST = 8
"""Fewer atoms than this are laid on a circle, since they have no neighbourhoods worth mapping."""


def map_atoms(dictionary_MD: Tensor, *, seed: int = 0, progress: Progress = silent) -> NDArray[np.float32]:
    """Places [M, 2] of atoms on a map where similar atoms lie close together; the same seed gives the same map.

    The neighbours are exact. UMAP's own approximate search would take long to compile and would be random.
    """
    if len(dictionary_MD) < _FEWEST:
        angles = 2 * np.pi * np.arange(len(dictionary_MD)) / max(len(dictionary_MD), 1)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    atoms_MD = normalize(dictionary_MD.detach().float())
    places_MK, distances_MK = nearest(atoms_MD, min(NEIGHBORS, len(atoms_MD) - 1), progress=progress)
    return lay_out(atoms_MD.cpu(), places_MK, distances_MK, seed=seed)


def lay_out(atoms_MD: Tensor, places_MK: Tensor, distances_MK: Tensor, *, seed: int) -> NDArray[np.float32]:
    """Lay out unit atoms [M, 2] by UMAP from the neighbours that `nearest` finds, the main directions first."""
    import umap  # the import takes seconds, and only this function needs it

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
        # UMAP warns that it cannot map new points later; there are none.
        warnings.filterwarnings("ignore", message=r"precomputed_knn\[2\]")
        return np.ascontiguousarray(reducer.fit_transform(atoms_MD.numpy()), dtype=np.float32)


def rows_at_a_time(count: int) -> int:
    """Number of atoms whose cosines with all ``count`` atoms fit into memory at a time."""
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
    """Find the exact nearest neighbours of unit atoms by cosine, the atom itself first, on the atoms' device.

    Args:
        atoms_MD: The atoms.
        neighbors: Number of neighbours, K, including the atom itself.
        first: The first atom to find neighbours for.
        last: The end of the range of atoms, exclusive; all atoms by default.
        block: Number of atoms at a time.
        progress: Told the number of atoms done.

    Returns:
        (numbers int64 [last − first, K], cosine distances [last − first, K], ascending), on the CPU.
    """
    last = len(atoms_MD) if last is None else min(last, len(atoms_MD))
    block = block or rows_at_a_time(len(atoms_MD))
    places, distances = [], []
    for start in range(first, last, block):
        cosine_BM = atoms_MD[start : min(start + block, last)] @ atoms_MD.T
        rows_B = torch.arange(len(cosine_BM), device=cosine_BM.device)
        # 2 is above every cosine, so that an atom comes before its duplicates.
        cosine_BM[rows_B, start + rows_B] = torch.inf
        best_BK, places_BK = cosine_BM.topk(neighbors, dim=1)
        best_BK[:, 0] = 1.0
        places.append(places_BK.cpu())
        distances.append((1 - best_BK).clamp_min(0).cpu())
        progress(Tick("map atoms", start + len(rows_B) - first, last - first, unit="atoms"))
    return torch.cat(places), torch.cat(distances)


def cluster_map(xy_M2: NDArray[np.float32]) -> NDArray[np.int64]:
    """The cluster of each atom on the map (HDBSCAN), numbered from the largest; −1 for atoms between clusters.

    If excess of mass puts more than half of all atoms into one cluster, the clusters say nothing. The leaves of the
    tree, where the atoms lie closest, then become the clusters.
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
