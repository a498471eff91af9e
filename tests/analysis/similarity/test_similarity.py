"""Cosine matching against a plain float64 computation, a planted permutation and known null values."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from sae_core.analysis.similarity import cosines as similarity
from sae_core.analysis.similarity.cosines import (
    Atoms,
    best_matches,
    match_atoms,
    nearest_in,
    random_best,
    random_null,
    random_shared,
)


def _atoms(count: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed))


def _cosines(first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
    a, b = first.double().numpy(), second.double().numpy()
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


@pytest.mark.parametrize("cells", [1, 60, 2**24])
@pytest.mark.parametrize("parts", [(17,), (4, 10, 3)])
def test_best_matches_equal_the_plain_computation_whatever_the_block(cells: int, parts: tuple[int, ...]) -> None:
    first, second = 5 * _atoms(23, 6, 0), _atoms(17, 6, 1)
    cosine, index = best_matches(first, Atoms(*second.split(parts)), cells=cells)
    expected = _cosines(first, second)
    assert np.array_equal(index.numpy(), expected.argmax(axis=1))
    assert np.allclose(cosine.numpy(), expected.max(axis=1), atol=1e-6)


@pytest.mark.parametrize("cells", [1, 50, 2**24])
def test_the_nearest_atom_is_another_one_also_where_there_are_duplicates(cells: int) -> None:
    atoms = torch.cat([3 * _atoms(19, 5, 0), _atoms(19, 5, 0)[:4], torch.zeros(1, 5)])
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(_cosines(atoms, atoms))
    np.fill_diagonal(expected, -np.inf)
    for given in (atoms, Atoms(atoms[:7], atoms[7:8], atoms[8:])):
        assert np.allclose(nearest_in(given, cells=cells).numpy(), expected.max(axis=1), atol=1e-6)
    assert nearest_in(atoms[:1]).tolist() == [-np.inf]


def test_rows_of_parts_are_those_of_the_whole() -> None:
    whole = _atoms(12, 4, 0)
    atoms = Atoms(whole[:5], whole[5:5], whole[5:])
    assert (len(atoms), atoms.d_in) == (12, 4)
    for start, stop in ((0, 12), (3, 9), (5, 6), (11, 12)):
        assert torch.equal(atoms.rows(start, stop), torch.nn.functional.normalize(whole[start:stop]))


def test_the_cosine_is_signed_an_opposite_atom_is_no_match() -> None:
    cosine, index = best_matches(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [0.6, 0.8]]))
    assert index.tolist() == [1]
    assert cosine.item() == pytest.approx(0.6)


def test_one_to_one_finds_the_best_of_all_permutations() -> None:
    first, second = _atoms(5, 4, 0), _atoms(5, 4, 1)
    match = match_atoms(first, second)
    rows, columns, cosine = match.rows, match.columns, match.cosine
    expected = _cosines(first, second)
    best = max(sum(expected[i, p[i]] for i in range(5)) for p in permutations(range(5)))
    assert rows.tolist() == [0, 1, 2, 3, 4]
    assert sorted(columns.tolist()) == [0, 1, 2, 3, 4]
    assert cosine.sum().item() == pytest.approx(best, abs=1e-5)
    assert np.allclose(cosine.numpy(), expected[rows, columns], atol=1e-6)


def test_one_to_one_recovers_a_permutation_and_leaves_the_rest_of_a_wider_dictionary() -> None:
    wide = _atoms(12, 16, 0)
    order = torch.tensor([7, 2, 11, 0])
    match = match_atoms(wide[order], wide)
    rows, columns, cosine = match.rows, match.columns, match.cosine
    assert rows.tolist() == [0, 1, 2, 3]
    assert torch.equal(columns, order)
    assert torch.allclose(cosine, torch.ones(4))


def test_random_null_has_the_known_values() -> None:
    assert random_null(64, 64, 64)["best"] == pytest.approx(0.29, abs=0.01)
    null = random_null(256, 3 * 256, 64)
    assert null["best"] > random_null(256, 256, 64)["best"]
    assert null["matched"] < null["best"]
    assert random_null(64, 64, 64) == random_null(64, 64, 64, seed=0)
    assert random_null(64, 64, 64, seed=1) != random_null(64, 64, 64)


def test_random_best_is_the_same_of_a_sample_and_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, share = random_best(600, 900, 24), random_shared(600, 900, 24, 0.55)
    assert 0.2 < share < 0.9
    monkeypatch.setattr(similarity, "SAMPLED", 300)
    monkeypatch.setattr(similarity, "DRAWN", 128)
    assert random_best(600, 900, 24) == pytest.approx(whole, abs=0.005)
    assert random_shared(600, 900, 24, 0.55) == pytest.approx(share, abs=0.06)
