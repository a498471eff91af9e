"""What trackers are told is what the training curves say, and a tracker that fails ends no training."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import call
from small_runs import curves, data, new_run
from sources import TensorSource

from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Tick, silent
from sae_core.foundation.run import Run
from sae_core.runs import trackers
from sae_core.training.train import train_run


class Recorder:
    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.closed = folder, False
        self.points: dict[tuple[str, int], float] = {}
        made.append(self)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.points |= {(name, step): value for name, value in figures.items()}

    def close(self) -> None:
        self.closed = True


made: list[Recorder] = []


def train(path: Path, *names: str, progress: Any = silent) -> Run:
    run = new_run(path, methods=("bagged", "boosted"))
    with trackers.tracked(progress, names, path, run.settings.model_dump(mode="json")) as tracked:
        train_run(run, source=TensorSource(data()), progress=tracked)
    return run


def expected(run: Run) -> dict[tuple[str, int], float]:
    """Every point of the curves that the run keeps, under the names that trackers are told.

    The first stage of boosting is the bag's first member, so it is not trained again.
    """
    points: dict[tuple[str, int], float] = {}
    for method in ("bagged", "boosted"):
        table = curves(run, method).drop(columns="seconds")
        for row in table[table["member"] >= (method == "boosted")].to_dict("records"):
            member, step = row.pop("member"), row.pop("step")
            stage = "train bagged" if method == "bagged" else f"train boosted, stage {member + 1} of 3"
            points |= {(f"{stage}/member {member}/{name}", step): value for name, value in row.items()}
    return points


def test_trackers_are_told_the_training_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "TRACKERS", {"json": Recorder})
    made.clear()
    run = train(tmp_path / "run", "json")
    told = {place: value for place, value in made[0].points.items() if not place[0].endswith("/seconds")}
    pd.testing.assert_series_equal(
        pd.Series(told).sort_index(), pd.Series(expected(run)).sort_index(), rtol=1e-6, check_index_type=False
    )
    assert made[0].closed
    assert made[0].folder == run.path


class Failing(Recorder):
    def log(self, figures: Mapping[str, float], step: int) -> None:
        raise OSError("no route to host\nmore")


def test_a_tracker_that_fails_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "TRACKERS", {"json": Failing})
    notes: list[str] = []

    def progress(tick: Tick) -> None:
        notes.extend([tick.note] if tick.note else [])

    run = train(tmp_path / "run", "json", progress=progress)
    assert notes == ["The tracker json failed (no route to host); the training goes on without it."]
    assert len(curves(run, "bagged"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("mlflow", "Unknown tracker 'mlflow'; choose from tensorboard, wandb, trackio."),
        ("", "Unknown tracker ''"),
        ("here,here", "The tracker here is named twice"),
        ("here", "The package here is not installed; run pip install here."),
    ],
)
def test_trackers_that_cannot_be_are_refused(names: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "here" in names:
        monkeypatch.setattr(trackers, "TRACKERS", {"here": Recorder})
        monkeypatch.setattr(trackers, "find_spec", lambda name: object() if "," in names else None)
    with pytest.raises(UserError, match="^" + message.replace("'", ".")):
        trackers.chosen_trackers(names)


def test_the_command_refuses_an_unknown_tracker_before_it_makes_a_run(tmp_path: Path) -> None:
    outcome = call("train", tmp_path / "run", "--log", "mlflow")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.interop
def test_tensorboard_shows_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tmp_path / "run", "tensorboard")
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    told = {(name, event.step): event.value for name in events.Tags()["scalars"] for event in events.Scalars(name)}
    wanted = pd.Series(expected(run)).sort_index()
    pd.testing.assert_series_equal(
        pd.Series({place: value for place, value in told.items() if not place[0].endswith("/seconds")}).sort_index(),
        wanted,
        rtol=1e-6,
        check_index_type=False,
    )


@pytest.mark.interop
def test_trackio_keeps_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    train(tmp_path / "run", "trackio")
    kept = next((tmp_path / "trackio").glob("*.db"))
    with sqlite3.connect(kept) as database:
        steps = [step for (step,) in database.execute("SELECT step FROM metrics")]
    assert max(steps) == 60


@pytest.mark.interop
def test_wandb_keeps_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = train(tmp_path / "run", "wandb")
    assert list((run.path / "wandb").glob("offline-run-*/*.wandb"))
