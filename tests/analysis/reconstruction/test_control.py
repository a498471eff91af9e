"""Boosting's control: random stages after the first one, against plain float64 computations and known cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_core.analysis.reconstruction.control import measure_controls
from sae_core.analysis.shared.names_in_tables import untrained_share
from sae_core.analysis.shared.random_twin import random_stages, random_twin
from sae_core.ensembles.ensemble import Ensemble
from sae_core.sae import SAE, BatchTopKSAE, JumpReLUSAE, ReLUSAE, TopKSAE

D, N, J, TOKENS = 12, 30, 3, 2400


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def acts(seed: int = 0, tokens: int = TOKENS) -> Tensor:
    return randn(tokens, D, seed=seed) * torch.linspace(0.5, 2, D) + 1.0


def stages(architecture: str) -> Ensemble:
    """Stages as training might leave them: each on a smaller residual, with a threshold where there is one."""
    members: list[SAE] = []
    for number, scale in enumerate((1.0, 0.6, 0.4)):
        if architecture == "topk":
            members.append(TopKSAE(D, N, k=3, seed=number))
        elif architecture == "batchtopk":
            members.append(BatchTopKSAE(D, N, k=3, seed=number))
            members[-1].threshold.fill_(1.5 * scale)
        elif architecture == "jumprelu":
            members.append(JumpReLUSAE(D, N, threshold=1.5 * scale, seed=number))
        else:
            members.append(ReLUSAE(D, N, seed=number))
            members[-1].b_enc.data.fill_(-1.5 * scale)
    return Ensemble(members, wiring="residual").eval().requires_grad_(False)


def l0_by_member(ensemble: Ensemble, acts_BD: Tensor) -> list[float]:
    return [float((step.code.values_E != 0).sum()) / len(acts_BD) for step in ensemble.walk(acts_BD)]


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu", "relu"])
def test_random_stages_have_the_width_and_l0_of_the_trained_ones_and_the_best_gain(architecture: str) -> None:
    ensemble, acts_BD = stages(architecture), acts()
    control = random_stages(ensemble, acts_BD, seed=3)
    assert control.widths == ensemble.widths
    assert control[0] is ensemble[0]
    assert control.weights[0] == 1.0
    for number in range(1, J):
        assert not torch.equal(control[number].W_dec, ensemble[number].W_dec)
        assert torch.allclose(control[number].W_dec.norm(dim=1), torch.ones(N), atol=1e-5)
    # As many features are active as in the trained stage in its own place, not as it would have in this one.
    assert l0_by_member(control, acts_BD) == pytest.approx(l0_by_member(ensemble, acts_BD), abs=0.01)
    # The gain is that of least squares: any other one leaves more.
    left_BD = acts_BD.double()
    for number, gain in enumerate(control.weights):
        made_BD = control[number](left_BD.float()).double()
        if number:
            expected = float(np.linalg.lstsq(made_BD.reshape(-1, 1), left_BD.reshape(-1), rcond=None)[0][0])
            assert gain == pytest.approx(expected, rel=1e-4)
        left_BD = left_BD - gain * made_BD
    again = random_stages(ensemble, acts_BD, seed=3)
    assert again.weights == control.weights
    assert torch.equal(again.dictionary, control.dictionary)
    assert not torch.equal(random_stages(ensemble, acts_BD, seed=4).dictionary, control.dictionary)


def test_a_twin_without_gains_keeps_the_weights_and_nothing_made_has_no_gain() -> None:
    ensemble = stages("topk")
    assert random_twin(ensemble, acts(), kept=1).weights == ensemble.weights
    nothing = random_stages(ensemble, torch.zeros(5, D))
    assert nothing.weights == [1.0, 0.0, 0.0]


def test_the_figures_are_a_plain_float64_computation_on_held_out_activations() -> None:
    boosted, held_out, sample = stages("topk"), acts(1), acts(2)
    bag = Ensemble([boosted[0], boosted[1]], wiring="parallel")
    lone = Ensemble([boosted[0]], wiring="residual")
    assert [each.is_staged for each in (boosted, bag, lone)] == [True, False, False]
    given = {"bagged": bag, "boosted": boosted, "lone": lone}
    facts, controls = measure_controls(
        given, lambda start, stop: held_out[start:stop], TOKENS, lambda: sample, bootstrap=50, seed=5
    )
    assert list(facts["ensembles"]) == list(controls) == ["boosted"]
    assert (facts["fitted_on"], facts["tokens"]) == (TOKENS, TOKENS)
    own = facts["ensembles"]["boosted"]

    def explained(ensemble: Ensemble) -> float:
        error = (held_out - ensemble(held_out)).double().square().sum()
        return float(1 - error / (held_out - held_out.mean(dim=0)).double().square().sum())

    control = random_stages(boosted, sample, seed=5)
    assert own["explained_variance"] == pytest.approx(explained(control), abs=1e-5)
    assert own["trained"] == pytest.approx(explained(boosted), abs=1e-5)
    assert own["gains"] == control.weights[1:]
    assert [step["explained_variance"] for step in own["by_members"]] == pytest.approx(
        [explained(control.first(count)) for count in (1, 2, 3)], abs=1e-5
    )
    first = explained(boosted.first(1))
    expected = (explained(control) - first) / (explained(boosted) - first) if explained(boosted) > first else None
    assert own["untrained_share"] == (None if expected is None else pytest.approx(expected, abs=1e-4))
    low, high = own["trained_above"]
    assert low < explained(boosted) - explained(control) < high
    # Nothing is read where nothing is boosted.
    none, _ = measure_controls({"bagged": bag}, lambda *_: pytest.fail("read"), TOKENS, lambda: pytest.fail("sampled"))
    assert none["ensembles"] == {}


def test_the_share_that_needs_no_training() -> None:
    assert untrained_share(0.8341, 0.9631, 0.9709) == pytest.approx(0.943, abs=5e-4)
    assert untrained_share(0.8, 0.8, 0.9) == 0
    assert untrained_share(0.9, 0.95, 0.9) is None
    assert untrained_share(None, 0.9, 0.95) is None
