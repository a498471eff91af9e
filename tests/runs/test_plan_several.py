"""Plans for several processes, layers and different members, for help for dead features, and the plan's remarks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call, refused
from plans import PYTHIA, planned, planned_stages, rates_of_one
from torch.utils._python_dispatch import TorchDispatchMode

from sae_core.activations.origins.language_model.model.finding_shape import find_shape
from sae_core.foundation.settings.reading import load_settings
from sae_core.foundation.settings.run_settings import ModelSettings, SAESettings
from sae_core.runs.planning import calibration
from sae_core.runs.planning.calibration import calibrate
from sae_core.runs.planning.machines import MACHINES, Machine
from sae_core.runs.planning.rates import Group, named_rates, needed_steps, trained_groups
from sae_core.runs.planning.stages import Work
from sae_core.runs.planning.train_stages import help_flops
from sae_core.sae import ARCHITECTURES, make_sae
from sae_core.training.distribution import part_of
from sae_core.training.kernels.auxiliary import reconstruct_rest, revive
from sae_core.training.operations import SAEShape
from sae_core.training.processes import Processes
from sae_core.training.stage import Plan

PYTHIA_ALL_LAYERS = (*PYTHIA[:2], *PYTHIA[4:])


def processes_of(size: int) -> Processes:
    processes = Processes()
    processes.size = size
    return processes


def test_members_of_several_processes_are_grouped_as_training_will() -> None:
    settings = load_settings(overrides={"training.members": 4, "sae.width": 100, "sae.k": 8})

    def groups(method: Any, processes: int, **training: Any) -> list[tuple[Any, ...]]:
        changed = settings.model_copy(update={"training": settings.training.model_copy(update=training)})
        found = trained_groups(changed, method, processes)
        together, pipelined = (
            (4 if method == "bagged" or training.get("boosting") else 1),
            bool(training.get("boosting")),
        )
        part = part_of(range(together), processes_of(processes), batch_size=512, pipelined=pipelined)
        assert {group.split for group in found} == {part.splits}
        assert {group.members for group in found} == {part.side_by_side}
        return [tuple(group) for group in found]

    assert groups("bagged", 1) == [(4, 100, None, False)]
    assert groups("bagged", 3) == [(2, 100, None, False)]
    assert groups("bagged", 5) == [(4, 100, None, True)]
    assert groups("single", 1) == [(1, 100, None, False)]
    assert groups("expanded", 2) == [(1, 400, None, True)]
    assert groups("boosted", 2, boosting="pipelined") == [(4, 100, None, True)]
    assert groups("boosted", 1, member_k=(8, 4, 2, 8)) == [(1, 100, k, False) for k in (None, 4, 2, None)]
    assert needed_steps(settings, 2) == [(1, 100, None, True), (2, 100, None, False), (1, 400, None, True)]


def test_processes_share_members_tokens_of_the_index_and_recomputing() -> None:
    shape = find_shape(ModelSettings())
    one, two = (planned_stages(shape, processes=size, training__residuals="recomputed") for size in (1, 2))
    # By these rates a step of two members takes as long as one of four; the first process runs the model.
    assert two["train bagged"].seconds == one["train bagged"].seconds == 100
    assert two["read activations"] == one["read activations"]
    recomputed = (1 + 2 + 3) * 5000 * 1e-3
    assert one["train boosted"].seconds == pytest.approx(300 + recomputed)
    assert two["train boosted"].seconds == pytest.approx(300 + recomputed / 2)
    assert two["index"].seconds == pytest.approx(one["index"].seconds / 2)
    assert two["match"] == one["match"]
    assert {name: stage.flops for name, stage in two.items()} == {name: stage.flops for name, stage in one.items()}
    assert two["train bagged"].memory < one["train bagged"].memory  # weights of half the members


def test_steps_by_public_figures_are_those_of_the_share_of_a_process() -> None:
    overrides = {"training.members": 8, "sae.width": 16128, "sae.k": 128, "training.batch_size": 8192}
    settings = load_settings(overrides=overrides)
    shape, machine = find_shape(ModelSettings(name="EleutherAI/pythia-160m")), MACHINES["H100"]
    alone, four, sixteen = (named_rates(machine, settings, shape, processes=size).step for size in (1, 4, 16))
    assert four[Group(2, 16128)] == pytest.approx(alone[Group(8, 16128)] / 4)
    # A sixteenth of the rows, but all weights and dense tables.
    assert alone[Group(8, 16128)] / 16 < sixteen[Group(8, 16128, split=True)] < alone[Group(8, 16128)]
    lower = settings.model_copy(update={"training": settings.training.model_copy(update={"member_k": (16,) * 8})})
    assert named_rates(machine, lower, shape).step[Group(8, 16128)] < alone[Group(8, 16128)]


def test_runs_of_several_layers_read_the_text_once_and_do_the_rest_one_after_another() -> None:
    shape = find_shape(ModelSettings())
    one, three = (planned_stages(shape, places=places) for places in (1, 3))
    assert three["gather text"].seconds == one["gather text"].seconds
    assert three["read activations"].seconds == one["read activations"].seconds  # writing takes nothing here
    assert three["read activations"].disk == 3 * one["read activations"].disk
    assert three["read activations"].memory > one["read activations"].memory
    for name in ("train bagged", "train boosted", "train expanded", "index", "match", "map", "evaluate loss"):
        for what in ("seconds", "flops", "disk"):
            assert getattr(three[name], what) == pytest.approx(3 * getattr(one[name], what)), name
        assert three[name].temporary == one[name].temporary
        assert three[name].memory == one[name].memory


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


def test_help_for_dead_features_is_counted_from_when_there_can_be_some() -> None:
    settings = load_settings(
        overrides={"training.tokens": 512_000, "training.batch_size": 512, "sae.dead_after_tokens": 12_000}
    )
    rates = rates_of_one(settings)
    work = Work(settings, find_shape(settings.model), Machine("one", gpu=False, disk=10**12), rates)
    # Four members side by side, three further stages, one SAE of four times the width; the single one is a copy.
    assert help_flops(work, share=0.5) == (4 + 3 + 4) * 500_000 * 10 * 192 * 1024
    without = load_settings(overrides={"sae.aux_coefficient": 0})
    assert help_flops(replace(work, settings=without), share=0.5) == 0


def test_a_calibration_for_processes_measures_parts_of_batches(
    tmp_path: Path, small_model: Path, labelled_texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = {
        **{"text.source": str(labelled_texts), "model.name": str(small_model), "model.layer": 1, "sae.width": 300},
        **{"sae.k": 4, "training.members": 2, "training.batch_size": 128, "training.member_k": [4, 9]},
    }
    settings = load_settings(overrides=overrides | {"training.methods": ["bagged", "boosted"]})
    seen: set[tuple[int, bool, int]] = set()
    real = calibration.train_stage

    def watched(trainers: Any, target: Any, plan: Plan, **options: Any) -> Any:
        seen.add((trainers[0].sae.k, trainers[0].compiled is not None, plan.batch_size))
        return real(trainers, target, plan, **options)

    monkeypatch.setattr(calibration, "train_stage", watched)
    shape = find_shape(settings.model)
    rates = calibrate(settings, shape, device="cpu", folder=tmp_path / "run", seconds=0.3, processes=2)
    assert set(rates.step) == {Group(1, 300), Group(1, 300, split=True), Group(1, 300, 9, split=True)}
    assert seen == {(4, True, 128), (4, False, 64), (9, False, 64)}


def test_what_is_planned_for_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    def said(*words: object) -> str:
        done = call("plan", tmp_path / "run", *words, "--machine", "H100")
        assert done.code == 0, done.err
        return done.err

    plain = said(*PYTHIA)
    assert "If 10% of the features were dead all the time, helping them (AuxK) would add" in plain
    assert "processes" not in plain
    together = said(*PYTHIA, "--processes", 8, "--set", "training.member_k=[1,2,3,4,5,6,7,8]")
    assert "the first of 8 processes" in together
    assert "what processes send each other and wait for" in together
    assert "what other k do to indexing" in together
    assert "AuxK" not in said(*PYTHIA, "--set", "sae.aux_coefficient=0")
    assert "how many features will be active" in said("--architecture", "relu")
    layers = said(*PYTHIA_ALL_LAYERS, "--layers", "2,8,4", "--set", "data.storage=stream")
    assert "All figures are those of 3 runs together" in layers
    assert "lower layers are reached sooner" in layers
    assert not list(tmp_path.iterdir())


def test_a_plan_for_several_layers_reads_up_to_the_last_one_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    one = planned(run, *PYTHIA, "--machine", "H100")
    three = planned(run, *PYTHIA_ALL_LAYERS, "--layers", "2,8,4", "--machine", "H100")
    assert (one["runs"], three["runs"]) == (1, 3)
    reading = [next(stage for stage in plan["stages"] if stage["name"] == "read activations") for plan in (one, three)]
    assert reading[1]["flops"] == reading[0]["flops"]
    assert reading[1]["disk"] == 3 * reading[0]["disk"]
    assert three["help_for_dead"]["flops"] == 3 * one["help_for_dead"]["flops"]
    refused(call("plan", run, "--layers", "1,2", "--processes", 2, "--machine", "H100"), "Several processes train one")
    refused(call("plan", run, "--layers", "1,99", "--machine", "H100"), "model.layer must be 0 to 5, not 99")
    refused(call("plan", run, "--layers", "1,x", "--machine", "H100"), "is not of the form")
    assert not run.exists()
