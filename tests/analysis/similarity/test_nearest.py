"""The table of nearest atoms within a member against a plain float64 computation, duplicates and splits included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_core.analysis.similarity.cosines import random_best
from sae_core.analysis.similarity.nearest import KEPT, Nearest, write_nearest
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Tick
from sae_core.sae import TopKSAE

D = 7


def ensemble_of(*widths: int) -> Ensemble:
    """Members of these widths, the atoms of any norm; the last atom of each is its first one again, made longer."""
    members = [TopKSAE(D, width, k=1, seed=seed) for seed, width in enumerate(widths)]
    with torch.no_grad():
        for member in members:
            member.W_dec.mul_(1 + torch.rand(member.width, 1, generator=torch.Generator().manual_seed(member.width)))
            member.W_dec[-1] = 3 * member.W_dec[0]
    return Ensemble(members, wiring="parallel")


def plainly(ensemble: Ensemble, feature: int) -> dict[int, float]:
    """The cosines of a feature with all others of its member, in float64 and one at a time."""
    dictionary = ensemble.dictionary.detach().double().numpy()
    own = next(range(a, b) for a, b in zip(ensemble.offsets, ensemble.offsets[1:], strict=False) if a <= feature < b)
    return {
        other: float(atom @ dictionary[feature] / np.linalg.norm(atom) / np.linalg.norm(dictionary[feature]))
        for other, atom in enumerate(dictionary)
        if other in own and other != feature
    }


@pytest.mark.parametrize("cells", [1, 50, 2**24])
def test_nearest_atoms_are_those_of_the_plain_twin(tmp_path: Path, cells: int) -> None:
    ensemble, ticks = ensemble_of(23, 6, 31), list[Tick]()
    write_nearest(ensemble, tmp_path / "nearest", cells=cells, progress=ticks.append)
    table = Nearest.open(tmp_path / "nearest")
    for feature in range(60):
        found, cosines = table.of(feature), plainly(ensemble, feature)
        assert found["cosine"].to_numpy() == pytest.approx(sorted(cosines.values(), reverse=True)[:KEPT], abs=1e-6)
        # Not by their order: duplicates are equally near to a third.
        assert [cosines[other] for other in found["feature"]] == pytest.approx(found["cosine"].tolist(), abs=1e-6)
        assert found["feature"].is_unique
        assert table.of(feature, 2).equals(found.head(2))
    # The first and the last of each member are the same direction, and nothing is above 1.
    assert [table.of(feature)["feature"].iloc[0] for feature in (0, 22, 23, 28, 29, 59)] == [22, 0, 28, 23, 59, 29]
    assert table.cosines.max() <= 1
    assert len(table.of(25)) == 5  # a member of six
    assert (table.nearest[23:29, 5:] == -1).all()
    assert (ticks[-1].done, ticks[-1].total) == (60, 60)
    assert [file.name for file in tmp_path.iterdir()] == ["nearest"]


def test_what_chance_gives_is_that_of_each_members_width(tmp_path: Path) -> None:
    write_nearest(ensemble_of(23, 6), tmp_path / "nearest")
    chance = Nearest.open(tmp_path / "nearest").chance
    assert chance[:23] == pytest.approx(random_best(23, 22, D))
    assert chance[23:] == pytest.approx(random_best(6, 5, D))
    assert chance[0] > chance[-1]


def test_a_lone_atom_has_none_and_one_without_direction_is_near_to_nothing(tmp_path: Path) -> None:
    members = [TopKSAE(D, width, k=1, seed=0) for width in (1, 3)]
    with torch.no_grad():
        members[1].W_dec[1] = 0
    write_nearest(Ensemble(members, wiring="parallel"), tmp_path / "nearest")
    table = Nearest.open(tmp_path / "nearest")
    assert table.of(0).empty
    assert table.of(2)["cosine"].tolist() == [0, 0]
    assert sorted(table.of(2)["feature"]) == [1, 3]


def test_a_feature_or_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    write_nearest(ensemble_of(5), tmp_path / "nearest")
    with pytest.raises(UserError, match="no feature 5; the ensemble has features 0 to 4"):
        Nearest.open(tmp_path / "nearest").of(5)
    (tmp_path / "nearest").write_bytes((tmp_path / "nearest").read_bytes()[:-4])
    with pytest.raises(UserError, match="damaged"):
        Nearest.open(tmp_path / "nearest")
