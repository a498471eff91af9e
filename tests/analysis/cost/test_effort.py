"""Comparisons at equal effort, longer baselines, and methods added to a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import BATCH, MEMBERS, STEPS, data, new_run, trained, weights
from sources import TensorSource

from sae_core.analysis.cost.effort import Effort, at_equal, effort_of, steps_taken
from sae_core.analysis.stages import EVALUATIONS
from sae_core.foundation.errors import UserError
from sae_core.foundation.methods import BY_DEFAULT, EVERY, headed
from sae_core.foundation.run import Run
from sae_core.report.baselines import at_equal_cost
from sae_core.training.train import train_run

ALL = (*BY_DEFAULT, "expanded_l0", "expanded_l0_long")


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (Effort(100, 40, 1000), Effort(100, 10, 910), "at equal tokens, with 4 times the steps and about equal FLOPs"),
        (Effort(100, 40, 1000), Effort(400, 40, 4000), "at equal steps, with 0.25 times the tokens and 0.25 times"),
        (Effort(100, 10, 1000), Effort(100, 10, 1000), "at equal tokens, steps and FLOPs"),
        (Effort(100, None, 2400), Effort(100, 10, 1000), "at equal tokens, with 2.40 times the FLOPs"),
        (Effort(100, 30, None), Effort(50, 10, None), "with 2 times the tokens and 3 times the steps"),
        (Effort(None, None, None), Effort(1, 1, 1), ""),
    ],
)
def test_what_is_equal_is_said_and_what_is_not_by_how_much(one: Effort, other: Effort, said: str) -> None:
    found = at_equal(one, other)
    assert found.startswith(said) if said else not found
    assert ("(1.10 times)" in found) == ("about equal" in said)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("runs") / "all", methods=ALL)


def test_a_long_baseline_is_the_same_sae_for_as_many_steps_as_all_stages_take(run: Run, tmp_path: Path) -> None:
    long, short = effort_of(run, "expanded_l0_long"), effort_of(run, "expanded_l0")
    assert (long.steps, short.steps, steps_taken(run, "boosted")) == (MEMBERS * STEPS, STEPS, MEMBERS * STEPS)
    assert (steps_taken(run, "bagged"), steps_taken(run, "single")) == (STEPS, STEPS)
    assert (long.tokens, short.tokens) == (MEMBERS * STEPS * BATCH, STEPS * BATCH)
    assert long.flops == MEMBERS * short.flops  # type: ignore[operator]
    # It is what the plain one would be if it had been given so many tokens.
    other = trained(tmp_path / "run", methods=("expanded_l0",), tokens=MEMBERS * STEPS * BATCH)
    mine, theirs = weights(run), weights(other)
    for name, tensor in theirs.items():
        assert torch.equal(mine[name.replace("expanded_l0", "expanded_l0_long")], tensor), name
    long = [method for method in EVERY.values() if method.long_form_of]
    assert [method.long_form_of for method in long] == ["single", "expanded", "expanded_l0"]
    assert all(method.layout(run.settings) == EVERY[method.long_form_of].layout(run.settings) for method in long)


def test_further_methods_are_added_to_a_run_and_then_to_be_evaluated(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run"
    begun = trained(path, methods=("single", "boosted"))
    before = weights(begun)
    for stage in EVALUATIONS:
        begun.finish(f"evaluate/{stage}")
    more = new_run(path, methods=ALL)
    assert Run.open(path).settings == more.settings
    assert not any(more.is_finished(f"evaluate/{stage}") for stage in EVALUATIONS)
    assert more.is_finished("train/boosted")
    train_run(more, source=TensorSource(data()))
    after = weights(more)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    # What is added is what a run of all of them has.
    assert all(torch.equal(after[name], tensor) for name, tensor in weights(run).items())
    with pytest.raises(UserError, match=r"training\.methods"):
        new_run(path, methods=("single",))
    with pytest.raises(UserError, match="other settings"):
        new_run(path, methods=ALL, learning_rate=1e-3)


def content(*names: str) -> dict:
    """Ensembles of which boosted takes four times the steps, and long baselines do so, too."""
    figures = {"single": (0.8, 1), "boosted": (0.9, 4), "expanded_l0": (0.85, 1), "expanded_l0_long": (0.95, 1)}
    efforts = {"boosted": (1e5, 400, 1.05e9), "expanded_l0": (1e5, 100, 1e9), "expanded_l0_long": (4e5, 400, 4e9)}
    found = {}
    for name in names:
        explained, members = figures[name]
        mean = {"mean": explained, "low": None, "high": None, "values": [explained] * 3, "interval": "seeds"}
        keys = {"reconstruction.explained_variance": mean, "reconstruction.members": {"mean": members}}
        tokens, steps, flops = efforts.get(name, (1e5, 100, 2.5e8))
        effort = {"tokens": tokens, "steps": steps, "flops": flops}
        found[name] = {"figures": keys, "stages": members, "effort": effort}
    return {"ensembles": found, "runs": [{}] * 3}


def test_the_verdict_compares_at_equal_tokens_steps_and_flops_and_names_what_is_missing() -> None:
    both = list(at_equal_cost(content("single", "boosted", "expanded_l0", "expanded_l0_long")))
    assert len(both) == 2
    assert both[0] == (
        "Boosted, at equal tokens, with 4 times the steps and about equal FLOPs (1.05 times), explains more than one "
        "SAE of the same width and L0 (+5.0 points (+5.0 to +5.0))."
    )
    # Four times the arithmetic buys more, so nothing is said of a better buy.
    assert both[1] == (
        "Boosted, at equal steps, with 0.25 times the tokens and 0.26 times the FLOPs, explains less than one SAE of "
        "the same width and L0, trained for as many steps as all stages, (−5.0 points (−5.0 to −5.0))."
    )
    cheap = content("single", "boosted", "expanded_l0")
    cheap["ensembles"]["expanded_l0"]["figures"]["reconstruction.explained_variance"]["values"] = [0.93] * 3
    assert any(said.endswith("that one is the better buy.") for said in at_equal_cost(cheap))
    *_, missing = at_equal_cost(content("single", "boosted", "expanded_l0"))
    assert "train expanded_l0_long" in missing
    assert "--methods single,boosted,expanded_l0,expanded_l0_long" in missing
    assert list(at_equal_cost(content("single"))) == []
    assert headed("expanded_l0") == "Expanded (same L0)"
    penalised = {**content("single", "boosted"), "settings": {"sae": {"architecture": "relu"}}}
    (advice,) = at_equal_cost(penalised)
    assert "train expanded and expanded_long, one SAE of the same width (whose L0" in advice
