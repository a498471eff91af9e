"""Planning: sizes by hand, declared costs beside a recorded run, real trials and files, and the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call, refused
from files import payload

from sae_core.activations.origins.language_model.model.finding_shape import find_shape
from sae_core.activations.origins.language_model.model.shapes import ModelShape
from sae_core.activations.stages import ACTIVATIONS
from sae_core.analysis.atoms.dictionary import CONNECTIVITY_TOKENS
from sae_core.analysis.atoms.stage import DICTIONARY, ENERGY
from sae_core.analysis.atoms.stage_energy import SAMPLE
from sae_core.analysis.cost.cost import TIMED_TOKENS
from sae_core.analysis.cost.stage import COST
from sae_core.analysis.index.stage import INDEX, TOGETHER, TOKENS
from sae_core.analysis.stages import STAGES
from sae_core.foundation.methods import BY_DEFAULT
from sae_core.foundation.run import Run
from sae_core.foundation.settings.presets import preset_settings
from sae_core.foundation.settings.reading import load_settings
from sae_core.foundation.stages import Sizes, Stage
from sae_core.runs.planning.machines import MACHINES, Machine, find_machine
from sae_core.runs.planning.plan import RunPlan, make_plan, planned_rows
from sae_core.runs.planning.trial import entries, fit, measure
from sae_core.runs.planning.work import Work
from sae_core.training.declared import TRAIN
from sae_core.training.distribution import part_of
from sae_core.training.operations import SAEShape
from sae_core.training.processes import Processes

PYTHIA = (
    *("--model", "EleutherAI/pythia-160m", "--layer", 8, "--width", 16128, "--k", 128, "--members", 8),
    *("--tokens", 800_000_000, "--set", "data.train_tokens=800000000", "--set", "training.batch_size=8192"),
)
SHAPE = ModelShape("llama", 2, 10, heads=1, kv_heads=1, head_dim=10, mlp=20, mlp_matrices=3, vocabulary=50)
SMALL = {
    **{"model.layer": 1, "data.train_tokens": 1000, "data.index_tokens": 400, "data.evaluation_tokens": 100},
    **{"sae.width": 100, "sae.k": 3, "training.members": 4, "training.tokens": 5000, "training.batch_size": 50},
}


def work_of(*, processes: int = 1, places: int = 1, machine: Machine = MACHINES["laptop"], **overrides: Any) -> Work:
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return Work(load_settings(overrides=SMALL | given), SHAPE, machine, processes, places, length=10.0)


def planned(*words: object) -> dict[str, Any]:
    done = call("plan", *words, "--json")
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def test_sizes_of_ensembles_by_hand() -> None:
    work = work_of()
    bagged, boosted, expanded = (work.sizes(name) for name in ("bagged", "boosted", "expanded"))
    assert (bagged.widths, bagged.active, bagged.d_in) == ((100,) * 4, (3,) * 4, 10)
    assert (expanded.widths, expanded.active) == ((400,), (3,))
    assert (bagged.staged, boosted.staged) == (False, True)
    assert (bagged.trained, bagged.steps, boosted.steps) == (5000, 100, 75)  # stage 1 is the bag's first member
    assert (bagged.read, bagged.indexed, bagged.evaluated) == (1100, 400, 100)
    assert work_of(data__storage="stream").sizes("bagged").read == 500
    # Nine in ten of 110 texts of ten tokens are found, of which three quarters are read.
    assert bagged.detected == round(0.9 * 110 * 0.75 * 10)
    assert work_of(text__source="x.txt").sizes("bagged").detected == 0
    # A product with 10 × 100 numbers and three rows of ten: 2,060; training needs four sums, 2,240.
    assert bagged.run_flops == 4 * 2060
    assert bagged.train_flops == 4 * 5000 * 2240
    # Three stages are trained, and three run once over all rows for the residuals that are kept.
    assert boosted.train_flops == 3 * 5000 * 2240 + 3 * 1000 * 2060
    assert work_of(training__residuals="recomputed").sizes("boosted").train_flops == (
        3 * 5000 * 2240 + (1 + 2 + 3) * 5000 * 2060
    )
    # A stream reads each token again in every pass: one of the bag, and three of further stages.
    token = work.sizes("bagged").token_flops
    assert work_of(data__storage="stream").sizes("bagged").train_flops == 4 * 5000 * 2240 + 5000 * token
    assert work_of(data__storage="stream").sizes("boosted").train_flops == (
        3 * 5000 * 2240 + (1 + 2 + 3) * 5000 * 2060 + 3 * 5000 * token
    )
    single = work.sizes("single")
    assert (single.train_flops, single.trained, single.steps) == (0, 0, 0)
    assert work_of(training__methods=["single"]).sizes("single").train_flops == 5000 * 2240


def test_an_ensemble_of_ensembles_has_the_sizes_of_its_members() -> None:
    work = work_of(training__inner=2, training__methods=["bag_of_boosted", "boosted_bags"])
    bag, stages = work.sizes("bag_of_boosted"), work.sizes("boosted_bags")
    assert bag.widths == stages.widths == (200, 200)
    assert bag.active == (6, 6)
    assert bag.cells == 200 * 200
    # In each of two members, and in the ensemble of two bags, what stands first runs once over 1,000 rows.
    assert bag.train_flops == 4 * 5000 * 2240 + 2 * 1000 * 2060
    assert stages.train_flops == 4 * 5000 * 2240 + 1000 * 2 * 2060 - work.copies_first("boosted_bags") * 5000 * 2240
    assert [len(work.together(name).members) for name in ("bag_of_boosted", "boosted_bags")] == [2, 2]
    two = replace(work, processes=2)
    assert (two.splits("bag_of_boosted"), two.splits("boosted_bags")) == (True, False)
    assert two.share("bag_of_boosted") == two.share("boosted_bags") == 1 / 2
    rows = {row.name: row for row in planned_rows(work)}
    assert rows["train bag_of_boosted"].seconds > 0 < rows["energy"].seconds


def test_counts_are_those_of_random_codes_counted_one_by_one() -> None:
    chance, widths, active = np.random.default_rng(0), (12, 9, 7), (3, 2, 4)
    sizes = Sizes(widths=widths, active=active, d_in=10, indexed=40)
    fires = [np.zeros((40, width), bool) for width in widths]
    for fires_TN, width, k in zip(fires, widths, active, strict=True):
        for fires_N in fires_TN:
            fires_N[chance.choice(width, k, replace=False)] = True
    assert sizes.features == sum(widths)
    assert sizes.entries == sum(int(each.sum()) for each in fires)
    pairs = list(combinations(fires, 2))
    assert sizes.cells == sum(one.shape[1] * other.shape[1] for one, other in pairs)
    assert sizes.products == sum(int((one.sum(axis=1) * other.sum(axis=1)).sum()) for one, other in pairs)


RECORDED = {
    **{"activations": 16.1, "train/bagged": 27.6, "train/boosted": 21.4, "train/expanded": 14.1, "index/bagged": 3.33},
    **{"index/boosted": 3.18, "index/expanded": 2.65, "tokens/bagged": 0.28, "tokens/expanded": 0.138},
    **{"together/bagged": 0.86, "together/boosted": 1.18, "together/expanded": 0.105, "match/bagged": 1.84},
    **{"nearest/expanded": 0.43, "families/boosted": 1.87, "families/expanded": 0.35, "lens/bagged": 1.46},
    **{"lens/expanded": 1.45, "map/bagged": 3.97, "map/expanded": 4.03, "atoms/bagged": 0.36, "atoms/expanded": 0.27},
    **{"suggest/bagged": 1.83, "suggest/expanded": 0.59, "energy/boosted": 2.53, "evaluate/reconstruction": 5.3},
    **{"evaluate/dictionary": 6.3, "evaluate/concepts": 16.0, "evaluate/cost": 0.61, "evaluate/loss": 3.1},
    "evaluate/control": 5.3,
}
"""Seconds of a run with the demo's settings on two cores of an AMD EPYC 7003, of stages that import nothing in them."""


def test_declared_costs_are_about_the_seconds_of_a_recorded_run() -> None:
    settings = preset_settings("demo")
    work = Work(settings, find_shape(settings.model), MACHINES["laptop"], length=115.0)
    found = {
        key: sum(MACHINES["laptop"].seconds(stage, work.sizes(name)) for name in names)
        for stage, key, names in entries(settings)
    }
    for key, seconds in RECORDED.items():
        assert 0.6 < found[key] / seconds < 1.8, key
    assert found["train/single"] == 0  # a copy
    assert sum(map(found.get, RECORDED)) == pytest.approx(sum(RECORDED.values()), rel=0.2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stage", "field", "most"),
    [(DICTIONARY, "evaluated", CONNECTIVITY_TOKENS), (COST, "evaluated", TIMED_TOKENS), (ENERGY, "indexed", SAMPLE)],
)
def test_a_stage_that_reads_a_sample_costs_no_more_for_a_longer_text(stage: Stage[Any], field: str, most: int) -> None:
    sizes = replace(work_of().sizes("boosted"), d_in=10)
    less, whole, more = (
        stage.flops(replace(sizes, **{field: tokens})) + stage.cost(replace(sizes, **{field: tokens}))
        for tokens in (most - 1, most, 2 * most)
    )
    assert less < whole == more


def test_files_are_about_those_of_a_real_run(trained_run: Run) -> None:
    settings, facts = trained_run.settings, trained_run.facts("corpus")
    length = facts["train_tokens"] / facts["train_passages"]
    work = Work(settings, find_shape(settings.model), MACHINES["laptop"], length=length)
    for method in BY_DEFAULT:
        folder, sizes = trained_run.ensemble(method), work.sizes(method)
        recorded = trained_run.facts(f"train/{method}")["flops"]
        assert recorded == pytest.approx(sizes.train_flops + _copied(work, method))
        weights = sum(payload(file) for file in folder.path.rglob("sae_weights.safetensors"))
        assert TRAIN.written(sizes) == pytest.approx(weights, rel=0.01)
        assert payload(folder.index) <= INDEX.written(sizes) < 1.5 * payload(folder.index)
        assert TOGETHER.written(sizes) == payload(folder.together)
        assert 0.3 < TOKENS.written(sizes) / payload(folder.by_token) < 3
    caches = sum(payload(file) for file in trained_run.activations.rglob("*.safetensors"))
    assert sum(ACTIVATIONS.written(work.sizes(name)) for name in BY_DEFAULT) == pytest.approx(caches, rel=0.05)


def _copied(work: Work, method: str) -> int:
    """Operations of a first SAE that another method has trained, which a run records and a plan leaves out."""
    sae = SAEShape.of(next(work.layout(method).ones()).sae, work.model.d_model)
    return work.copies_first(method) * work.steps * work.batch * sae.step_flops


def test_seconds_of_a_named_machine_are_operations_and_bytes_over_its_rates() -> None:
    stage: Stage[Any] = Stage(
        key="x", command="index", cost=lambda sizes: 2.0, flops=lambda sizes: 4e12, moved=lambda sizes: 6e11
    )
    machine, sizes = Machine("one", True, 10e12, 20e12, 1e12), Sizes(widths=(1,), active=(1,), d_in=1)
    # 40 % of ten tera a second, 60 % of a tera, and two seconds of something else.
    assert machine.seconds(stage, sizes) == pytest.approx(1.0 + 1.0 + 2.0)
    assert machine.seconds(stage, sizes, low=True) == pytest.approx(0.5 + 1.0 + 2.0)


def test_a_line_goes_through_what_was_measured_and_else_has_the_pace_of_all() -> None:
    assert tuple(fit([(1.0, 5.0), (100.0, 302.0)], pace=3.0)) == pytest.approx((2.0, 3.0))
    steep = fit([(1.0, 7.0), (100.0, 502.0)], pace=3.0)  # measured so well that the pace of others counts little
    assert tuple(steep) == pytest.approx((2.0, 5.0), rel=0.1)
    # Two trials that differ by less than the noise say nothing about the pace.
    assert tuple(fit([(1e-4, 2.0), (2e-4, 2.1)], pace=3.0)) == pytest.approx((2.05, 3.0), rel=0.02)
    assert fit([(1.0, 0.0), (3.0, 0.0)], pace=1.0).pace < 0.02  # a stage that does nothing


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("method", ["single", "bagged", "boosted", "expanded"])
def test_processes_share_training_as_it_will_be_shared(method: str, processes: int) -> None:
    work, several = work_of(processes=processes), Processes()
    several.size = processes
    layout = work.layout(method)
    part = part_of(range(1 if layout.in_turn else len(layout.members)), several, batch_size=512)
    assert work.splits(method) == part.splits
    share = 1 / processes if part.splits else part.side_by_side / len(part.group)
    assert work.share(method) == pytest.approx(share if not layout.in_turn or part.splits else 1.0)


def rows_of(work: Work) -> dict[str, Any]:
    return {row.name: row for row in planned_rows(work)}


def test_processes_and_places_divide_and_multiply_what_they_should() -> None:
    one, two, three = rows_of(work_of()), rows_of(work_of(processes=2)), rows_of(work_of(places=3))
    for name, row in one.items():
        shared = name.startswith("train ") or name == "index"
        assert two[name].seconds == pytest.approx(row.seconds / (2 if shared else 1)), name
        assert two[name].flops == row.flops
        gathers = name in ("corpus", "activations")
        assert three[name].seconds == pytest.approx((1 if gathers else 3) * row.seconds), name
        assert three[name].flops == (1 if gathers else 3) * row.flops
        assert three[name].disk == 3 * row.disk
        assert three[name].memory == row.memory
    assert two["train bagged"].memory < one["train bagged"].memory  # weights of half the members
    assert [name for name in one if name.startswith("train ")] == [f"train {name}" for name in BY_DEFAULT]


def test_every_stage_of_the_commands_is_planned_once() -> None:
    keys = [key for _, key, _ in entries(work_of().settings)]
    assert len(set(keys)) == len(keys)
    planned = {stage.key for stage, _, _ in entries(work_of().settings)}
    assert planned == {stage.key for stage in STAGES if stage.command in ("train", "index", "evaluate")}
    known = {stage.command for stage, _, _ in entries(load_settings(overrides={"origin.kind": "known"}))}
    assert known == {"train", "evaluate"}


def test_a_cache_larger_than_memory_is_dealt_on_disk_as_training_will_decide() -> None:
    large = 10_000_000 * 10 * 2

    def dealt(memory: int, disk: int, **data: Any) -> list[int]:
        machine = replace(MACHINES["laptop"], memory=memory, disk=disk)
        given = {f"data__{name}": value for name, value in data.items()}
        work = work_of(machine=machine, data__train_tokens=10_000_000, training__methods=["single"], **given)
        return [row.temporary for row in planned_rows(work) if row.name == "shuffle on disk"]

    assert dealt(large - 1, 10 * large) == [large]
    assert dealt(large, 10 * large) == dealt(large - 1, large) == []
    assert dealt(large - 1, 10 * large, shuffle="memory") == dealt(large - 1, 10 * large, storage="stream") == []
    assert dealt(large, 10 * large, shuffle="disk") == [large]


def test_help_for_the_dead_and_the_noise_null_by_hand() -> None:
    work = work_of(sae__dead_after_tokens=1000, training__methods=["bagged", "boosted"])
    plan = RunPlan(work, planned_rows(work), False, [])
    dead, null = plan.help_for_dead, plan.noise_null
    assert dead is not None
    # Ten operations a dimension for 10 of 100 features of four members, and of the three stages that are not copied.
    assert dead["flops"] == 4000 * 4 * 10 * 10 * 10 + 2750 * 4 * 10 * 10 * 10
    assert null is not None
    assert null["seconds"] == pytest.approx(2 * rows_of(work)["train boosted"].seconds)  # which are three stages
    alone = work_of(training__methods=["boosted"])
    found = RunPlan(alone, planned_rows(alone), False, []).noise_null
    assert found is not None
    assert found["seconds"] == pytest.approx(2 * 3 / 4 * rows_of(alone)["train boosted"].seconds)
    without = work_of(training__methods=["bagged"], sae__aux_coefficient=0)
    plain = RunPlan(without, planned_rows(without), False, [])
    assert (plain.help_for_dead, plain.noise_null) == (None, None)


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
    assert 2 * 9 * 12 * 768**2 * 8e8 < stages["activations"]["flops"] < 1.2 * 2 * 9 * 12 * 768**2 * 8e8
    assert stages["activations"]["disk"] == pytest.approx(8e8 * 768 * 2, rel=1e-3)
    assert stages["train single"]["seconds"] == 0 < stages["train boosted"]["seconds"]
    # At its peak rate the card would take 165 s for the products of the bag; it takes at most some hours.
    assert 165 < stages["train bagged"]["seconds"] < 12 * 3600
    assert 8 * 12 * 2 * 768 * 16128 < stages["train bagged"]["gpu_memory"] < 20e9
    assert plan["fits"] == {"memory": None, "gpu_memory": True, "disk": None}
    assert list(tmp_path.iterdir()) == []


def test_totals_add_up_and_gemma_is_planned_without_the_hub(tmp_path: Path) -> None:
    gemma = ("--model", "google/gemma-2-2b", "--layer", 12, *PYTHIA[4:], "--set", "data.storage=stream")
    plan = planned(tmp_path / "run", *gemma, "--machine", "a100 40gb")
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
    assert next(s for s in stages if s["name"] == "activations")["disk"] < 1e9
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
    work = work_of(machine=replace(MACHINES["laptop"], disk=1000))
    tight = RunPlan(work, planned_rows(work), False, [])
    assert tight.fits["disk"] is False
    assert any("data.storage=stream" in remedy for remedy in tight.remedies)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--machine", "abacus"), "no machine called 'abacus'; known: H200, H100"),
        (("--machine", "H100", "--model", "nobody/nothing"), "cannot be reached"),
        (("--machine", "H100", "--model", "no such folder"), "neither a folder nor a hub id"),
        (("--machine", "H100", "--layer", 6), "has 6 layers"),
        (("--machine", "H100", "--width", 0), "sae.width"),
        (("--text", "missing.csv"), "missing.csv does not exist"),
        (("--set", "origin.kind=known", "--layers", "1,2"), "come from a known dictionary, which has no layers"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(call("plan", "run", *words), sentence)
    assert list(tmp_path.iterdir()) == []


def test_what_is_planned_for_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    def said(*words: object) -> str:
        done = call("plan", tmp_path / "run", *words, "--machine", "H100")
        assert done.code == 0, done.err
        return done.err

    plain = said(*PYTHIA)
    assert "If 10% of the features were dead all the time, helping them (AuxK) would add" in plain
    assert "processes" not in plain
    together = said(*PYTHIA, "--processes", 8)
    assert "the first of 8 processes" in together
    assert "what processes send each other and wait for" in together
    assert "AuxK" not in said(*PYTHIA, "--set", "sae.aux_coefficient=0")
    assert "how many features will be active" in said("--architecture", "relu")
    layers = (*PYTHIA[:2], *PYTHIA[4:], "--layers", "2,8,4")
    found = said(*layers, "--set", "data.storage=stream")
    assert "All figures are those of 3 runs together" in found
    assert "lower layers are reached sooner" in found
    one, three = (planned(tmp_path / "run", *words, "--machine", "H100") for words in (PYTHIA, layers))
    assert (one["runs"], three["runs"]) == (1, 3)
    assert three["help_for_dead"]["flops"] == 3 * one["help_for_dead"]["flops"]
    refused(call("plan", "run", "--layers", "1,2", "--processes", 2, "--machine", "H100"), "Several processes train")
    refused(call("plan", "run", "--layers", "1,99", "--machine", "H100"), "model.layer must be 0 to 5, not 99")
    assert not list(tmp_path.iterdir())


def test_a_known_dictionary_is_tried_without_a_model_and_leaves_nothing(tmp_path: Path) -> None:
    sizes = ("--width", 32, "--k", 4, "--members", 2, "--tokens", 4000, "--set", "data.train_tokens=4000")
    known = ("--set", "origin.kind=known", "--set", "data.evaluation_tokens=2000", *sizes)
    plan = planned(tmp_path / "run", *known, "--set", "training.batch_size=100", "--device", "cpu")
    assert plan["measured"]
    assert (plan["model"]["name"], plan["model"]["d_model"]) == ("a known dictionary", 64)
    assert {stage["part"] for stage in plan["stages"]} == {"train", "evaluate"}
    by_name = {stage["name"]: stage["seconds"] for stage in plan["stages"]}
    assert min(by_name["train bagged"], by_name["activations"], by_name["evaluate reconstruction"]) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{}, {"sae.architecture": "jumprelu", "data.storage": "stream"}])
def test_trials_measure_every_stage_that_a_run_records(
    tmp_path: Path, trained_run: Run, changed: dict[str, str]
) -> None:
    values = trained_run.settings.model_dump()
    for name, value in changed.items():
        section, field = name.split(".")
        values[section][field] = value
    settings = trained_run.settings.model_validate(values)
    work = Work(settings, find_shape(settings.model), MACHINES["laptop"])
    found = measure(work, tmp_path / "run", lambda tick: None)
    recorded = {key for key in trained_run.read_manifest()["finished"] if not key.startswith("evaluate/task")}
    assert recorded <= set(found.lines)
    assert all(line.once >= 0 and line.pace >= 0 for line in found.lines.values())
    assert set(found.peaks) == {"train", "index", "evaluate"}
    assert found.work.length > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_model_that_is_not_here_is_tried_by_its_shape(tmp_path: Path, labelled_texts: Path) -> None:
    words = ("--model", "EleutherAI/pythia-70m", "--layer", 3, "--text", labelled_texts, "--width", 64, "--k", 4)
    small = ("--methods", "single", "--tokens", 2000, "--set", "data.train_tokens=2000", "--device", "cpu")
    plan = planned(tmp_path / "run", *words, *small, "--set", "training.batch_size=100", "--set", "model.context=32")
    assert any("not here; its speed is that of 2 blocks" in remark for remark in plan["remarks"])
    assert plan["model"]["layers"] == 6


@pytest.mark.slow
def test_plan_of_a_run_that_is_there_takes_its_settings(trained_run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained_run.path.rglob("*")}
    plan = planned(trained_run.path)
    assert {path: path.stat().st_mtime_ns for path in trained_run.path.rglob("*")} == before
    assert plan["training"]["members"] == trained_run.settings.training.members
    assert plan["measured"] is True
    assert plan["fits"] == {"memory": True, "gpu_memory": None, "disk": True}
