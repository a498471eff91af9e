"""One training step against torch's own Adam: schedules, states, residuals, and no waiting for the device."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from host_reads import HostReads
from plain_training import PlainTrainer
from random_saes import ALL, random_sae
from sources import TensorSource, sparse_data
from torch import Tensor

from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import Architecture, RunSettings, SAESettings, TrainingSettings
from sae_core.sae import SAE, make_sae
from sae_core.training import prefetch
from sae_core.training.members import make_trainer, member_seed
from sae_core.training.schedule import learning_rate, sparsity_weight
from sae_core.training.stage import Plan, Target, train_stage
from sae_core.training.step import REFRESH, Trainer, assert_members_differ

D, N, K = 16, 64, 3


def small_settings(architecture: Architecture, **options: Any) -> SAESettings:
    """Settings under which features die within REFRESH steps of 32 activations."""
    defaults = {"width": N, "k": K, "sparsity": 0.2, "dead_after_tokens": 300, "bandwidth": 0.2}
    return SAESettings(architecture=architecture, **{**defaults, **options})


def member(settings: SAESettings, seed: int) -> SAE:
    """An SAE eight of whose features begin too low to be active."""
    sae = make_sae(settings, D, seed=seed)
    with torch.no_grad():
        sae.b_enc[:8] -= 6.0
    return sae


def batches(rows: int = 32, seed: int = 0) -> Iterator[Tensor]:
    x_RD = sparse_data(1000, d_in=D, seed=5)
    x_RD = x_RD / x_RD.square().mean().sqrt()
    return TensorSource(x_RD).batches(batch_size=rows, seed=seed)


@pytest.mark.parametrize("architecture", ALL)
def test_steps_are_those_of_plain_adam(architecture: Architecture) -> None:
    settings = small_settings(architecture, initial_threshold=0.3)
    nested = type(make_sae(settings, D)).loss is not SAE.loss  # a sum of several errors, with larger gradients
    training = TrainingSettings(learning_rate=0.01, clip=0.7 if nested else 0.15, beta1=0.8)
    quick = Trainer(member(settings, 1).double(), settings, training, steps=60)
    plain = PlainTrainer(member(settings, 1).double().train(), settings, training, steps=60)
    helped = 0
    for x_BD in islice(batches(), 60):
        loss = quick.step(x_BD.double()).loss.item()
        assert loss == pytest.approx(plain.step(x_BD.double()), rel=1e-8)
        helped += len(plain.dead)
        assert quick.learning_rate == plain.adam.param_groups[0]["lr"]
    for name, tensor in plain.sae.state_dict().items():
        torch.testing.assert_close(quick.sae.state_dict()[name], tensor, rtol=1e-6, atol=1e-8, msg=name)
    assert quick.idle_N.tolist() == plain.idle
    assert helped > 0, "no feature was ever dead"
    assert min(plain.norms) < training.clip < max(plain.norms), "clipping made no difference, or all of it"


@pytest.mark.parametrize("architecture", ALL)
def test_atoms_keep_unit_norm_and_gradients_neither_lengthen_them_nor_exceed_the_clip(
    architecture: Architecture,
) -> None:
    settings = small_settings(architecture)
    trainer = Trainer(make_sae(settings, D, seed=1), settings, TrainingSettings(clip=0.02), steps=30)
    for x_BD in islice(batches(), 30):
        before_ND = trainer.sae.W_dec.detach().clone()
        trainer.step(x_BD)
        gradients = [parameter.grad for parameter in trainer.sae.parameters() if parameter.grad is not None]
        assert len(gradients) == len(list(trainer.sae.parameters()))
        assert trainer.sae.W_dec.grad is not None
        assert (trainer.sae.W_dec.grad * before_ND).sum(dim=1).abs().max() < 1e-7
        assert trainer.sae.W_dec.grad.abs().max() > 1e-5
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        assert norm <= 0.02 * (1 + 1e-5)
        torch.testing.assert_close(trainer.sae.W_dec.norm(dim=1), torch.ones(N), rtol=1e-6, atol=1e-6)
        assert not torch.equal(trainer.sae.W_dec, before_ND)


def test_learning_rate_rises_stays_and_falls() -> None:
    training = TrainingSettings(learning_rate=1.0, warmup=0.05, decay=0.2)
    rates = [learning_rate(step, 100, training) for step in range(100)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates[5:81] == [1.0] * 76
    assert rates[80:] == pytest.approx([left / 20 for left in range(20, 0, -1)])
    assert min(rates) > 0


@pytest.mark.parametrize(("warmup", "decay"), [(0.0, 0.0), (0.05, 0.2), (1.0, 1.0)])
def test_schedules_of_one_step_runs_have_full_weight(warmup: float, decay: float) -> None:
    training = TrainingSettings(learning_rate=0.5, warmup=warmup, decay=decay, sparsity_warmup=warmup)
    assert learning_rate(0, 1, training) == 0.5
    assert sparsity_weight(0, 1, training) == 1.0


def test_schedules_without_and_with_nothing_but_warmup() -> None:
    constant = TrainingSettings(learning_rate=0.5, warmup=0, decay=0, sparsity_warmup=0)
    assert {learning_rate(step, 7, constant) for step in range(7)} == {0.5}
    assert {sparsity_weight(step, 7, constant) for step in range(7)} == {1.0}
    rising = TrainingSettings(learning_rate=1.0, warmup=1, decay=0, sparsity_warmup=1)
    assert [learning_rate(step, 4, rising) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [sparsity_weight(step, 4, rising) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_sparsity_rises_to_its_full_weight_and_stays() -> None:
    training = TrainingSettings(sparsity_warmup=0.2)
    weights = [sparsity_weight(step, 50, training) for step in range(50)]
    assert weights[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert set(weights[9:]) == {1.0}


def test_a_run_of_one_step_trains() -> None:
    settings = small_settings("topk")
    trainer = Trainer(make_sae(settings, D), settings, TrainingSettings(), steps=1)
    before = trainer.sae.W_dec.detach().clone()
    trainer.step(next(batches()))
    assert not torch.equal(trainer.sae.W_dec, before)
    assert trainer.learning_rate == 1e-3


def test_a_jumprelu_threshold_stays_float32_and_moves() -> None:
    """In half precision steps of 1e-3 on a threshold near 0.3 would be rounded away."""
    settings = small_settings("jumprelu", initial_threshold=0.3)
    trainer = Trainer(make_sae(settings, D), settings, TrainingSettings(), steps=50, low_precision=True)
    for x_BD in islice(batches(), 50):
        trainer.step(x_BD)
    threshold_N = trainer.sae.state_dict()["threshold"]
    assert threshold_N.dtype == torch.float32
    assert (threshold_N - 0.3).abs().median() > 3e-3


def full_state(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.state().items()}


@pytest.mark.parametrize("architecture", ALL)
def test_a_loaded_state_goes_on_bit_by_bit(architecture: Architecture) -> None:
    settings, training = small_settings(architecture), TrainingSettings(learning_rate=0.01)
    through = Trainer(member(settings, 1), settings, training, steps=3 * REFRESH)
    drawn = list(islice(batches(), 3 * REFRESH))
    for x_BD in drawn[: 2 * REFRESH]:
        through.step(x_BD)
    assert through.dead_N.any(), "the list of dead features would not matter"
    state = full_state(through)
    resumed = Trainer(make_sae(settings, D, seed=2), settings, training, steps=3 * REFRESH)
    resumed.load_state(state)
    for x_BD in drawn[2 * REFRESH :]:
        outcomes = through.step(x_BD), resumed.step(x_BD)
        assert torch.equal(outcomes[0].loss, outcomes[1].loss)
    expected, got = full_state(through), full_state(resumed)
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, got[name]), name
    assert resumed.done == 3 * REFRESH
    assert resumed.learning_rate == through.learning_rate


def test_a_state_holds_everything_there_is() -> None:
    settings = small_settings("jumprelu")
    trainer = Trainer(make_sae(settings, D), settings, TrainingSettings(), steps=9)
    trainer.step(next(batches()))
    names = ("W_dec", "W_enc", "b_enc", "b_dec", "threshold")
    expected = {f"adam.{moment}.{name}" for moment in ("step", "exp_avg", "exp_avg_sq") for name in names}
    assert trainer.state().keys() == expected | {f"sae.{name}" for name in names} | {"idle", "done"}


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")
def test_a_loaded_state_lies_where_the_parameters_do() -> None:
    """A checkpoint is read on the host, yet fused Adam wants all it keeps beside its parameter, in the same layout."""
    settings = small_settings("topk")
    written = Trainer(make_sae(settings, D), settings, TrainingSettings(), steps=9)
    written.step(next(batches()))
    elsewhere = Trainer(make_sae(settings, D).to("meta"), settings, TrainingSettings(), steps=9)
    elsewhere.load_state({name: tensor.contiguous() for name, tensor in written.state().items()})
    parameters = dict(elsewhere.sae.named_parameters())
    for name, tensor in elsewhere.state().items():
        if name.startswith("adam."):
            assert tensor.device.type == "meta", name
            parameter = parameters[name.split(".")[2]]
            assert tensor.dim() == 0 or tensor.stride() == parameter.stride(), name


def test_the_state_of_another_sae_is_refused() -> None:
    settings = small_settings("topk")
    state = Trainer(make_sae(settings, D), settings, TrainingSettings(), steps=9).state()
    wider = Trainer(make_sae(settings, D, width=N + 1), settings, TrainingSettings(), steps=9)
    with pytest.raises(UserError, match="another SAE"):
        wider.load_state(state)
    jumprelu = Trainer(make_sae(small_settings("jumprelu"), D), settings, TrainingSettings(), steps=9)
    with pytest.raises(UserError, match="another SAE"):
        jumprelu.load_state(state)


def test_members_must_differ_before_training() -> None:
    saes = [make_sae(small_settings("topk"), D, seed=seed) for seed in (1, 2, 1)]
    assert_members_differ(saes[:2])
    with pytest.raises(RuntimeError, match="Members 0 and 2"):
        assert_members_differ(saes)


def test_seeds_are_applied_to_members() -> None:
    seeds = [member_seed(seed, member) for seed in range(20) for member in range(20)]
    assert len(set(seeds)) == 400
    plan = Plan("bagged", steps=5, batch_size=4, stages=1, seed=0, device=torch.device("cpu"))
    settings = [RunSettings(sae=small_settings("topk"), training=TrainingSettings(seed=seed)) for seed in (0, 1)]
    saes = [make_trainer(run, torch.ones(D), plan, member=j, width=N).sae for run in settings for j in range(3)]
    for one, other in combinations(saes, 2):
        assert not torch.isclose(one.W_dec, other.W_dec, rtol=0, atol=1e-7).all(dim=1).any()
        assert torch.equal(one.b_dec, torch.ones(D))
        assert torch.equal(one.b_dec, other.b_dec)


def test_a_boosted_stage_trains_on_the_residual_auxk_included(tmp_path: Path) -> None:
    """The same as training by hand on scale·(a − frozen(a)), with dead features that AuxK helps."""
    source, settings, training = TensorSource(sparse_data(800, d_in=D)), small_settings("topk"), TrainingSettings()
    frozen = Ensemble([random_sae("topk", d_in=D, width=30, seed=seed) for seed in (4, 5)], wiring="residual").eval()
    plan = Plan("boosted", steps=60, batch_size=32, stages=3, seed=7, device=torch.device("cpu"))
    stage, by_hand = (Trainer(make_sae(settings, D, seed=1), settings, training, steps=60) for _ in range(2))
    target = Target(source, torch.zeros(D), 0.4, stage=2, frozen=frozen)
    curves = train_stage([stage], target, plan, checkpoint=tmp_path / "checkpoint")
    losses, dead = [], []
    for acts_BD in islice(source.batches(batch_size=32, seed=7), 60):
        residual_BD = 0.4 * (acts_BD - sum(step.part_BD for step in frozen.walk(acts_BD)))
        losses.append(by_hand.step(residual_BD.detach()).loss.item())
        dead.append(float(by_hand.dead_N.float().mean()))
    for name, tensor in by_hand.sae.state_dict().items():
        torch.testing.assert_close(stage.sae.state_dict()[name], tensor, rtol=1e-4, atol=1e-4)
    assert curves["loss"].tolist() == pytest.approx(
        [sum(losses[:25]) / 25, sum(losses[25:50]) / 25, sum(losses[50:]) / 10]
    )
    assert dead[24] > 0, "AuxK was never used"
    assert curves["dead"].tolist() == pytest.approx([dead[24], dead[49], dead[59]])


@pytest.mark.parametrize("low_precision", [False, True])
@pytest.mark.parametrize("architecture", ALL)
def test_a_step_never_waits_for_the_device_between_refreshes(architecture: Architecture, low_precision: bool) -> None:
    settings = small_settings(architecture)
    trainer = Trainer(
        make_sae(settings, D), settings, TrainingSettings(), steps=2 * REFRESH, low_precision=low_precision
    )
    waits = []
    for x_BD in islice(batches(), 2 * REFRESH):
        with HostReads() as reads:
            trainer.step(x_BD)
        waits.append(len(reads.names))
    assert [step for step, count in enumerate(waits) if count] == [0, REFRESH]


@pytest.mark.parametrize("members", [1, 2])
def test_a_stage_never_waits_for_the_device_between_refreshes(
    members: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one batch to the next: residuals of frozen members, steps of one or two members, curves."""
    # Each batch is made when its step asks for it, so that what was read before it belongs to the steps before.
    monkeypatch.setattr(prefetch, "batches_ahead", lambda batches, device: 0)
    settings = small_settings("topk")
    trainers = [
        Trainer(make_sae(settings, D, seed=seed), settings, TrainingSettings(), steps=60) for seed in range(members)
    ]
    frozen = Ensemble([random_sae("topk", d_in=D, seed=9)], wiring="residual").eval()
    plan = Plan("boosted", steps=60, batch_size=32, stages=2, seed=0, device=torch.device("cpu"))
    counts: list[int] = []
    with HostReads() as reads:

        class Watched(TensorSource):
            def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
                for x_BD in super().batches(batch_size=batch_size, seed=seed, first_step=first_step):
                    counts.append(len(reads.names))
                    yield x_BD

        source = Watched(sparse_data(800, d_in=D))
        reads.names.clear()
        target = Target(source, torch.zeros(D), 0.3, stage=1, frozen=frozen)
        train_stage(trainers, target, plan, checkpoint=tmp_path / "checkpoint")
    counts.append(len(reads.names))
    assert [step for step in range(60) if counts[step + 1] > counts[step]] == [0, 24, 25, 49, 50, 59]
