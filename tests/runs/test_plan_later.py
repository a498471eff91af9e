"""Plans of the stages after training: all stages are planned; counts by hand, by brute force and in real files."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from plans import payload, planned_stages, rates_of_one

from sae_core.activations.corpus import Corpus
from sae_core.activations.origins.language_model.model.finding_shape import find_shape
from sae_core.activations.origins.language_model.model.shapes import ModelShape
from sae_core.analysis.stages import EVALUATIONS, PREPARING
from sae_core.foundation.methods import BY_DEFAULT
from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings
from sae_core.foundation.settings.run_settings import ModelSettings
from sae_core.runs.planning import index_stages as units
from sae_core.runs.planning import pace
from sae_core.runs.planning.counts import Counted, distinct_tokens
from sae_core.runs.planning.evaluation_stages import EVALUATING, distinct_members
from sae_core.runs.planning.index_stages import INDEXING, stages_of_indexing
from sae_core.runs.planning.machines import MACHINES, Machine
from sae_core.runs.planning.pace import COMPILED, Pace, measure_pace, seconds_to_compile
from sae_core.runs.planning.plan import RunPlan, stages_of
from sae_core.runs.planning.rates import Rates, named_rates
from sae_core.runs.planning.stages import Stage, Work
from sae_core.training.operations import SAEShape

SHAPE = ModelShape("llama", 2, 10, heads=1, kv_heads=1, head_dim=10, mlp=20, mlp_matrices=3, vocabulary=50)


def two_members() -> Counted:
    return Counted("bagged", [SAEShape("topk", 10, 100, 3), SAEShape("topk", 10, 60, 5)], 1000)


def work_of(shape: ModelShape = SHAPE, *, rates: Rates | None = None, **overrides: object) -> Work:
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    base = {"model.layer": 1, "data.train_tokens": 1000, "data.index_tokens": 1000, "sae.width": 100, "sae.k": 3}
    settings = load_settings(overrides=base | {"training.members": 2} | given)
    return Work(settings, shape, Machine("one", gpu=False, disk=10**12), rates or rates_of_one(settings))


def test_every_stage_of_index_and_evaluate_is_planned_under_its_name() -> None:
    preparing = [stage.name for stage in PREPARING]
    assert list(INDEXING) == preparing
    assert list(EVALUATING) == list(EVALUATIONS)
    assert set(COMPILED) <= set(preparing)
    rates = named_rates(MACHINES["laptop"], work_of().settings, SHAPE)
    stages = stages_of(work_of(rates=rates))
    assert [stage.name for stage in stages if stage.part == "index"] == preparing
    expected = [f"evaluate {name}" for name in EVALUATIONS]
    assert [stage.name for stage in stages if stage.part == "evaluate"] == expected
    for stage in stages:
        if stage.part != "train":
            assert stage.seconds > 0, stage.name
            assert stage.memory > rates.libraries, stage.name


def test_counts_by_hand() -> None:
    counted = two_members()
    assert counted.features == 160
    assert counted.entries == 8000
    assert counted.largest == 5000
    assert counted.pairs == 1
    assert counted.cells == 100 * 60
    assert counted.products == 1000 * 3 * 5
    assert counted.neighbours == 1000 * 8 * 8
    assert counted.companions == pytest.approx(160**2 * (1 - np.exp(-0.32 * 2.5 ** (2 / 3))), abs=1)
    assert Counted("single", [SAEShape("topk", 10, 4, 9)], 7).active == [4]  # no more than there are


def test_counts_are_those_of_random_codes_counted_one_by_one() -> None:
    chance = np.random.default_rng(0)
    members = [SAEShape("topk", 10, width, k) for width, k in ((12, 3), (9, 2), (7, 4))]
    counted = Counted("boosted", members, 40)
    fires = [np.zeros((40, member.width), bool) for member in members]
    for fires_TN, member in zip(fires, members, strict=True):
        for fires_N in fires_TN:
            fires_N[chance.choice(member.width, member.k, replace=False)] = True
    every_TF = np.concatenate(fires, axis=1)
    assert counted.entries == every_TF.sum()
    assert counted.neighbours == sum(int(fires_F.sum()) ** 2 for fires_F in every_TF)
    pairs = list(combinations(fires, 2))
    assert counted.pairs == len(pairs)
    assert counted.cells == sum(one.shape[1] * other.shape[1] for one, other in pairs)
    assert counted.products == sum(int((one.sum(axis=1) * other.sum(axis=1)).sum()) for one, other in pairs)
    assert counted.companions <= counted.features**2


def test_distinct_tokens_are_never_more_than_tokens_or_vocabulary() -> None:
    assert distinct_tokens(150_000, 10_240) == pytest.approx(6_700, rel=0.1)
    assert distinct_tokens(5, 10_240) == 5
    assert distinct_tokens(10**9, 10_240) == 10_240


def alone(method: str, *, rates: Rates | None = None, **overrides: object) -> dict[str, Stage]:
    """The stages of index of one ensemble, which makes their sums easy."""
    stages = stages_of_indexing(work_of(rates=rates, training__methods=[method], **overrides))
    return {stage.name: stage for stage in stages}


def test_seconds_are_counted_work_times_constants() -> None:
    bagged = {name: stage.seconds for name, stage in alone("bagged").items()}
    # Two members of 100 features, 3 of them active on each of 1,000 tokens.
    assert bagged["index"] == pytest.approx(2 * 1000 * 1e-3)
    assert bagged["tokens"] == pytest.approx(6000 * units.TELL_ENTRY + 1000 * units.TELL_TOKEN)
    companions = Counted("bagged", [SAEShape("topk", 10, 100, 3)] * 2, 1000).companions
    together = 6000 * (units.SPREAD + units.VISIT) + 36_000 * units.PRODUCT + companions * units.COMPANION
    assert bagged["together"] == pytest.approx(together)
    # 32 contexts, of which each feature fires in at most 30; 200 features by two measures, as they are and shifted.
    visited, products = 3000 + 100 * 30, 1000 * 9 + 100 * 100 * 30**2 / 32
    scored = visited * units.VISIT + products * units.PRODUCT + 2 * 100**2 * units.CELL
    families = 200 * (units.CONTEXTS + units.FAMILY) + 2 * visited * units.TURN + 2 * scored
    assert bagged["families"] == pytest.approx(families)
    assert bagged["lens"] == pytest.approx(200 * 50 * units.LENS_CELL)
    layout = units.MAP_START + 200 * units.LAYOUT + 200**2 * (units.NEIGHBOUR + units.CLUSTER)
    assert bagged["map"] == pytest.approx(layout)
    assert bagged["atoms"] == pytest.approx(200 * units.DESCRIBE)
    assert bagged["suggest"] == pytest.approx(6000 * units.RULE_ENTRY + 1000 * units.RULE_TOKEN)
    assert bagged["energy"] == 0
    boosted = {name: stage.seconds for name, stage in alone("boosted").items()}
    # The second stage gets what the first, with 3 of 10 dimensions each, leaves; for energy each is used three times.
    assert boosted["index"] - bagged["index"] == pytest.approx(1000 * 3 * 10 * units.ROW)
    assert boosted["energy"] == pytest.approx(2 * 1000 * 1e-3 + 3 * 1000 * 6 * 10 * units.ROW)


def test_matching_is_counted_for_pairs_of_members_and_once_for_chance() -> None:
    settings = work_of().settings
    slow = replace(rates_of_one(settings), assign=1.0)
    assert alone("bagged", rates=slow)["match"].seconds == 2  # one pair, and random atoms
    assert alone("single", rates=slow)["match"].seconds == 0
    both = stages_of_indexing(work_of(rates=slow, training__methods=["bagged", "boosted"]))
    assert next(stage for stage in both if stage.name == "match").seconds == 3


def test_of_a_long_text_the_families_look_at_one_of_so_many_tokens() -> None:
    def seconds(tokens: int) -> dict[str, float]:
        given = {"data__train_tokens": tokens, "data__index_tokens": tokens, "training__members": 4}
        stages = alone("bagged", sae__width=4096, sae__k=64, **given)
        return {name: stage.seconds for name, stage in stages.items()}

    one, four = seconds(10**7), seconds(4 * 10**7)
    assert four["together"] > 3 * one["together"]
    assert four["families"] < 1.1 * one["families"]


def test_pace_and_what_is_not_compiled_yet_are_in_the_seconds() -> None:
    settings = work_of().settings
    usual = alone("bagged")
    slow = alone("bagged", rates=replace(rates_of_one(settings), pace=Pace(3.0, 2.0)))
    for name in ("tokens", "map", "atoms", "suggest"):
        assert slow[name].seconds == pytest.approx(3 * usual[name].seconds), name
    for name in ("together", "families"):  # in part on all threads
        assert 2 * usual[name].seconds < slow[name].seconds < 3 * usual[name].seconds, name
    first = alone("bagged", rates=replace(rates_of_one(settings), compile={"map": 30.0}))
    assert first["map"].seconds == pytest.approx(usual["map"].seconds + 30)
    assert named_rates(Machine("one", True, 1e12, 1e12, 1e12), settings, SHAPE).compile["map"] == COMPILED["map"][2]


def test_pace_is_that_of_this_machine_and_kept_code_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure_pace()
    assert 0.01 < found.all <= 3 * found.one < 300
    monkeypatch.setattr(pace.config, "CACHE_DIR", str(tmp_path))
    assert set(seconds_to_compile()) == set(COMPILED)
    (tmp_path / "suggestions_0123").mkdir()
    (tmp_path / "suggestions_0123" / "suggest_loops.choose_rules-1.py311.nbi").touch()
    assert set(seconds_to_compile()) == set(COMPILED) - {"suggest"}


def test_members_that_ensembles_share_are_encoded_once() -> None:
    assert len(distinct_members(work_of())) == 2 + 0 + 1 + 1  # bagged, single, boosted, expanded
    assert len(distinct_members(work_of(training__boosting="pipelined"))) == 2 + 0 + 2 + 1
    assert len(distinct_members(work_of(training__methods=["boosted"]))) == 2
    assert len(distinct_members(work_of(training__member_seeds=[4, 5]))) == 2 + 1 + 1 + 1


def test_evaluations_that_are_not_done_take_no_time() -> None:
    shape = find_shape(ModelSettings())
    few, more = (planned_stages(shape, data__train_tokens=tokens)["evaluate concepts"] for tokens in (1000, 2000))
    assert 0 < few.seconds < more.seconds  # texts of ten tokens, fewer than the pool may have
    assert planned_stages(shape, text__source="x.txt")["evaluate concepts"].seconds == 0
    assert planned_stages(shape, evaluation__loss_tokens=0)["evaluate loss"].seconds == 0


def test_files_of_the_index_are_about_those_of_a_real_run(trained_run: Run) -> None:
    settings, tokens = trained_run.settings, len(Corpus.open(trained_run))
    work = Work(settings, find_shape(settings.model), Machine("one", gpu=False, disk=10**12), rates_of_one(settings))
    for method in BY_DEFAULT:
        folder, counted = trained_run.ensemble(method), Counted(method, work.members(method), tokens)
        disk = {name: stage(work, counted).disk for name, stage in INDEXING.items()}
        assert disk["together"] == payload(folder.together)
        assert 0.9 < disk["index"] / payload(folder.index) < 1.5
        # A row of 12 bytes for a feature of a token, and two numbers a token.
        assert 0.3 < disk["tokens"] / payload(folder.by_token) < 3


def test_the_control_of_boosting_is_planned_in_concept_detection() -> None:
    flops = {
        name: next(s.flops for s in stages_of(work_of(training__methods=[name])) if s.name == "evaluate concepts")
        for name in ("single", "bagged", "boosted")
    }
    # Beside a random SAE each encodes one SAE, two of them, and two and a random second stage.
    assert flops["boosted"] - flops["bagged"] == flops["bagged"] - flops["single"] > 0


def test_the_noise_null_of_retrains_is_two_trainings_of_every_later_stage() -> None:
    sizes = {"training__members": 4, "training__tokens": 5000, "training__batch_size": 50}
    work = work_of(training__methods=["single", "boosted"], **sizes)
    null = RunPlan(work, []).noise_null
    (sae,) = work.members("single")
    # 100 steps of a second each; a number of noise is a sum over the ten dimensions.
    assert null == {"seconds": 2 * 3 * 100.0, "flops": 2 * 3 * 5000 * (sae.step_flops + 2 * 10 * 10)}
    pipelined = work_of(training__methods=["boosted"], training__boosting="pipelined", **sizes)
    found = RunPlan(pipelined, []).noise_null
    assert found is not None
    assert found["seconds"] == 2 * 3 / 4 * 100.0  # a step of all four stages takes a second here
    assert RunPlan(work_of(training__methods=["bagged"], **sizes), []).noise_null is None
