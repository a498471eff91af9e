"""Training ensembles of ensembles: the same members as by hand, continued after an interruption, and recorded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from small_runs import BATCH, STEPS, assert_same_training, curves, data, ensembles, new_run, trained
from sources import TensorSource

from sae_core.analysis.cost.cost import training_flops_by_members
from sae_core.analysis.cost.effort import steps_taken
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings
from sae_core.training.train import train_run

NESTED = ("bag_of_boosted", "boosted_bags")
METHODS = ("single", "bagged", "boosted", *NESTED)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("runs") / "run", methods=METHODS, members=4)


def test_members_are_those_of_the_flat_ensembles_where_these_learn_the_same(run: Run) -> None:
    found = ensembles(run)
    bag, stages = (list(found[name].saes()) for name in ("bagged", "boosted"))
    bag_of_boosted, boosted_bags = (list(found[name].saes()) for name in NESTED)
    assert [found[name].wiring for name in NESTED] == ["parallel", "residual"]
    assert [len(found[name]) for name in NESTED] == [2, 2]
    for one, other in (
        (bag_of_boosted[0], bag[0]),
        (bag_of_boosted[2], bag[2]),
        (boosted_bags[0], bag[0]),
        (boosted_bags[1], bag[1]),
        # Stage 2 of the first boosted ensemble is that of the flat one.
        (bag_of_boosted[1], stages[1]),
    ):
        assert torch.equal(one.W_dec, other.W_dec)
    dictionaries = [sae.W_dec for sae in (*bag_of_boosted, *boosted_bags[2:])]
    assert all(not torch.equal(one, other) for one, other in pairwise(dictionaries))


def test_later_stages_explain_what_is_left(run: Run) -> None:
    acts, found = data(), ensembles(run)
    error = {name: float((acts - ensemble(acts)).detach().square().sum()) for name, ensemble in found.items()}
    assert error["bag_of_boosted"] < error["bagged"]
    assert error["boosted_bags"] < float((acts - found["boosted_bags"].first(1)(acts)).square().sum())
    for name in NESTED:
        table = curves(run, name)
        assert table["member"].unique().tolist() == [0, 1, 2, 3]
        last = table[table["member"] == 3].iloc[-1]
        assert last["tokens"] == STEPS * BATCH


def test_what_is_recorded_counts_both_levels(run: Run) -> None:
    flat = run.facts("train/bagged")["flops"]
    for name in NESTED:
        facts = run.facts(f"train/{name}")
        assert facts["flops"] > flat
        assert facts["turns"] == 2
        assert steps_taken(run, name) == 2 * STEPS
        assert "turns" not in run.facts("train/boosted")
        ensemble = ensembles(run)[name]
        assert training_flops_by_members(run, ensemble, facts)[-1] in (facts["flops"], None)
        assert run.is_finished(f"train/{name}")
        assert not list(run.ensemble(name).path.rglob("checkpoint"))
    assert run.facts("train/bag_of_boosted")["shared_seconds"] > 0


@pytest.mark.parametrize("pipelined", [False, True])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path, pipelined: bool) -> None:
    options = {"methods": NESTED, "members": 4, "boosting": "pipelined" if pipelined else "sequential"}
    whole = trained(tmp_path / "whole", **options)
    again = new_run(tmp_path / "again", **options)
    seen: list[tuple[str, float]] = []
    for after in (1, 4, 8, 11):

        def stop(tick: Tick, after: int = after) -> None:
            seen.append((tick.stage, tick.done / tick.total))
            if len(seen) == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_run(again, source=TensorSource(data()), progress=stop, checkpoint_seconds=0.0)
    train_run(again, source=TensorSource(data()))
    assert_same_training(again, whole)
    assert seen[0][0].startswith("train bag_of_boosted, member 1 of 2")
    assert all(0 < share <= 1 for _, share in seen)
    turns = [whole.facts(f"train/{name}")["turns"] for name in NESTED]
    assert turns == ([1, 2] if pipelined else [2, 2])


def test_members_that_cannot_be_grouped_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"training\.members is 3, but boosted_bags takes a multiple of training\.inner"
    ):
        load_settings(overrides={"training.members": 3, "training.methods": ["boosted_bags"]})
    settings = load_settings(overrides={"training.members": 6, "training.inner": 3, "training.methods": list(NESTED)})
    assert settings.training.inner == 3


def test_groups_of_members_make_no_difference(tmp_path: Path, run: Run) -> None:
    """Where memory is short, the bag of each stage is trained in several passes."""
    grouped = trained(tmp_path / "run", methods=("boosted_bags",), members=4, group=1)
    one, other = ensembles(run)["boosted_bags"], ensembles(grouped)["boosted_bags"]
    assert isinstance(one, Ensemble)
    assert isinstance(other, Ensemble)
    for mine, theirs in zip(one.saes(), other.saes(), strict=True):
        assert torch.equal(mine.W_dec, theirs.W_dec)
