"""Ensembles of ensembles: Proposition 1 and the walk through two levels, and the folder that they are kept in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from random_saes import random_sae
from torch import Tensor

from sae_core.analysis.shared.ensemble_codes import Encoders
from sae_core.analysis.shared.random_twin import random_twin
from sae_core.analysis.similarity.pair_scores import atom_cosines
from sae_core.ensembles.ensemble import Ensemble, files_of, load_dictionaries, load_ensemble, save_ensemble
from sae_core.ensembles.manifest import read_manifest
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.method import Wiring
from sae_core.sae import SAE
from sae_core.training.kernels.frozen import FrozenEncoder

D, WIDTHS = 8, (20, 30, 10, 24)


def saes() -> list[SAE]:
    found = [random_sae("topk", d_in=D, width=width, seed=seed) for seed, width in enumerate(WIDTHS)]
    return [sae.eval().requires_grad_(False) for sae in found]


def nested(outer: Wiring) -> Ensemble:
    """A bag of two boosted ensembles of two, or boosting of two bags of two."""
    inner: Wiring = "residual" if outer == "parallel" else "parallel"
    first, second, third, fourth = saes()
    members = [Ensemble([first, second], wiring=inner), Ensemble([third, fourth], wiring=inner)]
    return Ensemble(members, wiring=outer, method="mine").eval()


def by_hand(outer: Wiring, acts_BD: Tensor) -> tuple[Tensor, Tensor]:
    """(coefficients, reconstruction), every SAE called by itself."""
    codes, left_BD, whole_BD = [], acts_BD, torch.zeros_like(acts_BD)
    one, two, three, four = saes()
    for pair in ((one, two), (three, four)):
        if outer == "parallel":
            second_BD = acts_BD - pair[0](acts_BD)
            codes += [0.5 * pair[0].encode(acts_BD), 0.5 * pair[1].encode(second_BD)]
            whole_BD = whole_BD + 0.5 * (pair[0](acts_BD) + pair[1](second_BD))
        else:
            codes += [0.5 * sae.encode(left_BD) for sae in pair]
            part_BD = 0.5 * (pair[0](left_BD) + pair[1](left_BD))
            whole_BD, left_BD = whole_BD + part_BD, left_BD - part_BD
    return torch.cat(codes, dim=1), whole_BD


def activations() -> Tensor:
    return torch.randn(50, D, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("outer", ["parallel", "residual"])
def test_all_ways_to_encode_and_decode_are_what_is_got_by_hand(outer: Wiring) -> None:
    ensemble, acts_BD = nested(outer), activations()
    coefs_BM, whole_BD = by_hand(outer, acts_BD)
    assert (ensemble.widths, ensemble.offsets, ensemble.width) == ([50, 34], [0, 50, 84], 84)
    code = ensemble.encode_sparse(acts_BD)
    assert bool((code.rows_E.diff() >= 0).all())
    for found_BM in (ensemble.encode(acts_BD), code.dense()):
        torch.testing.assert_close(found_BM, coefs_BM, rtol=1e-5, atol=1e-6)
    for found_BD in (ensemble(acts_BD), ensemble.decode(coefs_BM), ensemble.decode_sparse(code)):
        torch.testing.assert_close(found_BD, whole_BD, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(coefs_BM @ ensemble.dictionary + ensemble.b_dec, whole_BD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("outer", ["parallel", "residual"])
def test_the_fast_walk_is_the_plain_one_and_shares_what_reads_the_activations(outer: Wiring) -> None:
    ensemble, acts_BD = nested(outer), activations()
    encoders = Encoders({"one": Ensemble(saes()[:1], wiring="parallel").eval(), "mine": ensemble})
    (_, (alone,)), (_, steps) = ((name, list(found)) for name, found in encoders.codes(acts_BD, decode=True))
    assert len(encoders._shared) == 1
    for step, plain in zip(steps, ensemble.walk(acts_BD), strict=True):
        torch.testing.assert_close(step.code.dense(), plain.code.dense(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(step.part_BD, plain.part_BD, rtol=1e-4, atol=1e-5)
    weight = 0.5 if outer == "residual" else 1.0
    torch.testing.assert_close(steps[0].code.dense()[:, : WIDTHS[0]], weight * alone.code.dense())
    entries = [step.entries() for step in ensemble.walk(acts_BD, FrozenEncoder().code_and_recon, decode=False)]
    features, rows, values = (torch.cat(columns) for columns in zip(*entries, strict=True))
    dense_BM = torch.zeros(50, 84).index_put((rows, features), values)
    torch.testing.assert_close(dense_BM, by_hand(outer, acts_BD)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("outer", ["parallel", "residual"])
def test_a_folder_of_folders_comes_back_bit_by_bit(outer: Wiring, tmp_path: Path) -> None:
    ensemble, folder = nested(outer), EnsembleFolder(tmp_path / "mine")
    save_ensemble(ensemble, folder)
    assert sorted(files_of(ensemble, folder)) == sorted(path for path in folder.path.rglob("*") if path.is_file())
    again, manifest = load_ensemble(folder), read_manifest(folder)
    assert torch.equal(again.encode(activations()), ensemble.encode(activations()))
    stages = 2 if outer == "residual" else 1
    assert (manifest.widths, manifest.stages, manifest.is_staged) == ((50, 34), stages, stages > 1)
    for atoms_ND, member in zip(load_dictionaries(folder), ensemble, strict=True):
        assert torch.equal(atoms_ND, member.dictionary)
    atoms_MD = ensemble.dictionary
    (cosine,) = atom_cosines(folder, manifest.widths, 25, [75])
    assert cosine == pytest.approx(float(torch.cosine_similarity(atoms_MD[25], atoms_MD[75], dim=0)), abs=1e-6)


def test_the_first_member_is_an_ensemble_of_its_own() -> None:
    ensemble, acts_BD = nested("parallel"), activations()
    torch.testing.assert_close(ensemble.first(1)(acts_BD), ensemble[0](acts_BD))
    assert [sae.width for sae in ensemble.saes()] == list(WIDTHS)


@pytest.mark.parametrize("outer", ["parallel", "residual"])
def test_a_random_twin_has_the_same_shape_at_both_levels(outer: Wiring) -> None:
    ensemble = nested(outer)
    twin = random_twin(ensemble, activations(), seed=1)
    assert [sae.width for sae in twin.saes()] == list(WIDTHS)
    inner = [member.wiring for member in twin if isinstance(member, Ensemble)]
    assert [twin.wiring, *inner] == [outer, *[each.wiring for each in ensemble if isinstance(each, Ensemble)]]
    cosines = torch.cosine_similarity(twin.dictionary, ensemble.dictionary, dim=1)
    assert float(cosines.abs().max()) < 0.999
    firing = [int((each.encode(activations()) != 0).sum()) for each in (ensemble, twin)]
    assert firing[1] == pytest.approx(firing[0], rel=0.05)
