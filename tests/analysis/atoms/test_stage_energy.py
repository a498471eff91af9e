"""The energy that stages and features remove: exact sums, and the plain computation in float64."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from sae_core.analysis.atoms import stage_energy
from sae_core.analysis.atoms.stage_energy import energy_by_stage, measure_stage_energy
from sae_core.ensembles.ensemble import Ensemble
from sae_core.sae import ReLUSAE, TopKSAE

D = 12


def boosted(kind: type[TopKSAE] | type[ReLUSAE] = TopKSAE) -> Ensemble:
    options = {"k": 3} if kind is TopKSAE else {}
    members = [kind(D, 20, seed=seed, **options) for seed in range(3)]
    with torch.no_grad():
        for member in members:
            member.b_dec.copy_(0.3 * torch.randn(D, generator=torch.Generator().manual_seed(7)))
    return Ensemble(members, wiring="residual", weights=[1.0, 1.0, 0.5]).eval()


def activations(count: int) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(1)) + 0.5


@pytest.mark.parametrize("kind", [TopKSAE, ReLUSAE])
def test_features_and_bias_remove_what_the_stage_does(kind: type[TopKSAE] | type[ReLUSAE]) -> None:
    ensemble, acts_BD = boosted(kind), activations(30)
    left_BD = acts_BD.double()
    for stage, step in zip(energy_by_stage(ensemble, acts_BD), ensemble.walk(acts_BD), strict=True):
        after_BD = left_BD - step.part_BD.detach().double()
        torch.testing.assert_close(stage.before_B.double(), left_BD.square().sum(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(stage.after_B.double(), after_BD.square().sum(1), rtol=1e-4, atol=1e-5)
        sums_B = stage.bias_B.double().index_add(0, stage.rows_E, stage.removed_E.double())
        torch.testing.assert_close(sums_B, (stage.before_B - stage.after_B).double(), rtol=1e-3, atol=1e-4)
        coefs_BN = step.weight * step.code.dense().double().detach()
        assert len(stage.rows_E) == int((coefs_BN != 0).sum())
        atoms_ND = step.member.dictionary.detach().double()
        for row, feature, alone in zip(
            stage.rows_E.tolist(), stage.features_E.tolist(), stage.alone_E.tolist(), strict=True
        ):
            without = left_BD[row] - coefs_BN[row, feature] * atoms_ND[feature]
            plain = float(left_BD[row].square().sum() - without.square().sum())
            assert alone == pytest.approx(plain, rel=1e-3, abs=1e-4)
        left_BD = after_BD


def test_what_a_feature_removes_is_its_mean_over_all_orders() -> None:
    ensemble, acts_BD = boosted(), activations(1)
    stage = next(energy_by_stage(ensemble, acts_BD))
    coefs_N = ensemble[0].encode(acts_BD)[0].detach().double()
    parts = [coefs_N[feature] * ensemble[0].W_dec[feature].detach().double() for feature in stage.features_E.tolist()]
    parts.append(ensemble[0].b_dec.detach().double())
    shares = np.zeros(len(parts))
    orders = list(permutations(range(len(parts))))
    for order in orders:
        left_D = acts_BD[0].double()
        for player in order:
            after_D = left_D - parts[player]
            shares[player] += float(left_D.square().sum() - after_D.square().sum())
            left_D = after_D
    np.testing.assert_allclose([*stage.removed_E.tolist(), float(stage.bias_B)], shares / len(orders), rtol=1e-4)


def test_the_table_sums_over_the_tokens() -> None:
    ensemble, acts_TD = boosted(), activations(5000)
    table, summary = measure_stage_energy(ensemble, lambda start, stop: acts_TD[start:stop], 5000)
    assert (summary["sample"], summary["tokens"]) == (5000, 5000)
    energy = float(acts_TD.double().square().sum())
    assert summary["energy"] == pytest.approx(energy / 5000, rel=1e-5)
    assert summary["stages"][0]["before"] == 1
    with torch.no_grad():
        left = (acts_TD - ensemble(acts_TD)).double().square().sum() / energy
        fired_M = (ensemble.encode(acts_TD) != 0).sum(dim=0)
    assert summary["stages"][-1]["after"] == pytest.approx(float(left), rel=1e-4)
    removed = table.groupby("member")["removed"].sum()
    for number, stage in enumerate(summary["stages"]):
        assert removed[number] + stage["bias"] == pytest.approx(stage["before"] - stage["after"], abs=1e-5)
    assert table["feature"].tolist() == list(range(60))
    assert table["fired"].tolist() == fired_M.tolist()
    stages = [torch.zeros(20, dtype=torch.float64) for _ in range(3)]
    for number, stage in enumerate(energy_by_stage(ensemble, acts_TD)):
        stages[number].index_add_(0, stage.features_E, stage.alone_E.double())
    np.testing.assert_allclose(table["alone"], torch.cat(stages) / energy, atol=1e-6)


def test_a_long_corpus_is_sampled_evenly() -> None:
    ensemble, read = boosted(), []
    acts_TD = activations(2048)

    def rows(start: int, stop: int) -> torch.Tensor:
        read.append((start, stop))
        return acts_TD[: stop - start]

    _, summary = measure_stage_energy(ensemble, rows, 2048 * 10, sample=2048 * 4)
    assert [start // stage_energy.BLOCK for start, _ in read] == [0, 2, 5, 7]
    assert (summary["sample"], summary["tokens"]) == (8192, 20480)
