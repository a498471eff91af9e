"""Cost figures from closed forms, from recorded trainings and from the clock, and the number of members to stop at."""

import itertools
import time

import pandas as pd
import pytest
import torch

from sae_core.analysis.cost import cost
from sae_core.analysis.cost.cost import inference_flops, marginal, measure_cost
from sae_core.analysis.shared.names_in_tables import where_to_stop
from sae_core.analysis.summary import by_ensemble
from sae_core.ensembles.ensemble import Ensemble, load_ensemble, save_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import write_json, write_table
from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings
from sae_core.foundation.settings.run_settings import SAESettings
from sae_core.sae import make_sae

D, N, K = 6, 20, 2
TOKENS, ROWS = 3000, 1000
ONE = 2 * D * N + D + N
STEP, RUN = 2 * D * N + 8 * D * K, 2 * D * N + 2 * D * K
"""Operations of a training step and of a reconstruction, for one activation."""
EXPLAINED = (0.6, 0.7, 0.72)


def make_run(path, **training):
    overrides = {f"training.{name}": value for name, value in training.items()}
    run = Run.create(path, load_settings(overrides={"training.methods": ["single", "bagged", "boosted"], **overrides}))
    for name, count, wiring in (("single", 1, "parallel"), ("bagged", 3, "parallel"), ("boosted", 3, "residual")):
        members = [make_sae(SAESettings(width=N, k=K), D, seed=seed) for seed in range(count)]
        save_ensemble(Ensemble(members, wiring=wiring, method=name), run.ensemble(name))
    run.finish("corpus", {"train_tokens": ROWS})
    figures = {
        name: {
            "l0": 2.0 * count,
            "by_members": [
                {"members": j + 1, "explained_variance": EXPLAINED[j], "l0": 2.0 * (j + 1)} for j in range(count)
            ],
        }
        for name, count in (("single", 1), ("bagged", 3), ("boosted", 3))
    }
    write_json(run.evaluation("reconstruction"), {"ensembles": figures})
    return run, {folder.name: load_ensemble(folder) for folder in run.ensembles()}


def measured(run, ensembles):
    acts = torch.randn(16, D, generator=torch.Generator().manual_seed(0))
    return measure_cost(run, ensembles, acts, repeats=2)["ensembles"]


def test_cost_counts_parameters_bytes_and_operations(tmp_path):
    run, ensembles = make_run(tmp_path / "run")
    run.finish("train/bagged", {"seconds": 12.5, "tokens": TOKENS, "flops": 3 * TOKENS * STEP, "peak_memory_bytes": 7})
    costs = measured(run, ensembles)
    assert list(costs) == ["single", "bagged", "boosted"]
    bagged = costs["bagged"]
    assert (costs["single"]["parameters"], bagged["parameters"]) == (ONE, 3 * ONE)
    # The weights in float32 and a header of less than a kilobyte each.
    assert 3 * 4 * ONE < bagged["bytes"] < 3 * (4 * ONE + 1024)
    assert bagged["inference_flops_per_token"] == 2 * D * 3 * N + 2 * D * 6
    assert inference_flops(ensembles["single"], 2.0) == 2 * D * N + 2 * D * 2
    assert (bagged["train_seconds"], bagged["tokens"], bagged["members"]) == (12.5, TOKENS, 3)
    assert bagged["tokens_per_second"] == pytest.approx(3 * TOKENS / 12.5)
    assert (bagged["train_flops"], bagged["peak_memory_bytes"]) == (3 * TOKENS * STEP, 7)
    steps = bagged["by_members"]
    assert [step["parameters"] for step in steps] == [ONE, 2 * ONE, 3 * ONE]
    assert [step["train_flops"] for step in steps] == [TOKENS * STEP * j for j in (1, 2, 3)]
    # Members side by side have the same share of the time.
    assert [step["train_seconds"] for step in steps] == pytest.approx([12.5 / 3, 25 / 3, 12.5])
    assert steps[-1]["bytes"] == bagged["bytes"]
    for unknown in ("train_seconds", "train_flops", "tokens", "tokens_per_second", "peak_memory_bytes"):
        assert costs["single"][unknown] is None


@pytest.mark.parametrize(
    ("training", "runs"),
    [({"residuals": "cached"}, (0, ROWS, 2 * ROWS)), ({"residuals": "recomputed"}, (0, TOKENS, 3 * TOKENS))],
)
def test_a_boosted_stage_costs_the_stages_that_it_has_to_run(tmp_path, training, runs):
    run, ensembles = make_run(tmp_path / "run", **training)
    write_table(
        run.ensemble("boosted").curves,
        pd.DataFrame({"member": [0, 0, 1, 1, 2], "seconds": [1.0, 4.0, 2.0, 5.0, 6.0]}),
    )
    total = 3 * TOKENS * STEP + runs[-1] * RUN
    run.finish("train/boosted", {"seconds": 15.0, "tokens": TOKENS, "flops": total})
    steps = measured(run, ensembles)["boosted"]["by_members"]
    assert [step["train_flops"] for step in steps] == [
        TOKENS * STEP * (j + 1) + run * RUN for j, run in enumerate(runs)
    ]
    # Stages come one after another, each with a clock of its own.
    assert [step["train_seconds"] for step in steps] == [4.0, 9.0, 15.0]
    own = [after - before for before, after in itertools.pairwise([0, *(step["train_flops"] for step in steps)])]
    assert [step["relative_cost"] for step in steps] == pytest.approx([flops / own[0] for flops in own])


def test_operations_of_another_way_of_counting_are_not_shared_out(tmp_path):
    run, ensembles = make_run(tmp_path / "run")
    run.finish("train/bagged", {"seconds": 1.0, "tokens": TOKENS, "flops": 12345})
    costs = measured(run, ensembles)["bagged"]
    assert costs["train_flops"] == 12345
    assert [step["train_flops"] for step in costs["by_members"]] == [None] * 3
    # Without them parameters say what a member costs.
    assert [step["relative_cost"] for step in costs["by_members"]] == [1.0] * 3


def test_inference_time_is_the_median_after_warming_up_and_adds_up_over_members(monkeypatch):
    members = [make_sae(SAESettings(width=N, k=K), D, seed=seed) for seed in range(2)]
    ensemble = Ensemble(members, wiring="residual").eval()
    # Seconds of (member 0, member 1) in each round; the first one warms up.
    rounds = [(100.0, 100.0), (1.0, 4.0), (9.0, 5.0), (2.0, 6.0)]
    # The clock is read before a round and after each member.
    ticks = itertools.chain.from_iterable(itertools.accumulate((0.0, *seconds)) for seconds in rounds)
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert cost.inference_seconds(ensemble, torch.randn(8, D), repeats=3) == [2.0, 5.0]


def test_measured_time_is_given_per_token(tmp_path, monkeypatch):
    run, ensembles = make_run(tmp_path / "run")
    monkeypatch.setattr(cost, "inference_seconds", lambda ensemble, acts, repeats: [0.5] * len(ensemble))
    costs = measured(run, ensembles)
    assert [step["inference_seconds_per_token"] * 16 for step in costs["bagged"]["by_members"]] == [0.5, 1.0, 1.5]
    assert costs["bagged"]["inference_seconds_per_token"] * 16 == 1.5


def test_the_rule_stops_before_the_first_member_that_is_not_worth_its_cost():
    steps = [
        {"members": 1, "explained_variance": 0.60, "train_flops": 10, "parameters": 1},
        {"members": 2, "explained_variance": 0.70, "train_flops": 30, "parameters": 2},
        {"members": 3, "explained_variance": 0.72, "train_flops": 60, "parameters": 3},
        {"members": 4, "explained_variance": 0.80, "train_flops": 70, "parameters": 4},
    ]
    found = marginal(steps)
    assert [step["relative_cost"] for step in found] == [1.0, 2.0, 3.0, 1.0]
    assert [step["added_explained_variance"] for step in found] == pytest.approx([0.6, 0.1, 0.02, 0.08])
    assert [step["added_per_cost"] for step in found] == pytest.approx([0.6, 0.05, 0.02 / 3, 0.08])
    assert where_to_stop(found) == 2
    assert where_to_stop(found, worth=0.001) is None
    assert where_to_stop(found[:2]) is None
    # Activations that do not vary have nothing to be explained.
    unknown = marginal([{**step, "explained_variance": None} for step in steps])
    assert where_to_stop(unknown) is None


def test_costs_of_earlier_runs_are_read():
    assert by_ensemble({"single": {"members": 1}}) == {"single": {"members": 1}}
    assert by_ensemble({"rule": "…", "ensembles": {"single": {"members": 1}}}) == {"single": {"members": 1}}


def test_cost_without_reconstruction_is_refused(tmp_path):
    run, ensembles = make_run(tmp_path / "run")
    run.evaluation("reconstruction").unlink()
    with pytest.raises(UserError, match=r"reconstruction\.json does not exist"):
        measured(run, ensembles)
