"""The stages of a run: each is declared once, stands behind what it needs, and costs what settings make it cost."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sae_core.analysis.stages import EVALUATIONS, PREPARING, STAGES, evaluations, is_done, stages_of
from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings
from sae_core.foundation.stages import Sizes, Stage
from sae_core.runs.planning.machines import MACHINES

TWO = Sizes(
    **{"widths": (8, 8), "active": (2, 2), "d_in": 4, "vocabulary": 50, "read": 90, "trained": 60, "steps": 6},
    **{"indexed": 30, "evaluated": 20, "run_flops": 300, "train_flops": 50_000, "token_flops": 90, "staged": True},
)


def test_every_stage_stands_once_and_behind_those_that_it_needs() -> None:
    keys = [stage.key for stage in STAGES]
    assert len(set(keys)) == len(keys)
    for place, stage in enumerate(STAGES):
        assert {need.key for need in stage.needs} <= set(keys[:place]), stage.key


def test_whatever_a_command_walks_through_can_be_done_and_says_what_it_writes(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", load_settings())
    for stage in (*PREPARING, *evaluations(EVALUATIONS)):
        assert stage.do is not None, stage.key
        assert list(stage.files(run, "single")), stage.key
    assert [stage.name for stage in stages_of("evaluate")] == list(EVALUATIONS)


def test_evaluations_come_with_those_that_they_need() -> None:
    assert [stage.name for stage in evaluations(["cost"])] == ["reconstruction", "cost"]
    assert [stage.name for stage in evaluations(["dictionary"])] == ["dictionary"]
    assert evaluations(["unknown"]) == []


def test_a_command_is_done_when_all_that_it_leaves_behind_is_there(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", load_settings(overrides={"training.methods": ["single"]}))
    run.finish("corpus")
    assert not is_done(run, "train")
    run.finish("train/single", files=[run.manifest_path])
    assert is_done(run, "train")  # whose activations may be deleted
    run.finish("train/single", files=[tmp_path / "run" / "gone"])
    assert not is_done(run, "train")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.key)
def test_more_of_everything_costs_more(stage: Stage) -> None:
    more = Sizes(
        **{name: 3 * getattr(TWO, name) for name in ("d_in", "vocabulary", "read", "trained", "indexed", "evaluated")},
        **{name: 3 * getattr(TWO, name) for name in ("steps", "run_flops", "train_flops", "token_flops")},
        **{"widths": (16, 16), "active": (4, 4), "substituted": 20, "detected": 6, "staged": True},
    )
    less = replace(TWO, substituted=10, detected=3)
    seconds = MACHINES["laptop"].seconds
    assert seconds(stage, more) > seconds(stage, less) > 0
    assert stage.memory(more) >= stage.memory(less) >= 0
    assert stage.written(more) >= stage.written(less) >= 0


def test_what_is_declared_is_read_without_torch() -> None:
    code = "import sys, sae_core.analysis.stages; print([name for name in ('torch', 'pandas') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
