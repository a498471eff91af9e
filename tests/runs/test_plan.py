"""Planning: counted work against closed forms, real models, real steps and the files of a real run."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call, refused
from models import FAMILIES, build_model
from plans import PYTHIA, payload, planned, planned_stages, rates_of_one
from small_runs import BATCH, MEMBERS, STEPS, D, K, new_run, trained
from torch.utils.flop_counter import FlopCounterMode

from sae_core.activations.origins.language_model.model.finding_shape import find_shape, shape_of
from sae_core.activations.origins.language_model.model.shapes import KNOWN, ModelShape
from sae_core.activations.store.cache import ActivationCache, CacheWriter
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json
from sae_core.foundation.methods import BY_DEFAULT, EVERY
from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings
from sae_core.foundation.settings.run_settings import ModelSettings, RunSettings
from sae_core.runs.planning import model_speed
from sae_core.runs.planning.calibration import calibrate
from sae_core.runs.planning.machines import MACHINES, Machine, find_machine
from sae_core.runs.planning.plan import make_plan
from sae_core.runs.planning.rates import Group, named_rates, needed_steps
from sae_core.runs.planning.stages import Work, cache_bytes
from sae_core.runs.planning.train_stages import stages_of_training
from sae_core.sae import ARCHITECTURES, make_sae
from sae_core.training.checkpoint import Progressed, save_checkpoint
from sae_core.training.distribution import Part
from sae_core.training.kernels import workspace
from sae_core.training.kernels.workspace import shared_workspace
from sae_core.training.members import make_trainer
from sae_core.training.operations import (
    EnsembleShape,
    SAEShape,
    checkpoint_bytes,
    ensemble_flops,
    kept_residuals,
    residual_bytes,
)
from sae_core.training.residuals import Residuals
from sae_core.training.stage import Plan

GEMMA = ("--model", "google/gemma-2-2b", "--layer", 12, *PYTHIA[4:])


def test_operations_of_a_small_transformer_by_hand() -> None:
    shape = ModelShape("llama", 3, 8, heads=2, kv_heads=1, head_dim=4, mlp=16, mlp_matrices=3, vocabulary=50)
    # Queries and output 8·8 each, keys and values 8·4 each, three MLP matrices 8·16 each.
    assert shape.block_weights == 64 + 64 + 32 + 32 + 3 * 128 == 576
    assert shape.weights() == 400 + 3 * 576
    # 5 tokens: twice the weights each; scores and weighted sums 2·5·5·4 each, for two heads.
    assert shape.forward_flops(5, blocks=2) == 2 * (2 * 5 * 576 + 2 * 2 * (2 * 5 * 5 * 4))


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_that_torch_counts_in_a_real_model(family: str) -> None:
    model = build_model(family)
    model.set_attn_implementation("eager")  # of fused attention torch's counter knows nothing on a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.base_model(input_ids=torch.arange(20)[None])
    assert counter.get_total_flops() == shape_of(model.config).forward_flops(20, blocks=3)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("EleutherAI/pythia-70m", 70.4),
        ("EleutherAI/pythia-160m-deduped", 162.3),
        ("gpt2", 124.4),
        ("google/gemma-2-2b", 2614),
    ],
)
def test_known_shapes_have_as_many_parameters_as_published(name: str, millions: float) -> None:
    shape = find_shape(ModelSettings(name=name, layer=2))
    assert shape.weights() / 1e6 == pytest.approx(millions, rel=0.01)  # vectors and positions are left out


def test_shape_of_the_embedded_model_and_of_a_layer_too_high() -> None:
    assert find_shape(ModelSettings()) == ModelShape(
        "llama", 6, 192, heads=3, kv_heads=3, head_dim=64, mlp=512, mlp_matrices=3, vocabulary=10240, context=512
    )
    with pytest.raises(UserError, match=r"'gpt2' has 12 layers, so model\.layer must be 0 to 11, not 12\."):
        find_shape(ModelSettings(name="gpt2", layer=12))
    assert len({shape.d_model for shape in KNOWN.values()}) == 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_and_state_are_those_of_a_trainer(architecture: str) -> None:
    shape = SAEShape(architecture, 10, 30, 4)  # type: ignore[arg-type]
    settings = RunSettings.model_validate({"sae": {"architecture": architecture, "width": 30, "k": 4}})
    sae = make_sae(settings.sae, 10)
    assert shape.parameters == sum(parameter.numel() for parameter in sae.parameters())
    there = SAEShape.of_sae(sae)
    assert (there.step_flops, there.run_flops) == (shape.step_flops, shape.run_flops)
    plan = Plan("x", 10, 16, 1, 0, torch.device("cpu"))
    trainer = make_trainer(settings, torch.zeros(10), plan, member=0, width=30)
    trainer.step(torch.randn(16, 10))
    state = [tensor for tensor in trainer.state().values() if tensor.ndim]  # counters of steps are scalars
    assert shape.state_bytes == sum(tensor.numel() * tensor.element_size() for tensor in state)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_buffers_of_the_fast_step_are_those_of_its_workspace(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Trainers of other tests that are not collected yet hold a workspace whose buffers were made for them.
    monkeypatch.setattr(workspace, "alive", weakref.WeakValueDictionary())
    settings = RunSettings.model_validate(
        {"sae": {"width": 600, "k": 9}, "training": {"kernels": "fast", "precision": precision}}
    )
    plan = Plan("x", 10, 128, 1, 0, torch.device("cpu"))
    trainer = make_trainer(settings, torch.zeros(40), plan, member=0, width=600)
    outcome = trainer.step(torch.randn(128, 40))
    expected = SAEShape("topk", 40, 600, 9).fast_step_bytes(128, low_precision=precision == "bfloat16")
    assert shared_workspace().size() + 4 * outcome.recon_BD.numel() == expected


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


def test_operations_and_files_are_those_of_a_real_run(trained_run: Run) -> None:
    settings, corpus = trained_run.settings, trained_run.facts("corpus")
    for method in BY_DEFAULT:
        shape = EnsembleShape.planned(EVERY[method].layout(settings), corpus["d_in"])
        members: Any = shape.members
        facts, folder = trained_run.facts(f"train/{method}"), trained_run.ensemble(method)
        boosting: Any = "cached" if method == "boosted" else None
        rows = corpus["train_tokens"]
        assert facts["flops"] == ensemble_flops(shape, tokens=facts["tokens"], boosting=boosting, rows=rows), method
        for number, member in enumerate(members):
            assert payload(next(folder.member(number).glob("*.safetensors"))) == member.weight_bytes
        features = sum(member.width for member in members)
        entries = trained_run.facts(f"index/{method}")["entries"]
        assert payload(folder.index) == 8 * (features + 1) + 8 * entries
        # TopK keeps k of them, unless fewer are positive.
        assert entries <= corpus["tokens"] * sum(member.k for member in members)
    rows = {"train": corpus["train_tokens"], "evaluation": corpus["evaluation_tokens"]}
    for name, count in rows.items():
        shards = list((trained_run.activations / name).glob("*.safetensors"))
        assert sum(map(payload, shards)) == cache_bytes(count, corpus["d_in"], "float16", shards=0)
        written = sum(shard.stat().st_size for shard in shards)
        assert written == pytest.approx(cache_bytes(count, corpus["d_in"], "float16", shards=len(shards)), rel=0.01)


def test_checkpoint_and_residuals_take_the_bytes_that_are_counted(tmp_path: Path) -> None:
    settings = RunSettings.model_validate({"sae": {"width": 30, "k": 4}})
    plan = Plan("x", 10, 16, 1, 0, torch.device("cpu"))
    trainers = [make_trainer(settings, torch.zeros(10), plan, member=number, width=30) for number in range(2)]
    for trainer in trainers:
        trainer.step(torch.randn(16, 10))
    save_checkpoint(tmp_path / "checkpoint.safetensors", trainers, Progressed(1, 1.0), Part(range(2)))
    extra = payload(tmp_path / "checkpoint.safetensors") - checkpoint_bytes([SAEShape("topk", 10, 30, 4)] * 2)
    assert 0 < extra < 200  # counters of steps, seconds, a fingerprint
    writer = CacheWriter(tmp_path / "residual", d_in=10, dtype="float32", contents="x")
    writer.append(torch.randn(70, 10))
    writer.finish()
    assert 2 * payload(tmp_path / "residual" / "shard_00000.safetensors") == residual_bytes(70, 10)


@pytest.mark.parametrize("rows", [400, 700, 800, 6000])
@pytest.mark.parametrize("wanted", ["auto", "cached", "recomputed"])
def test_residuals_are_kept_where_training_keeps_them(tmp_path: Path, rows: int, wanted: Any) -> None:
    writer = CacheWriter(tmp_path / "cache", d_in=D, dtype="float32", contents="x")
    writer.append(torch.randn(rows, D))
    source = writer.finish()
    assert isinstance(source, ActivationCache)
    settings = new_run(tmp_path / "run", residuals=wanted, tokens=1000).settings
    plan = Plan.of("boosted", source, settings.training, torch.device("cpu"), MEMBERS)
    decided = Residuals(source, plan, wanted=wanted, folder=tmp_path / "checkpoint").cached
    assert kept_residuals(settings, rows=rows, steps=plan.steps, batch=plan.batch_size, free=None) == decided


def seconds_of(shape: ModelShape, **options: Any) -> dict[str, float]:
    """Planned seconds of the stages of training."""
    return {name: stage.seconds for name, stage in planned_stages(shape, **options).items() if stage.part == "train"}


def test_seconds_are_counted_work_times_rates() -> None:
    shape = find_shape(ModelSettings())
    # 100 steps; 1,100 tokens through the model; three residuals of 1,000 rows.
    one = {"gather text": 1.0, "read activations": 1.1, "train bagged": 100.0, "train single": 0.0}
    assert seconds_of(shape) == pytest.approx({**one, "train boosted": 300 + 3, "train expanded": 100})
    assert seconds_of(shape, training__methods=["boosted"])["train boosted"] == pytest.approx(400 + 3)
    assert seconds_of(shape, training__methods=["single"])["train single"] == 100
    # Stages 2, 3 and 4 run one, two and three stages for each of 5,000 tokens.
    recomputed = seconds_of(shape, training__residuals="recomputed")["train boosted"]
    assert recomputed == pytest.approx(300 + (1 + 2 + 3) * 5000 * 1e-3)
    assert seconds_of(shape, training__boosting="pipelined")["train boosted"] == 100
    everything = seconds_of(shape, training__methods=[*BY_DEFAULT, "expanded_l0"])
    assert everything["train expanded_l0"] == everything["train expanded"] == 100
    streamed = seconds_of(shape, data__storage="stream")
    assert streamed["read activations"] == pytest.approx(0.2)
    assert streamed["train bagged"] == pytest.approx(100 + 5000 * 1e-3)
    assert streamed["train boosted"] == pytest.approx(300 + 6 * 5000 * 1e-3 + 3 * 5000 * 1e-3)


def test_the_second_expanded_sae_is_planned_with_the_k_of_all_members() -> None:
    settings = load_settings(overrides={"training.methods": ["expanded", "expanded_l0"], "training.members": 3})
    assert needed_steps(settings) == [Group(1, 3 * 2048), Group(1, 3 * 2048, 3 * 16)]
    shape = find_shape(settings.model)
    work = Work(settings, shape, Machine("one", gpu=False, disk=10**12), rates_of_one(settings))
    narrow, wide = (stage.flops / work.trained_tokens for stage in stages_of_training(work)[-2:])
    assert wide - narrow == 8 * shape.d_model * (2 * 16)
    steps = named_rates(find_machine("H100"), settings, shape).step
    assert steps[Group(1, 3 * 2048)] < steps[Group(1, 3 * 2048, 3 * 16)]


def test_a_cache_larger_than_memory_is_dealt_on_disk_as_training_will_decide() -> None:
    settings = load_settings(overrides={"data.train_tokens": 10_000_000, "training.methods": ["single"]})
    shape = find_shape(settings.model)
    large = 10_000_000 * 192 * 2

    def dealt(memory: int, disk: int, **data: Any) -> list[int]:
        changed = settings.model_copy(update={"data": settings.data.model_copy(update=data)})
        machine = Machine("one", gpu=False, memory=memory, disk=disk)
        stages = stages_of_training(Work(changed, shape, machine, rates_of_one(changed)))
        # The piles are there as long as anything is trained, and gone afterwards.
        copies = [stage.temporary for stage in stages if stage.name == "shuffle on disk"]
        assert all(stage.disk == 0 for stage in stages if stage.name == "shuffle on disk")
        assert all(stage.temporary >= sum(copies) for stage in stages if stage.name == "train single")
        return copies

    assert dealt(large - 1, 10 * large) == [cache_bytes(10_000_000, 192, "float16", shards=1)]
    assert dealt(large, 10 * large) == dealt(large - 1, large) == []
    assert dealt(large - 1, 10 * large, shuffle="memory") == dealt(large - 1, 10 * large, storage="stream") == []
    assert len(dealt(large, 10 * large, shuffle="disk")) == 1


def test_plan_of_eight_members_on_pythia_has_the_magnitudes_counted_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned("run", *PYTHIA, "--machine", "H100")
    stages = {stage["name"]: stage for stage in plan["stages"]}
    # 16,128 atoms of 768 dimensions, twice, in eight members.
    assert plan["training"]["parameters"]["bagged"] == pytest.approx(8 * 2 * 768 * 16128, rel=1e-3)
    # One product and four sums over 128 rows for each of 8 × 800M tokens: 1.6e17.
    assert stages["train bagged"]["flops"] == pytest.approx(8 * 8e8 * (2 * 768 * 16128 + 8 * 768 * 128), rel=1e-3)
    # 9 blocks of 12·768² weights: 1.0e17, attention on top.
    assert 2 * 9 * 12 * 768**2 * 8e8 < stages["read activations"]["flops"] < 1.2 * 2 * 9 * 12 * 768**2 * 8e8
    assert stages["read activations"]["disk"] == pytest.approx(8e8 * 768 * 2, rel=1e-3)
    assert stages["train single"]["seconds"] == 0 < stages["train boosted"]["seconds"]
    # At its peak rate the card would take 165 s for the products of the bag; it takes at most some hours.
    assert 165 < stages["train bagged"]["seconds"] < 12 * 3600
    assert 8 * 12 * 2 * 768 * 16128 < stages["train bagged"]["gpu_memory"] < 20e9
    assert plan["fits"] == {"memory": None, "gpu_memory": True, "disk": None}
    assert list(tmp_path.iterdir()) == []


def test_totals_add_up_and_gemma_is_planned_without_the_hub(tmp_path: Path) -> None:
    plan = planned(tmp_path / "run", *GEMMA, "--machine", "a100 40gb", "--set", "data.storage=stream")
    assert set(plan) == {
        *("machine", "measured", "processes", "runs", "model", "training", "stages", "totals", "fits", "remedies"),
        *("remarks", "help_for_dead", "noise_null", "not_counted"),
    }
    stages = plan["stages"]
    for name, part in (("train", [s for s in stages if s["part"] == "train"]), ("all", stages)):
        total = plan["totals"][name]
        for key in ("seconds", "flops", "disk"):
            assert total[key] == pytest.approx(sum(stage[key] for stage in part))
        for key in ("memory", "mapped", "gpu_memory", "temporary"):
            assert total[key] == max(stage[key] for stage in part)
    # 13 of 26 blocks, 77.9M weights each, for 800M tokens and every pass: bagged 1, boosted 7 more, expanded 1.
    passes = 2 * 13 * 77.9e6 * 8e8
    assert 9 * passes < sum(stage["flops"] for stage in stages) < 13 * passes
    assert next(s for s in stages if s["name"] == "read activations")["disk"] < 1e9
    assert plan["measured"] is False
    assert "factor of two" in plan["remarks"][0]
    assert not (tmp_path / "run").exists()


def test_every_machine_is_found_by_a_loose_name_and_has_figures() -> None:
    assert find_machine("rtx 4090") == find_machine("RTX_4090") == MACHINES["RTX-4090"]
    for machine in MACHINES.values():
        assert min(machine.float32, machine.bfloat16, machine.bandwidth, machine.memory or 0) > 0


def test_what_does_not_fit_has_remedies(tmp_path: Path) -> None:
    settings = load_settings(overrides={"model.name": "google/gemma-2-2b", "sae.width": 131072})
    plan = make_plan(settings, machine="L4", folder=tmp_path)
    assert plan.fits["gpu_memory"] is False
    assert any("--width" in remedy for remedy in plan.remedies)
    printed = call("plan", "--machine", "L4", "--model", "google/gemma-2-2b", "--width", 131072)
    assert printed.code == 0
    assert "IT DOES NOT FIT" in printed.err
    assert "train expanded" in printed.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--machine", "abacus"), "no machine called 'abacus'; known: H200, H100"),
        (("--machine", "H100", "--model", "nobody/nothing"), "cannot be reached"),
        (("--machine", "H100", "--model", "no such folder"), "neither a folder nor a hub id"),
        (("--machine", "H100", "--layer", 6), "has 6 layers"),
        (("--machine", "H100", "--width", 0), "sae.width"),
        (("--text", "missing.csv"), "missing.csv does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(call("plan", "run", *words), sentence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu"])
def test_a_calibration_measures_everything_and_leaves_nothing(
    tmp_path: Path, small_model: Path, labelled_texts: Path, architecture: str
) -> None:
    overrides = {
        **{"text.source": str(labelled_texts), "model.name": str(small_model), "model.layer": 1, "sae.width": 300},
        **{"sae.k": 4, "sae.architecture": architecture, "training.members": 2, "training.batch_size": 128},
    }
    settings = load_settings(overrides=overrides)
    shape = find_shape(settings.model)
    rates = calibrate(settings, shape, device="cpu", folder=tmp_path / "run", seconds=0.5)
    assert rates.measured
    assert set(rates.step) == {Group(2, 300), Group(1, 300), Group(1, 600)}
    assert set(rates.run) == set(rates.index) == {300, 600}
    each = [*rates.step.values(), *rates.run.values(), *rates.index.values()]
    each += [rates.forward, rates.store, rates.gather, rates.flop, rates.assign]
    assert all(0 < seconds < 10 for seconds in each)
    assert 2 < rates.chars_per_token < 8
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_measured_on_batches_that_are_spread_over_all() -> None:
    assert [model_speed._spread(count) for count in (1, 2, 3)] == [[0], [1, 0], [2, 1, 0]]
    for count in (5, 64, 100):
        order = model_speed._spread(count)
        assert sorted(order) == list(range(count))
        few = sorted(order[:5])
        gaps = [b - a for a, b in zip([0, *few], [*few, count], strict=True)]
        assert max(gaps) <= count / 2


def test_a_model_that_is_not_here_is_measured_by_its_shape(tmp_path: Path, labelled_texts: Path) -> None:
    overrides = {"model.name": "EleutherAI/pythia-70m", "text.source": str(labelled_texts), "sae.width": 256}
    settings = load_settings(overrides=overrides | {"training.methods": ["single"], "training.batch_size": 64})
    shape = find_shape(settings.model)
    rates = calibrate(settings, shape, device="cpu", folder=tmp_path / "run", seconds=0.5)
    assert rates.forward > 0
    assert any("not here; its speed is that of 2 blocks" in remark for remark in rates.remarks)


@pytest.mark.slow
def test_plan_of_a_run_that_is_there_takes_its_settings(trained_run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained_run.path.rglob("*")}
    plan = planned(trained_run.path)
    assert {path: path.stat().st_mtime_ns for path in trained_run.path.rglob("*")} == before
    assert plan["training"]["members"] == read_json(trained_run.manifest_path)["settings"]["training"]["members"]
    assert plan["measured"] is True
    assert plan["fits"] == {"memory": True, "gpu_memory": None, "disk": True}
