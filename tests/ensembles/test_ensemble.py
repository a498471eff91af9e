"""The ensemble: Proposition 1, both exact identities, what each wiring encodes, and the folder it is kept in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae_core.ensembles.ensemble import Ensemble, Wiring, load_dictionaries, load_ensemble, save_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.settings.run_settings import Architecture, SAESettings
from sae_core.sae import ARCHITECTURES, SAE, BatchTopKSAE, make_sae

WIRINGS: tuple[Wiring, ...] = ("parallel", "residual")


def members(count: int, architecture: Architecture = "topk", widths: tuple[int, ...] = (30, 30, 30, 30)) -> list[SAE]:
    """SAEs with different weights and non-zero biases."""
    saes = []
    for number in range(count):
        settings = SAESettings(architecture=architecture, width=widths[number], k=3, initial_threshold=0.3)
        sae = make_sae(settings, 8, seed=number)
        generator = torch.Generator().manual_seed(50 + number)
        with torch.no_grad():
            sae.b_dec += torch.randn(8, generator=generator)
            sae.b_enc += 0.1 * torch.randn(widths[number], generator=generator)
            if isinstance(sae, BatchTopKSAE):
                sae.threshold.fill_(0.5)
        saes.append(sae)
    return saes


def activations(rows: int = 64) -> torch.Tensor:
    return 2 * torch.randn(rows, 8, generator=torch.Generator().manual_seed(9)) + 1


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("architecture", tuple(ARCHITECTURES))
def test_proposition_1(architecture: Architecture, wiring: Wiring) -> None:
    """The ensemble is one SAE with the concatenated coefficients and atoms and the weighted sum of biases."""
    ensemble = Ensemble(members(3, architecture, (30, 20, 10)), wiring=wiring, weights=[0.5, 1.5, 0.25]).eval().double()
    acts = activations().double()
    coefs = ensemble.encode(acts)
    assert coefs.shape == (64, 60)
    assert ensemble.offsets == [0, 30, 50, 60]
    bias = sum(weight * member.b_dec for weight, member in zip(ensemble.weights, ensemble, strict=True))
    whole = coefs @ torch.cat([member.W_dec for member in ensemble]) + bias
    torch.testing.assert_close(ensemble(acts), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ensemble.decode(coefs), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ensemble.dictionary.norm(dim=1), torch.ones(60).double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ensemble.b_dec, torch.as_tensor(bias))


def test_a_bagged_ensemble_decodes_to_the_mean_reconstruction() -> None:
    """The fault to catch: decoding with Σ b_dec instead of (1/J)·Σ b_dec."""
    saes = members(4)
    ensemble = Ensemble(saes, wiring="parallel").eval()
    acts = activations()
    mean = torch.stack([sae(acts) for sae in saes]).mean(dim=0)
    assert ensemble.weights == [0.25] * 4
    torch.testing.assert_close(ensemble.decode(ensemble.encode(acts)), mean, rtol=1e-5, atol=1e-5)


def test_a_boosted_member_encodes_the_residual() -> None:
    saes = members(3)
    ensemble = Ensemble(saes, wiring="residual").eval()
    acts = activations()
    residual, coefs = acts, []
    for sae in saes:
        coefs.append(sae.encode(residual))
        residual = residual - sae.decode(coefs[-1])
    torch.testing.assert_close(ensemble.encode(acts), torch.cat(coefs, dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ensemble(acts), acts - residual, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", tuple(ARCHITECTURES))
def test_bagging_identity(architecture: Architecture) -> None:
    """‖a − ḡ‖² = mean_j ‖a − g_j‖² − mean_j ‖g_j − ḡ‖²."""
    ensemble = Ensemble(members(4, architecture), wiring="parallel").eval()
    acts = activations()
    whole = ensemble(acts)
    each = torch.stack([member(acts) for member in ensemble])
    error = (acts - whole).square().sum()
    right = (acts - each).square().sum(dim=(1, 2)).mean() - (each - whole).square().sum(dim=(1, 2)).mean()
    assert abs(error - right) / error < 1e-5
    assert (each - whole).abs().max() > 0.1


@pytest.mark.parametrize("architecture", tuple(ARCHITECTURES))
def test_boosting_identity(architecture: Architecture) -> None:
    """E‖r_{J+1}‖² = E‖a‖²·Π ρ_j, with ρ_j the share of the energy that stage j leaves."""
    ensemble = Ensemble(members(3, architecture), wiring="residual").eval()
    acts = activations()
    product, before = 1.0, acts
    for member in ensemble:
        after = before - member(before)
        product *= float(after.square().mean() / before.square().mean())
        before = after
    error = float((acts - ensemble(acts)).square().mean())
    assert error == pytest.approx(float(acts.square().mean()) * product, rel=1e-5)


def test_the_first_members_are_an_ensemble_of_their_own() -> None:
    acts = activations()
    saes = members(4)
    bagged = Ensemble(saes, wiring="parallel").eval().first(2)
    torch.testing.assert_close(bagged(acts), (saes[0](acts) + saes[1](acts)) / 2, rtol=1e-5, atol=1e-5)
    boosted = Ensemble(saes, wiring="residual").eval().first(2)
    first = saes[0](acts)
    torch.testing.assert_close(boosted(acts), first + saes[1](acts - first), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="4 members"):
        Ensemble(saes, wiring="parallel").first(5)


def test_members_must_fit_together() -> None:
    with pytest.raises(UserError, match="at least one"):
        Ensemble([], wiring="parallel")
    with pytest.raises(UserError, match=r"\[8, 9\]"):
        Ensemble([*members(1), make_sae(SAESettings(width=4, k=2), 9)], wiring="parallel")
    with pytest.raises(UserError, match="3 weights"):
        Ensemble(members(2), wiring="parallel", weights=[1, 2, 3])


@pytest.mark.parametrize("architecture", tuple(ARCHITECTURES))
def test_a_saved_ensemble_comes_back_bit_by_bit(architecture: Architecture, tmp_path: Path) -> None:
    ensemble = Ensemble(members(3, architecture), wiring="residual", weights=[1, 0.5, 2], method="mine").eval()
    folder = EnsembleFolder(tmp_path / "mine")
    save_ensemble(ensemble, folder)
    again = load_ensemble(folder)
    assert (again.wiring, again.weights, again.method) == ("residual", [1.0, 0.5, 2.0], "mine")
    assert not again.training
    for name, tensor in ensemble.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert torch.equal(ensemble.encode(activations()), again.encode(activations()))


def test_a_damaged_folder_is_named_in_one_sentence(tmp_path: Path) -> None:
    folder = EnsembleFolder(tmp_path / "bagged")
    with pytest.raises(UserError, match=r"ensemble\.json does not exist"):
        load_ensemble(folder)
    save_ensemble(Ensemble(members(2), wiring="parallel"), folder)
    weights = folder.member(1) / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(UserError, match=r"member_01.*damaged"):
        load_ensemble(folder)
    folder.manifest.write_text("[]")
    with pytest.raises(UserError, match=r"ensemble\.json is damaged"):
        load_ensemble(folder)


def test_dictionaries_are_read_without_the_rest_and_faults_are_named(tmp_path: Path) -> None:
    ensemble = Ensemble([make_sae(SAESettings(width=12, k=2), 6, seed=seed) for seed in range(3)], wiring="parallel")
    folder = EnsembleFolder(tmp_path / "bagged")
    save_ensemble(ensemble, folder)
    found = load_dictionaries(folder)
    assert len(found) == 3
    assert all(torch.equal(atoms, member.W_dec) for atoms, member in zip(found, ensemble, strict=True))
    weights = next(folder.member(1).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"sae_weights\.safetensors is damaged"):
        load_dictionaries(folder)
    weights.unlink()
    with pytest.raises(UserError, match=r"sae_weights\.safetensors does not exist"):
        load_dictionaries(folder)
    folder.manifest.write_text("[]")
    with pytest.raises(UserError, match=r"ensemble\.json is damaged"):
        load_dictionaries(folder)
