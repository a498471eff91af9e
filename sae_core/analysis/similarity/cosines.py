"""Compare dictionaries by cosine: blocks of cosines, best matches, one-to-one matches, and the level of chance.

Sources: MMCS (Sharkey et al. 2022), one-to-one matching on cosine (Song et al. 2025).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sae_core.analysis.similarity.assignment import largest_assignment

CELLS = 2**24
"""Number of cosines in memory at a time (64 MB), which limits the rows of a block."""
HELD_CELLS = 2**28
"""Number of cosines to keep while two dictionaries are matched (1 GB)."""
SAMPLED = 2048
"""Largest number of random atoms to average over in `random_best`; all atoms have the same expectation."""
DRAWN = 8192
_TINY = 1e-12


class Atoms:
    """The atoms of one dictionary, or of several one after another, as unit vectors without a full copy.

    Args:
        parts: Dictionaries [N_i, D] with atoms of any norm, on one device; they may be memory-mapped. A zero atom has
            cosine 0 with all others.
    """

    def __init__(self, *parts: Tensor) -> None:
        self.parts = parts
        self._scale_N = torch.cat([_inverse_norms(part) for part in parts])

    @classmethod
    def of(cls, atoms: Tensor | Atoms) -> Atoms:
        """Wrap a tensor as `Atoms`; return `Atoms` as they are."""
        return atoms if isinstance(atoms, Atoms) else cls(atoms)

    def __len__(self) -> int:
        """Number of atoms, N."""
        return len(self._scale_N)

    @property
    def d_in(self) -> int:
        """Dimension of the atoms, D."""
        return self.parts[0].shape[1]

    @property
    def device(self) -> torch.device:
        """The device of the atoms."""
        return self.parts[0].device

    def rows(self, start: int, stop: int) -> Tensor:
        """Unit atoms ``start`` to ``stop``, float32 [stop − start, D]."""
        pieces = [part[max(0, start - first) : max(0, stop - first)] for first, part in self._placed()]
        return normalize(torch.cat([piece.float() for piece in pieces if len(piece)]))

    def cosines(self, unit_bD: Tensor, *, start: int = 0) -> Tensor:
        """Cosines [b, N − start] of unit vectors with the atoms from number ``start`` on."""
        pieces = [unit_bD @ part[max(0, start - first) :].float().T for first, part in self._placed()]
        return (torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0]).mul_(self._scale_N[start:])

    def _placed(self) -> Iterator[tuple[int, Tensor]]:
        """Yield each part with the number of its first atom."""
        first = 0
        for part in self.parts:
            yield first, part
            first += len(part)


def _inverse_norms(part_ND: Tensor) -> Tensor:
    # Like `normalize`, but in pieces, since a norm over a whole map would copy the map into memory.
    return torch.cat([piece.float().norm(dim=1).clamp_min(_TINY).reciprocal() for piece in part_ND.split(8192)])


def cosine_blocks(atoms: Tensor | Atoms, others: Tensor | Atoms, *, cells: int = CELLS) -> Iterator[tuple[int, Tensor]]:
    """Yield (number of the first row, cosines [b, M]) for rows of ``atoms`` against all M ``others``.

    Args:
        atoms: The atoms of the rows.
        others: The atoms of the columns.
        cells: Approximate number of cosines in a block.
    """
    rows, columns = Atoms.of(atoms), Atoms.of(others)
    size = max(1, cells // max(1, len(columns)))
    for start in range(0, len(rows), size):
        yield start, columns.cosines(rows.rows(start, min(start + size, len(rows))))


@torch.no_grad()
def best_matches(atoms: Tensor | Atoms, others: Tensor | Atoms, *, cells: int = CELLS) -> tuple[Tensor, Tensor]:
    """Find the most similar of M ``others`` for each of N ``atoms``.

    Returns:
        (signed cosine [N], number of the most similar other atom [N], the first one if several are equal).
    """
    blocks = [block_bM.max(dim=1) for _, block_bM in cosine_blocks(atoms, others, cells=cells)]
    return torch.cat([values for values, _ in blocks]), torch.cat([places for _, places in blocks])


@torch.no_grad()
def nearest_in(atoms: Tensor | Atoms, *, cells: int = CELLS) -> Tensor:
    """The cosine [N] of each atom with the most similar *other* atom of the same dictionary; −∞ for a lone atom.

    Only the atom itself is left out, since leaving out a whole block on the diagonal would hide an atom's duplicates.
    Each pair is computed once.
    """
    atoms = Atoms.of(atoms)
    size = max(1, cells // len(atoms))
    nearest_N = torch.full((len(atoms),), -torch.inf, device=atoms.device)
    for start in range(0, len(atoms), size):
        stop = min(start + size, len(atoms))
        cosine_bM = atoms.cosines(atoms.rows(start, stop), start=start)
        cosine_bM.diagonal().fill_(-torch.inf)
        nearest_N[start:stop] = torch.maximum(nearest_N[start:stop], cosine_bM.max(dim=1).values)
        nearest_N[start:] = torch.maximum(nearest_N[start:], cosine_bM.max(dim=0).values)
    return nearest_N


@dataclass(frozen=True, slots=True)
class Match:
    """N atoms beside M others. All tensors are on the CPU; of equal cosines, the first one is the best.

    Attributes:
        best_cosine_N: Cosine of each atom with the most similar other.
        best_N: The most similar other of each atom.
        best_cosine_M: Cosine of each other with the most similar atom.
        best_M: The most similar atom of each other.
        rows: Atoms of the one-to-one matching with the largest sum of cosines [min(N, M)], ascending.
        columns: The matched other of each of these atoms.
        cosine: The cosine of each matched pair.
    """

    best_cosine_N: Tensor
    best_N: Tensor
    best_cosine_M: Tensor
    best_M: Tensor
    rows: Tensor
    columns: Tensor
    cosine: Tensor


@torch.no_grad()
def match_atoms(
    atoms: Tensor | Atoms, others: Tensor | Atoms, *, absolute: bool = False, cells: int = CELLS, held: int = HELD_CELLS
) -> Match:
    """Match two dictionaries by best match and one to one (Hungarian matching), exactly and at any size.

    Args:
        atoms: N atoms.
        others: M others.
        absolute: Match by |cosine|, and return |cosine|.
        cells: Number of cosines to compute at a time.
        held: Largest number of cosines to keep; for larger dictionaries, cosines are computed again when needed.
    """
    atoms, others = Atoms.of(atoms), Atoms.of(others)
    if len(atoms) > len(others):
        match = match_atoms(others, atoms, absolute=absolute, cells=cells, held=held)
        order = match.columns.argsort()
        best = (match.best_cosine_M, match.best_M, match.best_cosine_N, match.best_N)
        return Match(*best, match.columns[order], match.rows[order], match.cosine[order])
    table = _CosineTable(atoms, others, absolute, cells=cells, held=held)
    columns = torch.from_numpy(largest_assignment(table, len(atoms), len(others)))
    cosine = torch.cat(
        [
            block_bM.gather(1, columns[start : start + len(block_bM), None].to(block_bM.device)).flatten().cpu()
            for start, block_bM in table
        ]
    )
    return Match(*table.best_of_rows(), *table.best_of_columns(), torch.arange(len(atoms)), columns, cosine)


class _CosineTable:
    """All cosines of two dictionaries, block by block; the first pass records the best of each row and column."""

    def __init__(self, rows: Atoms, columns: Atoms, absolute: bool, *, cells: int, held: int) -> None:
        self._rows, self._columns, self._absolute, self._cells = rows, columns, absolute, cells
        self._holds = len(rows) * len(columns) <= held
        self._blocks: list[tuple[int, Tensor]] | None = None
        self._of_rows: list[tuple[Tensor, Tensor]] = []
        self._cosine_M = torch.full((len(columns),), -torch.inf, device=rows.device)
        self._best_M = torch.zeros(len(columns), dtype=torch.int64, device=rows.device)
        self._seen = 0

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        if self._blocks is not None:
            yield from self._blocks
            return
        blocks = []
        for start, block_bM in cosine_blocks(self._rows, self._columns, cells=self._cells):
            if self._absolute:
                block_bM.abs_()
            if start >= self._seen:
                self._note(start, block_bM)
            if self._holds:
                blocks.append((start, block_bM))
            yield start, block_bM
        if self._holds:
            self._blocks = blocks

    def _note(self, start: int, block_bM: Tensor) -> None:
        values_b, places_b = block_bM.max(dim=1)
        self._of_rows.append((values_b.cpu(), places_b.cpu()))
        values_M, places_M = block_bM.max(dim=0)
        better_M = values_M > self._cosine_M
        self._cosine_M[better_M], self._best_M[better_M] = values_M[better_M], places_M[better_M] + start
        self._seen = start + len(block_bM)

    def best_of_rows(self) -> tuple[Tensor, Tensor]:
        """The largest cosine of each row: (cosine [N], column [N])."""
        return torch.cat([values for values, _ in self._of_rows]), torch.cat([places for _, places in self._of_rows])

    def best_of_columns(self) -> tuple[Tensor, Tensor]:
        """The largest cosine of each column: (cosine [M], row [M])."""
        return self._cosine_M.cpu(), self._best_M.cpu()


@torch.no_grad()
@lru_cache(maxsize=64)
def random_null(n: int, m: int, d: int, *, seed: int = 0) -> dict[str, float]:
    """The level of chance: the mean cosine of n random unit atoms in d dimensions with m others.

    Width alone raises this level, so every stability has to stand beside it.

    Returns:
        ``best``: mean best cosine, as `random_best` gives it; ``matched``: `mean_matched` of the one-to-one matching.
    """
    chance = torch.Generator().manual_seed(seed)
    atoms_ND, others_MD = (torch.randn(count, d, generator=chance) for count in (n, m))
    matched = mean_matched(match_atoms(atoms_ND, others_MD).cosine, n, m)
    return {"best": random_best(n, m, d, seed=seed), "matched": matched}


def mean_matched(cosine: Tensor, n: int, m: int) -> float:
    """Mean cosine of a one-to-one matching of n atoms with m others, over the max(n, m) atoms of the wider dictionary.

    Atoms without a match count as 0: with a mean over the min(n, m) pairs alone, a narrow dictionary inside a wide one
    would look identical to it.
    """
    return float(cosine.double().sum()) / max(n, m)


def random_best(n: int, m: int, d: int, *, seed: int = 0) -> float:
    """Mean best cosine of n random unit atoms in d dimensions with m others, from at most `SAMPLED` of the n atoms."""
    return float(_random_best_cosines(min(n, SAMPLED), m, d, seed).double().mean())


def random_shared(n: int, m: int, d: int, threshold: float, *, seed: int = 0) -> float:
    """Share of n random unit atoms whose best cosine with m others reaches the threshold; drawn as in `random_best`."""
    return float((_random_best_cosines(min(n, SAMPLED), m, d, seed) >= threshold).double().mean())


@torch.no_grad()
@lru_cache(maxsize=256)
def _random_best_cosines(n: int, m: int, d: int, seed: int) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    atoms = Atoms(torch.randn(n, d, generator=chance))
    best_N = torch.full((n,), -torch.inf)
    for start in range(0, m, DRAWN):
        others_bD = torch.randn(min(DRAWN, m - start), d, generator=chance)
        best_N = torch.maximum(best_N, best_matches(atoms, others_bD)[0])
    return best_N
