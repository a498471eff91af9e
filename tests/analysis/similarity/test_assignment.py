"""The assignment among candidates equals SciPy's dense solution, also with many equal atoms, and proves its optimum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from sae_core.analysis.similarity import cosines as similarity
from sae_core.analysis.similarity.assignment import SLACK, _first_candidates, largest_assignment
from sae_core.analysis.similarity.assignment_loops import FREE, assign_sparsely
from sae_core.analysis.similarity.cosines import match_atoms


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dictionaries(kind: str, n: int, m: int, d: int = 24) -> tuple[Tensor, Tensor]:
    """Two dictionaries as trainings and faults make them."""
    one, other = randn(n, d, seed=0), randn(m, d, seed=1)
    if kind == "shared":  # the same atoms in another order, more or less noisy
        order = torch.randperm(max(n, m), generator=torch.Generator().manual_seed(2))[:m] % n
        other = one[order] + 4 * torch.rand(m, 1, generator=torch.Generator().manual_seed(3)) ** 2 * other
    elif kind == "clusters":
        centres = 2 * randn(9, d, seed=4)
        one, other = one + centres[torch.arange(n) % 9], other + centres[torch.arange(m) % 7]
    elif kind == "one direction":
        one, other = one + 3, other + 3
    elif kind == "duplicates":  # on which SciPy's sparse solver does not end
        one, other = one[torch.arange(n) // 8], other[torch.arange(m) // 8]
    elif kind == "half duplicates":
        one[: n // 2], other[: m // 2] = one[0], other[0]
    elif kind == "all equal":
        one, other = one[:1].expand(n, d), other[:1].expand(m, d)
    elif kind == "zeros":
        one, other = one * (torch.arange(n) % 2)[:, None], torch.zeros(m, d)
    return normalize(one), normalize(other)


class Blocks:
    """The rows of a matrix in blocks."""

    def __init__(self, scores_NM: Tensor, size: int = 37) -> None:
        self.scores_NM, self.size, self.passes = scores_NM, size, 0

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        self.passes += 1
        for start in range(0, len(self.scores_NM), self.size):
            yield start, self.scores_NM[start : start + self.size]


KINDS = ("random", "shared", "clusters", "one direction", "duplicates", "half duplicates", "all equal", "zeros")


@pytest.mark.parametrize("shape", [(150, 150), (90, 200)], ids=["square", "wide"])
@pytest.mark.parametrize("kind", KINDS)
def test_candidates_give_the_dense_optimum(kind: str, shape: tuple[int, int]) -> None:
    one, other = dictionaries(kind, *shape)
    scores_NM = one @ other.T
    found = largest_assignment(Blocks(scores_NM), *shape, candidates=3, dense_cells=0)
    rows, columns = linear_sum_assignment(scores_NM.numpy(), maximize=True)
    assert len(set(found.tolist())) == len(found)
    exact = scores_NM.double().numpy()
    assert exact[rows, found].sum() == pytest.approx(exact[rows, columns].sum(), abs=SLACK * len(rows))
    if kind in ("random", "shared", "clusters", "one direction"):  # elsewhere there are several optima
        assert np.array_equal(found, columns)


def test_prices_prove_the_optimum_among_the_candidates() -> None:
    """Weak duality: no assignment can be worth more than all profits and prices together."""
    scores_NM = randn(60, 80, seed=5).clamp(-1, 1)
    graph = _first_candidates(Blocks(scores_NM), 60, 80, 80)
    column_N, price_M, profit_N = graph.assign()
    exact = scores_NM.double().numpy()
    assert (price_M >= 0).all()
    assert (exact - price_M <= profit_N[:, None] + 1e-12).all()
    value = exact[np.arange(60), column_N].sum()
    assert value == pytest.approx(price_M.sum() + profit_N.sum(), abs=1e-9)
    assert value == pytest.approx(exact[linear_sum_assignment(exact, maximize=True)].sum(), abs=1e-9)


def test_too_few_candidates_are_not_taken_for_the_optimum() -> None:
    """With one candidate, everyone's favourite is one column; only prices tell that others are wanted."""
    scores_NM = -randn(40, 40, seed=6).abs().clamp(max=1)
    scores_NM[:, 7] = 0.5 + 0.01 * torch.arange(40) / 40
    blocks = Blocks(scores_NM)
    found = largest_assignment(blocks, 40, 40, candidates=1, dense_cells=0)
    assert np.array_equal(found, linear_sum_assignment(scores_NM.numpy(), maximize=True)[1])
    assert blocks.passes > 2


def test_a_row_without_a_candidate_of_its_own_stays_outside() -> None:
    pointers, columns = np.array([0, 1, 2, 2]), np.array([0, 0])
    column_N, row_M = np.full(3, FREE), np.full(2, FREE)
    price_M, profit_N = np.zeros(2), np.zeros(3)
    assign_sparsely(pointers, columns, np.array([0.25, 0.75]), -4.0, price_M, profit_N, column_N, row_M)
    assert column_N.tolist() == [-2, 0, -2]
    assert row_M.tolist() == [1, FREE]
    assert price_M.tolist() == [4.25, 0.0]
    assert profit_N.tolist() == [-4.0, -3.5, -4.0]


@pytest.mark.parametrize("held", [0, 2**20], ids=["computed anew", "held"])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_match_is_the_same_densely_by_candidates_and_from_the_other_side(
    held: int, absolute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = randn(70, 12, seed=7), randn(110, 12, seed=8)
    dense = match_atoms(one, other, absolute=absolute)
    monkeypatch.setattr(similarity, "largest_assignment", lambda *a: largest_assignment(*a, dense_cells=0))
    for match in (
        match_atoms(one, other, absolute=absolute, cells=1100, held=held),
        match_atoms(other, one, absolute=absolute, cells=1100, held=held),
    ):
        turned = len(match.best_N) == 110
        rows, columns = (match.columns, match.rows) if turned else (match.rows, match.columns)
        assert match.rows.tolist() == sorted(match.rows.tolist())
        order = rows.argsort()
        assert torch.equal(rows[order], dense.rows)
        assert torch.equal(columns[order], dense.columns)
        assert torch.allclose(match.cosine[order], dense.cosine, atol=1e-6)
        assert torch.equal(match.best_M if turned else match.best_N, dense.best_N)
        assert torch.equal(match.best_N if turned else match.best_M, dense.best_M)
    cosines = (normalize(one.double()) @ normalize(other.double()).T).numpy()
    cosines = np.abs(cosines) if absolute else cosines
    assert np.allclose(dense.best_cosine_N, cosines.max(axis=1), atol=1e-6)
    assert np.array_equal(dense.best_M, cosines.argmax(axis=0))
    assert np.array_equal(dense.columns, linear_sum_assignment(cosines, maximize=True)[1])
