"""Members with their own settings: each is trained as it would be alone, and recorded with its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from eventful import failing_at
from small_runs import BATCH, STEPS, D, assert_same_training, curves, data, ensembles, new_run, trained
from sources import TensorSource

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json
from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings
from sae_core.foundation.settings.run_settings import Architecture
from sae_core.sae import SAE
from sae_core.training.train import train_run

SEEDS, RATES = (0, 7, 0), (3e-3, 3e-3, 1e-3)
SPARSE = {"bandwidth": 0.1, "initial_threshold": 0.1}
MIXTURES: list[tuple[Architecture, str, tuple[float, ...]]] = [
    ("topk", "k", (3, 5, 2)),
    ("batchtopk", "k", (3, 5, 2)),
    ("relu", "sparsity", (0.05, 0.2, 0.4)),
    ("jumprelu", "sparsity", (0.05, 0.2, 0.4)),
]


def mixture(**values: Any) -> dict[str, Any]:
    return {f"member_{name}": value for name, value in values.items()}


def assert_same(one: SAE, other: SAE) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize("kernels", ["plain", "fast"])
@pytest.mark.parametrize(("architecture", "name", "values"), MIXTURES)
def test_each_member_is_the_one_trained_alone(
    architecture: Architecture, name: str, values: tuple[float, ...], kernels: str, tmp_path: Path
) -> None:
    """Alone: as a single SAE where its seed is the run's, else as a bag of one, which takes the order from the run."""
    sae = {"architecture": architecture, **SPARSE}
    own = mixture(seeds=SEEDS, learning_rates=RATES, **{name: values})
    bag = ensembles(trained(tmp_path / "bag", sae, methods=["bagged"], kernels=kernels, **own))["bagged"]
    for number, (seed, rate, value) in enumerate(zip(SEEDS, RATES, values, strict=True)):
        method = "bagged" if seed else "single"
        options: dict[str, Any] = {"methods": [method], "members": 1, "learning_rate": rate, "kernels": kernels}
        if seed:
            options["member_seeds"] = (seed,)
        alone = trained(tmp_path / str(number), {**sae, name: value}, **options)
        assert_same(bag[number], ensembles(alone)[method][0])
    assert not torch.equal(bag[0].W_dec, bag[2].W_dec)


@pytest.mark.parametrize("boosting", ["sequential", "pipelined"])
def test_stages_have_them_too_and_only_what_is_the_same_is_shared(boosting: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"boosting": boosting, "methods": ["single", "bagged", "boosted"]}
    run = trained(tmp_path / "run", **options, **mixture(k=(5, 2, 4)))
    by_name = ensembles(run)
    for name, ks in (("single", [3]), ("bagged", [5, 2, 4]), ("boosted", [5, 2, 4])):
        assert [member.k for member in by_name[name]] == ks
        configs = [read_json(run.ensemble(name).member(number) / "cfg.json") for number in range(len(ks))]
        assert [config["k"] for config in configs] == ks
    assert_same(by_name["bagged"][0], by_name["boosted"][0])
    assert_same(by_name["single"][0], ensembles(trained(tmp_path / "single", methods=["single"]))["single"][0])
    codes = by_name["boosted"].encode(data()).view(len(data()), 3, -1)
    assert (codes > 0).sum(dim=2).amax(dim=0).tolist() == [5, 2, 4]
    assert run.facts("train/single")["shared_seconds"] == 0
    shared = run.facts("train/boosted")["shared_seconds"]
    assert (shared > 0) == (boosting == "sequential")


def test_a_stage_learns_with_its_own_settings(tmp_path: Path) -> None:
    """A boosted run in which the last stage alone differs is the same up to there, and then another."""
    one, other = (
        ensembles(trained(tmp_path / str(rate), methods=["boosted"], **mixture(learning_rates=(3e-3, 3e-3, rate))))
        for rate in (3e-3, 1e-3)
    )
    same = [torch.equal(*(each["boosted"][stage].W_dec for each in (one, other))) for stage in range(3)]
    assert same == [True, True, False]


def test_operations_count_the_k_of_each_member(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", methods=["bagged", "boosted"], **mixture(k=(5, 2, 4)))
    product, entry, tokens = 2 * D * 64, 2 * D, STEPS * BATCH
    training = 3 * product + 4 * (5 + 2 + 4) * entry
    assert run.facts("train/bagged")["flops"] == tokens * training
    again = 2 * (product + 5 * entry) + product + 2 * entry
    assert run.facts("train/boosted")["flops"] == tokens * (training + again)


def test_curves_show_the_rate_and_l0_of_each_member(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", methods=["bagged"], **mixture(k=(5, 2, 4), learning_rates=(1e-3, 2e-3, 4e-3)))
    table = curves(run, "bagged")
    first = table[table["step"] == 25].set_index("member")
    assert first["learning_rate"].tolist() == [1e-3, 2e-3, 4e-3]
    assert first["l0"].tolist() == pytest.approx([5, 2, 4], abs=0.5)


def test_an_interrupted_mixture_goes_on_bit_by_bit_but_not_as_another(tmp_path: Path) -> None:
    own: dict[str, Any] = {"methods": ["bagged"], **mixture(k=(5, 2, 4), seeds=(1, 2, 3))}
    run = new_run(tmp_path / "run", **own)
    with pytest.raises(ZeroDivisionError):
        train_run(run, source=failing_at(40, ZeroDivisionError), checkpoint_seconds=0.0)
    for changed in (mixture(k=(5, 2, 3)), mixture(seeds=(1, 2, 4)), mixture(learning_rates=(1e-3, 2e-3, 3e-3))):
        other = Run(run.path, new_run(tmp_path / str(changed), **{**own, **changed}).settings)
        with pytest.raises(UserError, match="other settings"):
            train_run(other, source=TensorSource(data()))
    source = TensorSource(data())
    train_run(run, source=source)
    assert source.handed_out == STEPS - 25
    assert_same_training(run, trained(tmp_path / "whole", **own))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"training.member_k": [4, 8, 16]}, ["training.member_k holds 3 values", "training.members is 4"]),
        ({"training.member_seeds": [1]}, ["training.member_seeds holds 1 values", "4"]),
        ({"training.member_k": [4, 8, 16, 4096]}, ["training.member_k holds 4096", "2048"]),
        ({"training.member_k": [4, 0, 16, 8]}, ["training.member_k.1", "0"]),
        ({"training.member_sparsity": [1, 2, 3, 4]}, ["training.member_sparsity", "topk has no sae.sparsity"]),
        ({"training.member_k": [1, 2, 3, 4], "sae.architecture": "relu"}, ["relu has no sae.k"]),
        ({"training.member_seeds": [1, 2, 1, 3]}, ["members 0 and 2", "same seed 1", "training.member_seeds"]),
    ],
)
def test_wrong_mixtures_are_refused_in_one_sentence(overrides: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_settings(overrides=overrides)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_equal_seeds_are_allowed_where_members_differ_otherwise() -> None:
    settings = load_settings(overrides={"training.member_seeds": [1, 1, 1, 1], "training.member_k": [4, 8, 16, 32]})
    assert settings.training.member_k == (4, 8, 16, 32)
