"""Architectures of other people: compiled code never replaces an architecture that it does not compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import assert_same_training, data, trained
from torch import Tensor

from sae_core.analysis.index.activation_index import ActivationIndex, build_index
from sae_core.analysis.reconstruction.reconstruction import measure_reconstruction
from sae_core.analysis.shared.pooling import random_dictionary
from sae_core.ensembles.ensemble import load_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.architectures import DECLARED, fixes_l0, listed, read_room
from sae_core.foundation.settings.reading import parse_settings
from sae_core.foundation.settings.run_settings import SAESettings, TrainingSettings
from sae_core.sae import ARCHITECTURES, SAE, BatchTopKSAE, JumpReLUSAE, Kernel, ReLUSAE, TopKSAE, make_sae
from sae_core.sae.formats.saelens import load_sae, save_sae
from sae_core.training.gradients import compute
from sae_core.training.kernels import use_fast
from sae_core.training.kernels.frozen import FrozenEncoder
from sae_core.training.step import Trainer


class HalvedTopK(TopKSAE):
    """TopK that gives half of each preactivation it chooses; overrides `activate` and nothing else."""

    def activate(self, pre_BN: Tensor) -> Tensor:
        return super().activate(pre_BN) / 2


class Strongest(SAE):
    """A wholly new one: a quarter of the features of a token, those nearest to the largest, each less that bound."""

    architecture = "strongest"

    def activate(self, pre_BN: Tensor) -> Tensor:
        bound_B1 = pre_BN.kthvalue(pre_BN.shape[1] * 3 // 4, dim=1, keepdim=True).values
        return (pre_BN - bound_B1.clamp_min(0.0)).relu()


# It is an architecture by being defined; the tests of others try all that there are.
STRONGEST = DECLARED.pop(ARCHITECTURES.pop("strongest").architecture)


class SlowJump(JumpReLUSAE):
    """JumpReLU that opens at twice its threshold."""

    def activate(self, pre_BN: Tensor) -> Tensor:
        return pre_BN * (pre_BN > 2 * self.threshold)


class SmallBatchTopK(BatchTopKSAE):
    """BatchTopK that halves what it chooses."""

    def activate(self, pre_BN: Tensor) -> Tensor:
        return super().activate(pre_BN) / 2


class SoftReLU(ReLUSAE):
    """ReLU that takes a step off each preactivation; overrides the dense encoding as a whole."""

    def encode(self, acts_BD: Tensor) -> Tensor:
        return (self.pre_activations(acts_BD) - 0.5).relu()


class Renamed(TopKSAE):
    """The same mathematics, and says so."""

    kernel = Kernel.TOP_OF_ROW


OWN = [HalvedTopK, Strongest, SlowJump, SmallBatchTopK, SoftReLU]


def make(kind: type[SAE], **shape: int) -> SAE:
    options: dict[str, Any] = {"k": 3} if issubclass(kind, TopKSAE | BatchTopKSAE) else {}
    sae = kind(shape.get("d_in", 24), shape.get("width", 64), **options, seed=3)
    with torch.no_grad():
        sae.b_dec.copy_(data().mean(dim=0))
        if isinstance(sae, BatchTopKSAE):
            sae.threshold.fill_(0.4)
    return sae


@pytest.mark.parametrize("kind", OWN)
def test_no_compiled_code_serves_a_class_that_does_not_declare_it(kind: type[SAE]) -> None:
    sae = make(kind)
    assert kind.kernel is None
    assert not use_fast("auto", sae)
    with pytest.raises(UserError, match=f"none of them is declared to compute what {kind.__name__} does"):
        use_fast("fast", sae)


def test_a_subclass_that_declares_it_again_is_served() -> None:
    assert use_fast("auto", make(Renamed))
    assert Renamed.selects  # it overrides nothing


@pytest.mark.parametrize("kind", OWN)
def test_all_ways_to_encode_and_decode_are_the_same(kind: type[SAE]) -> None:
    sae, acts_BD = make(kind).eval(), data()[:200]
    with torch.no_grad():
        coefs_BN = sae.encode(acts_BD)
        assert bool((coefs_BN != 0).any())
        assert torch.equal(FrozenEncoder()(sae, acts_BD).dense(), coefs_BN)
        assert torch.equal(sae.encode_sparse(acts_BD).dense(), coefs_BN)
        for recon_BD in (sae(acts_BD), FrozenEncoder().reconstruct(sae, acts_BD)):
            torch.testing.assert_close(recon_BD, coefs_BN @ sae.W_dec + sae.b_dec)


@pytest.mark.parametrize("kind", [HalvedTopK, Strongest, SmallBatchTopK, SoftReLU])
def test_gradients_are_those_of_what_it_computes(kind: type[SAE]) -> None:
    sae, acts_BD = make(kind).train(), data()[:50]
    outcome = compute(sae, acts_BD, torch.zeros(0, dtype=torch.int64), sparsity=0.0, aux_coefficient=0.0)
    loss = (sae.decode(sae.encode(acts_BD)) - acts_BD).square().mean()
    torch.testing.assert_close(outcome.loss, loss.detach())
    expected = torch.autograd.grad(loss, list(sae.parameters()))
    for (name, _), gradient in zip(sae.named_parameters(), expected, strict=True):
        torch.testing.assert_close(outcome.gradients[name], gradient, rtol=1e-4, atol=1e-7)


def test_training_lowers_the_error_of_what_it_computes() -> None:
    sae = make(HalvedTopK)
    training = TrainingSettings(learning_rate=3e-3, warmup=0, decay=0)
    assert not use_fast("auto", sae)
    trainer = Trainer(sae, SAESettings(width=64, k=3), training, steps=200)
    errors = [float(trainer.step(data()[:500]).squared_error) for _ in range(200)]
    assert errors[-1] < 0.5 * errors[0]


@pytest.mark.parametrize("kind", [HalvedTopK, Strongest])
def test_runs_are_trained_indexed_and_evaluated_as_their_plain_twins(
    kind: type[SAE], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES, kind.architecture, kind)
    monkeypatch.setitem(DECLARED, kind.architecture, DECLARED.get(kind.architecture, STRONGEST))
    sae = {"architecture": kind.architecture}
    options = {"members": 2, "methods": ("single", "bagged", "boosted")}
    run = trained(tmp_path / "auto", sae, kernels="auto", **options)
    assert_same_training(run, trained(tmp_path / "plain", sae, kernels="plain", **options))

    ensemble, acts_TD = load_ensemble(run.ensemble("boosted")), data()[:600]
    assert all(type(member) is kind for member in ensemble)
    build_index(ensemble, lambda start, stop: acts_TD[start:stop], len(acts_TD), run.ensemble("boosted").index)
    index = ActivationIndex.open(run.ensemble("boosted").index)
    with torch.no_grad():
        coefs_TM = ensemble.encode(acts_TD)
        for feature in range(ensemble.offsets[-1]):
            positions, values = index.feature(feature)
            expected_T = torch.zeros(len(acts_TD))
            expected_T[torch.tensor(positions).long()] = torch.tensor(values).float()
            torch.testing.assert_close(expected_T, coefs_TM[:, feature], rtol=2e-3, atol=1e-6)
    found, _ = measure_reconstruction({"boosted": ensemble}, lambda start, stop: acts_TD[start:stop], len(acts_TD))
    error = float((ensemble(acts_TD) - acts_TD).detach().square().sum(dim=1).mean())
    assert found["ensembles"]["boosted"]["mse"] == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("kind", OWN)
def test_a_saved_one_comes_back_as_it_was(kind: type[SAE], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sae = make(kind).eval()
    if kind is not Strongest:
        monkeypatch.setattr(kind, "architecture", kind.__name__.lower())
    monkeypatch.setitem(ARCHITECTURES, kind.architecture, kind)
    save_sae(sae, tmp_path)
    again = load_sae(tmp_path)
    assert type(again) is kind
    assert torch.equal(again(data()), sae(data()))
    # To SAELens it is what SAELens does not know, and not what it is derived from.
    assert f'"architecture": "{kind.__name__}"' in (tmp_path / "cfg.json").read_text()
    monkeypatch.delitem(ARCHITECTURES, kind.architecture)
    with pytest.raises(UserError, match=f"names the architecture '{kind.architecture}'"):
        load_sae(tmp_path)


class Saturating(ReLUSAE):
    """Not homogeneous, so that it cannot be made to work on activations of another scale."""

    def activate(self, pre_BN: Tensor) -> Tensor:
        return pre_BN.relu().tanh()


def test_one_that_does_not_scale_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "relu", Saturating)
    with pytest.raises(UserError, match="fold_input_scale does not make it work"):
        trained(tmp_path / "run", {"architecture": "relu"}, methods=("single",))


def test_its_random_twin_is_as_active() -> None:
    sae, acts_BD = make(SoftReLU).eval(), data()[:300]
    twin = random_dictionary(sae, acts_BD, seed=1)
    active, wanted = (int((each.encode(acts_BD) != 0).sum()) for each in (twin, sae))
    assert active == pytest.approx(wanted, rel=0.01)


def test_seeds_that_torch_would_cut_are_refused() -> None:
    assert torch.equal(torch.rand(3, generator=torch.Generator().manual_seed(5)),
                       torch.rand(3, generator=torch.Generator().manual_seed(5 + 2**32)))  # fmt: skip
    for seed in (2**32, -1):
        with pytest.raises(UserError, match="must lie between 0 and 4294967295"):
            ReLUSAE(4, 8, seed=seed)


def test_settings_read_from_the_files_what_the_classes_say() -> None:
    found = read_room()
    assert found.keys() == ARCHITECTURES.keys() == DECLARED.keys() >= {"relu", "topk", "batchtopk", "jumprelu"}
    for name, kind in ARCHITECTURES.items():
        declared = found[name]
        assert kind.architecture == name
        assert (declared.brief, declared.settings) == (kind.brief, kind.settings)
        assert (declared.own_settings, declared) == (kind.own_settings, DECLARED[name])
        assert set(kind.own_settings) <= set(kind.settings) <= set(SAESettings.model_fields)
    assert fixes_l0("topk")
    assert not fixes_l0("jumprelu")
    assert not fixes_l0("unknown")


def test_a_class_that_names_itself_is_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (ARCHITECTURES, DECLARED):
        monkeypatch.setitem(registry, "soft", None)  # taken out again afterwards
        registry.pop("soft")
    with pytest.raises(UserError, match="not usable: it should be batchtopk"):
        parse_settings({"sae": {"architecture": "soft"}}, origin="a test")

    class Soft(TopKSAE):
        architecture = "soft"

        def activate(self, pre_BN: Tensor) -> Tensor:
            return super().activate(pre_BN) / 2

    settings = parse_settings({"sae": {"architecture": "soft", "k": 3, "width": 8}}, origin="a test")
    assert type(make_sae(settings.sae, 4)) is Soft
    assert "soft" in listed("k")
    with pytest.raises(UserError, match=r"The architecture soft is Soft; rename that of Other"):
        type("Other", (ReLUSAE,), {"architecture": "soft"})
    assert ARCHITECTURES["soft"] is Soft


def test_help_for_dead_features_by_autograd_is_the_one_by_hand() -> None:
    """Where k is fixed, AuxK has the same loss and gradients either way, but for b_dec, constant by hand."""
    by_hand, dense = TopKSAE(24, 64, k=3, seed=1).train(), HalvedTopK(24, 64, k=3, seed=1).train()
    dead_M, x_BD = torch.arange(20, 60), data()[:50]
    for sae in (by_hand, dense):
        none = compute(sae, x_BD, dead_M[:0], sparsity=0.0, aux_coefficient=0.5)
        helped = compute(sae, x_BD, dead_M, sparsity=0.0, aux_coefficient=0.5)
        left_BD, pre_BM = (x_BD - none.recon_BD).detach(), sae.pre_activations(x_BD)[:, dead_M]
        best = pre_BM.detach().relu().topk(12, dim=1)
        coefs_BM = torch.zeros_like(pre_BM).scatter(1, best.indices, pre_BM.relu().gather(1, best.indices))
        loss = 0.5 * (coefs_BM @ sae.W_dec[dead_M] - left_BD).square().mean()
        torch.testing.assert_close(helped.loss - none.loss, loss.detach())
        names = ("W_enc", "W_dec", "b_enc")
        expected = torch.autograd.grad(loss, [getattr(sae, name) for name in names])
        for name, gradient in zip(names, expected, strict=True):
            torch.testing.assert_close(helped.gradients[name] - none.gradients[name], gradient, rtol=1e-3, atol=1e-6)
