"""Cosine similarity between dictionaries: best matches, one-to-one matching, and what chance gives.

Sources: MMCS (Sharkey et al. 2022), one-to-one matching on cosine (Song et al. 2025).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize


@torch.no_grad()
def best_matches(atoms_ND: Tensor, others_MD: Tensor, *, block: int = 4096) -> tuple[Tensor, Tensor]:
    """The most similar of ``others_MD`` for each of ``atoms_ND``.

    Never more than ``block`` × ``block`` cosines exist at a time, so dictionaries may be of any size.

    Returns:
        (cosine [N], signed; number of that other atom [N], the first one if several are equal).
    """
    atoms_ND, others_MD = normalize(atoms_ND.float()), normalize(others_MD.float())
    cosine_N = atoms_ND.new_full((len(atoms_ND),), -torch.inf)
    index_N = torch.zeros(len(atoms_ND), dtype=torch.int64, device=atoms_ND.device)
    for row in range(0, len(atoms_ND), block):
        for column in range(0, len(others_MD), block):
            part_b, place_b = (atoms_ND[row : row + block] @ others_MD[column : column + block].T).max(dim=1)
            better_b = part_b > cosine_N[row : row + block]
            cosine_N[row : row + block][better_b] = part_b[better_b]
            index_N[row : row + block][better_b] = place_b[better_b] + column
    return cosine_N, index_N


@torch.no_grad()
def one_to_one(atoms_ND: Tensor, others_MD: Tensor, *, absolute: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The one-to-one matching with the largest sum of cosines (Hungarian method).

    Holds N × M cosines; the time grows with the cube of the size (2,048 atoms take half a second).

    Args:
        atoms_ND: Atoms of any norm.
        others_MD: Others.
        absolute: Match by |cosine|, and return that.

    Returns:
        (rows, columns, cosine), each [min(N, M)]: atom ``rows[i]`` goes with other ``columns[i]``; rows ascend.
    """
    cosine_NM = normalize(atoms_ND.float()) @ normalize(others_MD.float()).T
    if absolute:
        cosine_NM.abs_()
    rows, columns = (torch.from_numpy(side) for side in linear_sum_assignment(cosine_NM.cpu().numpy(), maximize=True))
    return rows, columns, cosine_NM.cpu()[rows, columns]


@lru_cache(maxsize=64)
def random_null(n: int, m: int, d: int, *, seed: int = 0) -> dict[str, float]:
    """What chance gives: the mean cosine of n random unit atoms in d dimensions with m others.

    Width alone raises it, so every stability belongs beside it.

    Returns:
        ``best``: mean best cosine; ``matched``: mean cosine of the one-to-one matching.
    """
    generator = torch.Generator().manual_seed(seed)
    atoms_ND, others_MD = torch.randn(n, d, generator=generator), torch.randn(m, d, generator=generator)
    best_N, _ = best_matches(atoms_ND, others_MD)
    _, _, matched = one_to_one(atoms_ND, others_MD)
    return {"best": float(best_N.double().mean()), "matched": float(matched.double().mean())}
