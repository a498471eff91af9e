"""Measure dictionaries: diversity, redundancy, connectivity and the stability of members.

Sources: diversity, Gadgil, Lin, Lee, *Ensembling Sparse Autoencoders*, section 5; connectivity, Fel et al. 2025.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from sae_core.analysis.atoms.dictionary_loops import unite_tokens
from sae_core.analysis.reconstruction.reconstruction import Read, defined
from sae_core.analysis.shared.ensemble_codes import BLOCK, Encoders
from sae_core.analysis.shared.names_in_tables import THRESHOLD
from sae_core.analysis.similarity.cosines import Atoms, best_matches, nearest_in, random_best
from sae_core.analysis.stability.stability import measure_stability
from sae_core.ensembles.ensemble import Ensemble, Step
from sae_core.foundation.progress import Progress, Tick, silent

CONNECTIVITY_TOKENS = 10_000
"""Number of tokens for connectivity. More tokens lower the figure, so only figures with this number are comparable."""
WORDS = 2**22
"""Number of 64-feature words to combine at a time (32 MB)."""


@torch.no_grad()
def diverse(atoms: Tensor | Atoms, *, nearest_N: Tensor | None = None) -> Tensor:
    """Whether each atom has a signed cosine below `THRESHOLD` with every other atom, bool [N]; the sum is diversity.

    Neither of two equal atoms counts as diverse; `deduplicated` counts one of them.

    Args:
        atoms: Atoms of any norm; a zero atom has cosine 0 with all others.
        nearest_N: The result of `nearest_in` for these atoms, if already known.
    """
    return (nearest_in(atoms) if nearest_N is None else nearest_N) < THRESHOLD


@torch.no_grad()
def deduplicated(atoms: Tensor | Atoms, *, block: int = 1024, nearest_N: Tensor | None = None) -> int:
    """Size of a dictionary after greedy de-duplication, which drops an atom if it repeats an atom kept earlier.

    Args:
        atoms: Atoms in order of precedence (member after member).
        block: Number of atoms to decide on together.
        nearest_N: The result of `nearest_in` for these atoms, if already known.
    """
    atoms = Atoms.of(atoms)
    # An atom unlike all others is kept and drops no other atom, so only the remaining atoms need the loop.
    doubtful_N = ~diverse(atoms, nearest_N=nearest_N)
    doubtful_QD = _chosen(atoms, doubtful_N, block)
    kept = 0
    for start in range(0, len(doubtful_QD), block):
        part_bD = doubtful_QD[start : start + block]
        if kept:
            part_bD = part_bD[best_matches(part_bD, doubtful_QD[:kept])[0] < THRESHOLD]
        like_bb = (part_bD @ part_bD.T >= THRESHOLD).cpu().numpy()
        kept_b = np.zeros(len(part_bD), dtype=bool)
        for row in range(len(part_bD)):
            kept_b[row] = not (like_bb[row, :row] & kept_b[:row]).any()
        chosen_bD = part_bD[torch.from_numpy(kept_b).to(part_bD.device)]
        # Kept atoms overwrite the front of the same tensor, since a second copy could take gigabytes.
        doubtful_QD[kept : kept + len(chosen_bD)] = chosen_bD
        kept += len(chosen_bD)
    return len(atoms) - len(doubtful_QD) + kept


def _chosen(atoms: Atoms, chosen_N: Tensor, block: int) -> Tensor:
    """Unit vectors [Q, D] of the chosen atoms, in order."""
    chosen_QD = torch.empty(int(chosen_N.sum()), atoms.d_in, device=atoms.device)
    filled = 0
    for start in range(0, len(atoms), block):
        wanted_b = chosen_N[start : start + block]
        rows_bD = atoms.rows(start, start + len(wanted_b))[wanted_b]
        chosen_QD[filled : filled + len(rows_bD)] = rows_bD
        filled += len(rows_bD)
    return chosen_QD


def connectivity(firing_TM: sparse.csr_array, *, words: int = WORDS) -> float:
    """1 − ‖CᵀC‖₀/m²: the share of pairs of features that never fire together, among the m features that fire at all.

    Dead features are left out, since they would raise the figure and mean nothing. The figure is NaN if no feature
    fires. Each token is stored as one bit per feature; the union of a feature's tokens gives the features that fire
    together with it.

    Args:
        firing_TM: Tokens × features, ≠ 0 where a feature fires.
        words: Number of 64-feature words to combine at a time.
    """
    pattern_TM = sparse.csr_array(firing_TM, dtype=bool, copy=True)
    pattern_TM.eliminate_zeros()
    alive_TM = pattern_TM[:, np.bincount(pattern_TM.indices, minlength=pattern_TM.shape[1]) > 0]
    m = alive_TM.shape[1]
    if not m:
        return math.nan
    bits_TW = _packed(alive_TM, words)
    by_feature = alive_TM.tocsc()
    pointers, tokens_E = by_feature.indptr.astype(np.int64), by_feature.indices.astype(np.int64)
    together, size = 0, max(1, words // bits_TW.shape[1])
    for start in range(0, m, size):
        unions_fW = np.zeros((min(size, m - start), bits_TW.shape[1]), np.uint64)
        unite_tokens(bits_TW, pointers[start : start + len(unions_fW) + 1], tokens_E, unions_fW)
        together += int(np.bitwise_count(unions_fW).sum(dtype=np.int64))
    return 1.0 - together / float(m) ** 2


def _packed(pattern_TM: sparse.csr_array, words: int) -> NDArray[np.uint64]:
    """Pack the pattern into words of 64 features [T, W]; bits after the last feature are 0."""
    tokens, features = pattern_TM.shape
    width = -(-features // 64)
    bits_TW = np.empty((tokens, width), np.uint64)
    size = max(1, words // (8 * width))
    for start in range(0, tokens, size):
        dense_tM = np.zeros((len(bits_TW[start : start + size]), 64 * width), dtype=bool)
        dense_tM[:, :features] = pattern_TM[start : start + size].toarray()
        bits_TW[start : start + size] = np.packbits(dense_tM, axis=1).view(np.uint64)
    return bits_TW


def firing_rows(ensemble: Ensemble, codes: Iterable[Step], tokens: int) -> sparse.csr_array:
    """Whether each of all M features fires on each token of a block: bool [tokens, M]."""
    rows, columns = [], []
    for step in codes:
        tokens_E, features_E = step.firing()
        rows.append(tokens_E)
        columns.append(features_E + step.first)
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
        read: Returns activations by row.
        tokens: Number of activations; connectivity uses the first `CONNECTIVITY_TOKENS` of them.
        seed: Seed of the random dictionaries.
        device: The device to encode on.
        progress: Told about every ensemble.

    Returns:
        The content of evaluation/dictionary.json. ``alive`` features fire on one of the ``connectivity_tokens``.
        ``diversity_alive`` counts features that are diverse and alive, since dead features keep their random initial
        atoms. ``redundancy`` is the share of features that de-duplication drops. ``nearest_cosine`` is the mean cosine
        of a feature with the most similar other feature, and ``null_nearest`` is the same for random atoms.
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
        firing_TM = sparse.csr_array(sparse.vstack(firing.pop(name)))
        figures[name] = {
            **_atom_figures(ensemble, firing_TM, seed),
            "connectivity": defined(connectivity(firing_TM)),
            "connectivity_tokens": tokens,
            "member_stability": member_stability(ensemble, seed=seed, progress=progress),
        }
    progress(Tick("measure dictionaries", len(ensembles), len(ensembles), unit="ensembles"))
    return {"threshold": THRESHOLD, "seed": seed, "ensembles": figures}


def _atom_figures(ensemble: Ensemble, firing_TM: sparse.csr_array, seed: int) -> dict[str, Any]:
    atoms = Atoms(*(member.dictionary.detach() for member in ensemble))
    nearest_M = nearest_in(atoms)
    diverse_M = diverse(atoms, nearest_N=nearest_M).cpu().numpy()
    alive_M = np.bincount(firing_TM.indices, minlength=len(atoms)) > 0
    kept = deduplicated(atoms, nearest_N=nearest_M)
    several = len(atoms) > 1
    return {
        "features": len(atoms),
        "alive": int(alive_M.sum()),
        "diversity": int(diverse_M.sum()),
        "diversity_fraction": float(diverse_M.mean()),
        "diversity_alive": int((diverse_M & alive_M).sum()),
        "deduplicated": kept,
        "redundancy": 1.0 - kept / len(atoms),
        "nearest_cosine": float(nearest_M.double().mean()) if several else None,
        "null_nearest": random_best(len(atoms), len(atoms) - 1, atoms.d_in, seed=seed) if several else None,
    }


def member_stability(ensemble: Ensemble, *, seed: int = 0, progress: Progress = silent) -> dict[str, Any] | None:
    """Run `measure_stability` on the members of an ensemble; None if there is one member.

    Members of a bag differ in their seeds alone, so their stability is that of one SAE trained J times.
    """
    if len(ensemble) < 2:
        return None
    members = [member.dictionary.detach() for member in ensemble]
    return measure_stability(members, seed=seed, stage=f"match members of {ensemble.method}", progress=progress)[0]
