"""Members of a bag in groups that fit into memory: the same weights as in one pass, no figure of the whole bag."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from eventful import failing_at
from small_runs import BATCH, MEMBERS, STEPS, WIDTH, D, assert_same_training, curves, data, new_run, trained, weights
from sources import TensorSource

from sae_core.foundation.machine.host_memory import free_host_memory
from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.training import train as methods
from sae_core.training.memory import USABLE, fitting_members
from sae_core.training.stage import Plan
from sae_core.training.train import train_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A bag that was trained in one pass."""
    return trained(tmp_path_factory.mktemp("runs") / "whole", methods=["bagged"])


@pytest.mark.parametrize("group", [1, 2])
def test_groups_are_trained_as_in_one_pass(whole: Run, group: int, tmp_path: Path) -> None:
    run, source, ticks = new_run(tmp_path / "run", methods=["bagged"], group=group), TensorSource(data()), list[Tick]()
    train_run(run, source=source, progress=ticks.append)
    passes = -(-MEMBERS // group)
    assert source.handed_out == passes * STEPS
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(run)[name]), name
    free = ["seconds", "explained_variance_total"]
    one, other = (
        curves(each, "bagged").drop(columns=free).sort_values(["member", "step"], ignore_index=True)
        for each in (whole, run)
    )
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert list(dict.fromkeys(tick.stage for tick in ticks)) == [
        f"train bagged, pass {number + 1} of {passes}" for number in range(passes)
    ]
    assert ticks[-1].done == ticks[-1].total == passes * STEPS * BATCH
    assert all(0 < tick.figures["explained variance"] < 1 for tick in ticks)
    assert not run.ensemble("bagged").checkpoint.exists()


def test_what_the_whole_explains_is_not_claimed_of_groups(whole: Run, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", methods=["bagged", "single"], group=2)
    assert curves(run, "bagged")["explained_variance_total"].isna().all()
    assert not curves(run, "single").isna().any(axis=None)
    assert not curves(whole, "bagged").isna().any(axis=None)


def test_seconds_of_groups_add_up(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", methods=["bagged", "single"], group=2)
    facts, table = run.facts("train/bagged"), curves(run, "bagged")
    longest = table.groupby("member")["seconds"].max()
    assert longest[0] == longest[1]
    assert facts["seconds"] == pytest.approx(longest[0] + longest[2], abs=2e-3)
    assert facts["side_by_side"] == 2
    assert run.facts("train/single")["seconds"] == pytest.approx(longest[0] / 2, abs=2e-3)


def test_a_finished_group_is_kept_and_groups_stay_as_they_were(whole: Run, tmp_path: Path) -> None:
    """Interrupted in pass 2 and again; meanwhile the setting is another, and so would be the groups."""
    run = new_run(tmp_path / "run", methods=["bagged"], group=2)
    with pytest.raises(ZeroDivisionError):
        train_run(run, source=failing_at(STEPS + 30, ZeroDivisionError), checkpoint_seconds=0.0)
    before = (run.ensemble("bagged").member(1) / "sae_weights.safetensors").stat().st_mtime_ns
    other = Run(run.path, new_run(tmp_path / "other", methods=["bagged"], group=1).settings)
    with pytest.raises(ZeroDivisionError):
        train_run(other, source=failing_at(10, ZeroDivisionError), checkpoint_seconds=0.0)
    assert (run.ensemble("bagged").member(1) / "sae_weights.safetensors").stat().st_mtime_ns == before
    source = TensorSource(data())
    train_run(other, source=source)
    assert source.handed_out == STEPS - 25
    assert run.facts("train/bagged")["side_by_side"] == 2
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(run)[name]), name


def test_groups_are_made_when_memory_is_short(whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for two of three members; with all the memory of this machine they are trained in one pass."""
    plan = Plan.of("bagged", TensorSource(data()), whole.settings.training, torch.device("cpu"))
    short = next(free for free in range(0, 10**8, 10**3) if fitting_members(whole.settings, plan, D, free=free) == 2)
    with monkeypatch.context() as patched:
        patched.setattr(methods, "free_memory", lambda device: short)
        run = trained(tmp_path / "short", methods=["bagged"])
    assert run.facts("train/bagged")["side_by_side"] == 2
    assert whole.facts("train/bagged")["side_by_side"] == MEMBERS
    again = trained(tmp_path / "again", methods=["bagged"])
    assert_same_training(again, whole)


def test_as_many_members_fit_as_the_memory_holds(whole: Run) -> None:
    """With a batch of one, memory is next to nothing but weights, gradients and moments: at least 16 bytes each."""
    settings = new_settings(members=8)
    plan = Plan("bagged", 10, 1, 1, 0, torch.device("cpu"))
    parameters = 2 * D * WIDTH + WIDTH + D
    sizes = [fitting_members(settings, plan, D, free=free) for free in range(0, 400 * parameters, 100)]
    assert sizes[0] == 1
    assert sizes[-1] == 8
    assert sizes == sorted(sizes)
    # 8 members in two passes are 4 and 4, never 5 and 3.
    assert set(sizes) == {1, 2, 3, 4, 8}
    for number, size in enumerate(sizes):
        assert size == 1 or size * 16 * parameters <= USABLE * 100 * number
    assert fitting_members(settings, plan, D, free=None) == 8


def new_settings(**training: object) -> RunSettings:
    return RunSettings.model_validate({"sae": {"width": WIDTH, "k": 3}, "training": training})


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  700 kB\nCached:  9 kB\n"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        ({"proc/meminfo": MEMINFO}, 700 * 1024),
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/b/memory.current": "7\n",
                "sys/fs/cgroup/a/memory.max": "5000\n",
                "sys/fs/cgroup/a/memory.current": "4000\n",
                "sys/fs/cgroup/a/memory.stat": "anon 3\ninactive_file 250\n",
            },
            1250,
        ),
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "5:cpu:/\n4:memory:/host/path\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
                "sys/fs/cgroup/memory/memory.stat": "cache 5\ntotal_inactive_file 100\n",
            },
            8100,
        ),
    ],
)
def test_free_memory_is_what_the_system_and_its_groups_leave(
    files: dict[str, str], free: int | None, tmp_path: Path
) -> None:
    assert free_host_memory(write(tmp_path, files)) == free
