"""The atom map: exact neighbours, the same map for the same seed, similar atoms close together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from sae_core.analysis.atoms.atom_map import cluster_map, map_atoms, nearest


def planted(groups: int, each: int, d: int, *, noise: float = 0.15) -> torch.Tensor:
    """Atoms around ``groups`` random directions, group after group."""
    generator = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(groups, d, generator=generator)).repeat_interleave(each, dim=0)
    return normalize(centres + noise * torch.randn(groups * each, d, generator=generator))


@pytest.mark.parametrize("block", [7, 1024])
def test_neighbours_are_exact(block: int) -> None:
    atoms = normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)))
    places, distances = nearest(atoms, 6, block=block)
    cosine = (atoms.double() @ atoms.double().T).numpy()
    np.fill_diagonal(cosine, 2.0)
    expected = np.argsort(-cosine, axis=1)[:, :6]
    assert np.array_equal(places.numpy(), expected)
    np.fill_diagonal(cosine, 1.0)
    assert np.allclose(distances.numpy(), 1 - np.take_along_axis(cosine, expected, axis=1), atol=1e-6)


def test_an_atom_is_its_own_first_neighbour_even_beside_duplicates() -> None:
    atoms = normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(0))).repeat(4, 1)
    places, distances = nearest(atoms, 4)
    assert places[:, 0].tolist() == list(range(20))
    assert torch.all(distances >= 0)
    assert torch.all(places % 5 == torch.arange(20)[:, None] % 5)


@pytest.mark.slow  # importing and compiling UMAP takes seconds
def test_the_map_groups_similar_atoms_and_follows_the_seed() -> None:
    atoms = planted(6, 25, 24)
    first, again, other = map_atoms(atoms), map_atoms(atoms), map_atoms(3 * atoms, seed=1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    for xy in (first, other):
        assert xy.shape == (150, 2)
        assert xy.dtype == np.float32
        assert np.isfinite(xy).all()
        distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
        np.fill_diagonal(distance, np.inf)
        group = np.arange(150) // 25
        assert (group[distance.argmin(axis=1)] == group).mean() > 0.98
        cluster = cluster_map(xy)
        found = cluster >= 0
        assert found.mean() > 0.8
        # No cluster mixes groups.
        assert all(len(set(group[cluster == number])) == 1 for number in set(cluster[found]))


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_handful_of_atoms_lies_on_a_circle(count: int) -> None:
    xy = map_atoms(torch.eye(8)[:count])
    assert xy.shape == (count, 2)
    assert np.allclose(np.linalg.norm(xy, axis=1), 1)
    assert cluster_map(xy).tolist() == [-1] * count


def test_clusters_are_numbered_from_the_largest() -> None:
    generator = np.random.default_rng(0)
    parts = [generator.normal(centre, 0.1, (count, 2)) for centre, count in ((0, 20), (50, 60), (100, 40))]
    cluster = cluster_map(np.concatenate([*parts, [[500.0, -500.0]]]).astype(np.float32))
    assert [int(np.median(cluster[start:end])) for start, end in ((0, 20), (20, 80), (80, 120))] == [2, 0, 1]
    assert cluster[-1] == -1
