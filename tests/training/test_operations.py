"""Operations and bytes of training: counted by hand, in real steps and in real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from files import payload
from small_runs import BATCH, MEMBERS, STEPS, D, K, trained
from torch.utils._python_dispatch import TorchDispatchMode

from sae_core.activations.store.cache import CacheWriter
from sae_core.foundation.settings.run_settings import RunSettings, SAESettings
from sae_core.sae import ARCHITECTURES, make_sae
from sae_core.training.kernels.auxiliary import reconstruct_rest, revive
from sae_core.training.operations import EnsembleShape, SAEShape, ensemble_flops, residual_bytes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_are_those_of_an_sae(architecture: str) -> None:
    shape = SAEShape(architecture, 10, 30, 4)  # type: ignore[arg-type]
    settings = RunSettings.model_validate({"sae": {"architecture": architecture, "width": 30, "k": 4}})
    sae = make_sae(settings.sae, 10)
    assert shape.parameters == sum(parameter.numel() for parameter in sae.parameters())
    there = SAEShape.of_sae(sae)
    assert (there.step_flops, there.run_flops) == (shape.step_flops, shape.run_flops)


def test_operations_of_training_by_hand() -> None:
    sparse, dense = SAEShape("topk", 10, 100, 3), SAEShape("relu", 10, 100, 3)
    assert (sparse.step_flops, sparse.run_flops) == (2000 + 4 * 60, 2000 + 60)
    assert (dense.step_flops, dense.run_flops) == (5 * 2000, 2 * 2000)
    bag, stages = (EnsembleShape((sparse,) * 3, in_turn) for in_turn in (False, True))
    assert ensemble_flops(bag, tokens=7) == ensemble_flops(bag, tokens=7, boosting="cached", rows=5) == 3 * 7 * 2240
    # Stage 2 runs stage 1, stage 3 both; from disk, the first two run once over all rows.
    assert ensemble_flops(stages, tokens=7, boosting="recomputed", rows=5) == 3 * 7 * 2240 + 3 * 7 * 2060
    assert ensemble_flops(stages, tokens=7, boosting="cached", rows=5) == 3 * 7 * 2240 + 2 * 5 * 2060
    assert ensemble_flops(stages, tokens=7, boosting="pipelined", rows=5) == 3 * 7 * 2240
    # Two stages that are bags of three: the first bag runs once over all rows.
    bags = EnsembleShape((bag, bag), in_turn=True)
    assert ensemble_flops(bags, tokens=7, boosting="cached", rows=5) == 6 * 7 * 2240 + 5 * 3 * 2060
    # A bag of three such ensembles of three stages.
    assert ensemble_flops(EnsembleShape((stages,) * 3, in_turn=False), tokens=7, boosting="cached", rows=5) == 3 * (
        3 * 7 * 2240 + 2 * 5 * 2060
    )


@pytest.mark.parametrize("boosting", ["pipelined", "recomputed"])
def test_operations_are_those_that_a_boosted_training_records(tmp_path: Path, boosting: Any) -> None:
    training = {"boosting": boosting} if boosting == "pipelined" else {"residuals": boosting}
    run = trained(tmp_path / "run", methods=("boosted",), **training)
    shape = EnsembleShape((SAEShape("topk", D, 64, K),) * MEMBERS, in_turn=True)
    counted = ensemble_flops(shape, tokens=STEPS * BATCH, boosting=boosting, rows=1550)
    assert run.facts("train/boosted")["flops"] == counted


def test_residuals_take_the_bytes_that_are_counted(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "residual", d_in=10, dtype="float32", contents="x")
    writer.append(torch.randn(70, 10))
    writer.finish()
    assert 2 * payload(tmp_path / "residual" / "shard_00000.safetensors") == residual_bytes(70, 10)


class Products(TorchDispatchMode):
    """Adds up the operations of dense products; torch's own counter leaves out those that add to a table in place."""

    flops = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.split(".")[0]
        if name in ("mm", "addmm", "addmm_"):
            left, right = args[-2:]
            self.flops += 2 * left.shape[0] * left.shape[1] * right.shape[1]
        assert name not in ("bmm", "baddbmm", "einsum", "matmul")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_operations_of_help_for_dead_features_are_those_of_its_products(architecture: Any) -> None:
    sae, x_BD, dead_M = make_sae(SAESettings(architecture=architecture, width=60, k=3), 10), torch.randn(7, 10), 5
    with Products() as products, torch.no_grad():
        if sae.selects:
            reconstruct_rest(sae, x_BD, x_BD, torch.arange(dead_M), 0.1)
        else:
            revive(sae, x_BD, torch.arange(dead_M), 0.1)
    assert products.flops == 7 * SAEShape.of_sae(sae).help_flops(dead_M)
