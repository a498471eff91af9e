"""The run folder: created, reopened, refused; files that appear whole or not at all."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import (
    read_json,
    read_table,
    read_tensors,
    replacing,
    write_json,
    write_table,
    write_tensors,
)
from sae_core.foundation.run import Run, find_runs
from sae_core.foundation.settings.reading import load_settings
from sae_core.foundation.settings.run_settings import RunSettings


def test_create_then_open_gives_the_same_settings(tmp_path):
    settings = load_settings(overrides={"sae.k": 4, "training.methods": ["boosted"]})
    run = Run.create(tmp_path / "run", settings)
    run.finish("corpus", {"documents": 3})
    again = Run.open(tmp_path / "run")
    assert again.settings == settings
    assert again.is_finished("corpus")
    assert not again.is_finished("train/boosted")
    assert again.facts("corpus") == {"documents": 3}
    assert again.read_manifest()["versions"]["torch"]


def test_same_settings_reopen_and_other_settings_are_refused(tmp_path):
    Run.create(tmp_path / "run", load_settings()).finish("corpus")
    assert Run.create(tmp_path / "run", load_settings()).is_finished("corpus")
    with pytest.raises(UserError, match=r"sae\.k is 16 there, 5 here"):
        Run.create(tmp_path / "run", load_settings(overrides={"sae.k": 5}))


def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"no run\.json"):
        Run.create(tmp_path, load_settings())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "manifest", ['{"format": 1, "sett', "[]", "{}", '{"format": 99, "settings": {}, "finished": {}}']
)
def test_a_damaged_or_newer_manifest_is_one_sentence(tmp_path, manifest):
    (tmp_path / "run.json").write_text(manifest)
    with pytest.raises(UserError) as caught:
        Run.open(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_find_runs(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        find_runs(tmp_path)
    for name in ("b", "a"):
        Run.create(tmp_path / name, load_settings())
    assert find_runs(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert find_runs(tmp_path / "b") == [tmp_path / "b"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "figures.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"new": float("nan")})
    with pytest.raises(OSError, match="No space"):
        _write_half(path)
    assert read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["figures.json"]


def test_tensors_and_tables_round_trip_and_a_cut_off_file_is_named(tmp_path):
    tensors = {"a": torch.arange(6).reshape(2, 3).T, "b": torch.zeros(0, 4)}
    write_tensors(tmp_path / "t.safetensors", tensors)
    table = pd.DataFrame({"x": [1, 2], "y": ["=cmd()", "β"]})
    write_table(tmp_path / "t.parquet", table)
    back = read_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), table)
    for name, read in (("t.safetensors", read_tensors), ("t.parquet", read_table), ("t.json", read_json)):
        path = tmp_path / name
        content = path.read_bytes() if path.exists() else json.dumps({"key": "value"}).encode()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=f"{name} is damaged"):
            read(path)


def _write_half(path):
    with replacing(path) as partial:
        partial.write_text("half")
        raise OSError(28, "No space left on device")


def test_a_run_is_told_from_others_and_keeps_its_identity_when_it_is_copied(tmp_path: Path) -> None:
    one, other = (Run.create(tmp_path / name / "run", RunSettings()) for name in ("one", "other"))
    assert one.identity != other.identity
    copy = Run.open(shutil.copytree(one.path, tmp_path / "renamed"))
    assert copy.identity == one.identity
    for run, created in (
        (one, "2026-01-01T00:00:00Z"),
        (other, "2026-01-02T00:00:00Z"),
        (copy, "2026-01-01T00:00:00Z"),
    ):
        old = {name: value for name, value in run.read_manifest().items() if name != "id"}
        write_json(run.manifest_path, old | {"created": created})
    one, other, copy = (Run.open(run.path) for run in (one, other, copy))
    assert one.identity == copy.identity != other.identity
    one.finish("corpus", {"fingerprint": "x"})
    assert Run.open(one.path).identity == copy.identity


def test_the_manifest_is_read_once_and_again_when_it_was_written_by_others(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", load_settings())
    other = Run.open(run.path)
    assert run.read_manifest() is run.read_manifest()
    assert not run.is_finished("corpus")
    other.finish("corpus", {"tokens": 7})
    assert run.is_finished("corpus")
    assert run.facts("corpus") == {"tokens": 7}
    before = run.read_manifest()
    run.finish("activations")
    assert "activations" not in before["finished"]
    assert other.is_finished("activations")
    run.manifest_path.unlink()
    with pytest.raises(UserError, match=r"run\.json"):
        run.is_finished("corpus")
