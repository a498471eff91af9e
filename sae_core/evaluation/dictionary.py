"""Figures about the atoms and how they are used together: diversity, connectivity, stability between members.

Sources: diversity, Gadgil, Lin, Lee, *Ensembling Sparse Autoencoders*, section 5; connectivity, Fel et al. 2025; MMCS,
Sharkey et al. 2022; one-to-one matching (PW-MCC), Song et al. 2025.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn.functional import normalize

from sae_core.ensemble import Ensemble
from sae_core.evaluation.codes import BLOCK, Encoders, MemberCode
from sae_core.evaluation.reconstruction import Read, defined
from sae_core.evaluation.similarity import best_matches, one_to_one, random_null
from sae_core.progress import Progress, Tick, silent

THRESHOLD = 0.7
"""Cosine from which two atoms count as the same."""
CONNECTIVITY_TOKENS = 10_000
"""Tokens on which connectivity is measured; more tokens lower it, so it is only comparable at one number."""


@torch.no_grad()
def diversity(atoms_MD: Tensor, *, threshold: float = THRESHOLD, block: int = 2048) -> int:
    """The number of atoms whose signed cosine with every other atom is below the threshold.

    Two equal atoms both drop out; `deduplicated` counts them once.

    Args:
        atoms_MD: Atoms of any norm; a zero atom has cosine 0 with all others.
        threshold: Cosine from which two atoms count as the same.
        block: Rows of cosines held at a time.
    """
    atoms_MD = normalize(atoms_MD.float())
    different = 0
    for start in range(0, len(atoms_MD), block):
        cosine_bM = atoms_MD[start : start + block] @ atoms_MD.T
        rows_b = torch.arange(len(cosine_bM), device=atoms_MD.device)
        # Only the atom itself is masked: masking the whole diagonal block would count its duplicates as diverse.
        cosine_bM[rows_b, rows_b + start] = -torch.inf
        different += int((cosine_bM.max(dim=1).values < threshold).sum())
    return different


@torch.no_grad()
def deduplicated(atoms_MD: Tensor, *, threshold: float = THRESHOLD, block: int = 1024) -> int:
    """Size after greedy de-duplication: an atom is kept unless it is like one that was kept before it.

    Args:
        atoms_MD: Atoms in the order in which they have precedence (member after member).
        threshold: Signed cosine from which two atoms count as the same.
        block: Atoms decided on together.
    """
    atoms_MD = normalize(atoms_MD.float())
    kept_KD = atoms_MD[:0]
    for part_bD in atoms_MD.split(block):
        if len(kept_KD):
            part_bD = part_bD[(part_bD @ kept_KD.T).max(dim=1).values < threshold]
        like_bb = (part_bD @ part_bD.T >= threshold).cpu().numpy()
        kept_b = np.zeros(len(part_bD), dtype=bool)
        for row in range(len(part_bD)):
            kept_b[row] = not (like_bb[row, :row] & kept_b[:row]).any()
        kept_KD = torch.cat([kept_KD, part_bD[torch.from_numpy(kept_b).to(part_bD.device)]])
    return len(kept_KD)


def connectivity(firing_TM: sparse.csr_array, *, block: int = 1024) -> float:
    """1 − ‖CᵀC‖₀/m²: the share of pairs of features that never fire together, over the m features that fire at all.

    Dead features would raise it without meaning anything, so they are left out. NaN if no feature fires.

    Args:
        firing_TM: Tokens × features, ≠ 0 where a feature fires.
        block: Features whose partners are counted at a time.
    """
    pattern_TM = sparse.csr_array(firing_TM, dtype=np.float32)
    pattern_TM.eliminate_zeros()
    pattern_TM.data[:] = 1.0  # Ones cannot cancel, so a sum is ≠ 0 exactly where two features meet.
    alive = np.flatnonzero(np.bincount(pattern_TM.indices, minlength=pattern_TM.shape[1]))
    if not len(alive):
        return math.nan
    by_feature_MT = sparse.csr_array(pattern_TM.T)
    together: int = sum(
        (by_feature_MT[alive[start : start + block]] @ pattern_TM).nnz for start in range(0, len(alive), block)
    )
    return 1.0 - together / len(alive) ** 2


def member_stability(ensemble: Ensemble, *, threshold: float = THRESHOLD, seed: int = 0) -> dict[str, float] | None:
    """How much the members' dictionaries agree, beside what random dictionaries of the same sizes give.

    Returns:
        ``mmcs``: mean best cosine, over ordered pairs of members; ``pw_mcc``: mean cosine of the one-to-one matching,
        over pairs; ``shared_fraction``: share of atoms whose best cosine with another member reaches the threshold;
        ``null_best`` and ``null_matched``: mmcs and pw_mcc of random unit dictionaries. None if there is one member.
    """
    if len(ensemble) < 2:
        return None
    best, shared, matched, null_best, null_matched = [], [], [], [], []
    for one, other in combinations([member.W_dec.detach() for member in ensemble], 2):
        for atoms_ND, others_MD in ((one, other), (other, one)):
            cosine_N, _ = best_matches(atoms_ND, others_MD)
            best.append(float(cosine_N.double().mean()))
            shared.append(float((cosine_N >= threshold).double().mean()))
            null = random_null(len(atoms_ND), len(others_MD), atoms_ND.shape[1], seed=seed)
            null_best.append(null["best"])
            null_matched.append(null["matched"])
        matched.append(float(one_to_one(one, other)[2].double().mean()))
    return {
        "mmcs": float(np.mean(best)),
        "pw_mcc": float(np.mean(matched)),
        "shared_fraction": float(np.mean(shared)),
        "null_best": float(np.mean(null_best)),
        "null_matched": float(np.mean(null_matched)),
    }


def firing_rows(ensemble: Ensemble, codes: Iterable[MemberCode], tokens: int) -> sparse.csr_array:
    """Which of all M features fire on which of a block's tokens: bool [tokens, M]."""
    rows, columns = [], []
    for offset, code in zip(ensemble.offsets, codes, strict=False):
        tokens_E, features_E = code.firing()
        rows.append(tokens_E)
        columns.append(features_E + offset)
    places = (torch.cat(rows).cpu().numpy(), torch.cat(columns).cpu().numpy())
    return sparse.csr_array((np.ones(len(places[0]), dtype=bool), places), shape=(tokens, ensemble.offsets[-1]))


def measure_dictionary(
    ensembles: Mapping[str, Ensemble],
    read: Read,
    tokens: int,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure the dictionaries of all ensembles.

    Args:
        ensembles: Ensembles by name, on ``device``.
        read: Gives activations by row.
        tokens: How many there are; connectivity uses the first `CONNECTIVITY_TOKENS` of them.
        seed: Seed of the random dictionaries.
        device: Where to encode.
        progress: Told about every ensemble.

    Returns:
        The content of evaluation/dictionary.json.
    """
    tokens = min(tokens, CONNECTIVITY_TOKENS)
    encoders = Encoders(ensembles)
    firing: dict[str, list[sparse.csr_array]] = {name: [] for name in ensembles}
    for start in range(0, tokens, BLOCK):
        stop = min(start + BLOCK, tokens)
        for name, codes in encoders.codes(read(start, stop).to(device), decode=False):
            firing[name].append(firing_rows(ensembles[name], codes, stop - start))
    figures: dict[str, dict[str, Any]] = {}
    for number, (name, ensemble) in enumerate(ensembles.items()):
        progress(Tick("measure dictionaries", number, len(ensembles), unit="ensembles"))
        atoms_MD = ensemble.dictionary.detach()
        different = diversity(atoms_MD)
        figures[name] = {
            "features": len(atoms_MD),
            "diversity": different,
            "diversity_fraction": different / len(atoms_MD),
            "deduplicated": deduplicated(atoms_MD),
            "connectivity": defined(connectivity(sparse.csr_array(sparse.vstack(firing.pop(name))))),
            "connectivity_tokens": tokens,
            "member_stability": member_stability(ensemble, seed=seed),
        }
    progress(Tick("measure dictionaries", len(ensembles), len(ensembles), unit="ensembles"))
    return {"threshold": THRESHOLD, "seed": seed, "ensembles": figures}
