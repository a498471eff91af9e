"""Runs go to a hub and come back whole, and every refusal is one sentence. The hub is one of our own, on localhost."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from small_hub import TOKEN, SmallHub, small_hub

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_object
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.labels import LabelStore
from sae_core.report.hub import CARD, pull, push


@pytest.fixture(scope="module")
def run(copied_run: Run) -> Run:
    LabelStore(copied_run.labels, copied_run.name).set("bagged", 0, 0, 0, "dates", author="Ann")
    return copied_run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SmallHub]:
    with small_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        template = f"{served.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"  # made of it at import
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield served


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_comes_back_as_it_was(run: Run, hub: SmallHub, tmp_path: Path) -> None:
    (run.activations / "train").mkdir(parents=True, exist_ok=True)
    (run.activations / "train" / "shard").write_bytes(b"much")
    (run.path / "diary.txt").write_text("of nobody's concern")
    push(run, "me/demo")
    assert hub.private["me/demo"]
    kept = {name for name in contents(run.path) if not name.startswith(("activations", "labels", "diary"))}
    assert set(hub.files("me/demo")) == {*kept, CARD, ".gitattributes"}
    pulled = pull("me/demo", tmp_path / "back")
    there, back = contents(run.path), contents(tmp_path / "back")
    assert back == {name: there[name] for name in kept}
    assert pulled.run.identity == run.identity
    # Again: the same run, so it is brought up to date.
    push(run, "me/demo")


def test_the_card_has_figures_and_how_to_load(run: Run, hub: SmallHub) -> None:
    push(run, "me/demo")
    card = hub.files("me/demo")[CARD].decode()
    assert card.startswith('---\nlibrary_name: "sae-ensemble"\n')
    assert f"sae-ensemble pull me/demo {run.name}\n" in card
    table = [line for line in card.splitlines() if line.startswith("|")]
    assert table[0].startswith("| ensemble | Explained variance |")
    assert {line.count(" | ") for line in table if "---" not in line} == {table[0].count(" | ")}
    explained = read_object(run.evaluation("reconstruction"))["ensembles"]["bagged"]["explained_variance"]
    assert next(line for line in table if line.startswith("| bagged |")).startswith(
        f"| bagged | {100 * explained:.2f} % ("
    )


def test_text_and_labels_go_along_only_if_asked(run: Run, hub: SmallHub, tmp_path: Path) -> None:
    push(run, "me/weights", weights_only=True, with_labels=True)
    names = set(hub.files("me/weights"))
    assert not {name for name in names if name.startswith(("corpus", "evaluation/spurious")) or "index" in name}
    assert {"labels.sqlite", "run.json", "ensembles/bagged/member_00/sae_weights.safetensors"} <= names
    pulled = pull("me/weights", tmp_path / "back").run
    with closing(sqlite3.connect(pulled.labels)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert [one.label for one in LabelStore(pulled.labels, pulled.name).all()] == ["dates"]


def test_an_interrupted_fetch_goes_on(run: Run, hub: SmallHub, tmp_path: Path) -> None:
    push(run, "me/demo")
    hub.broken_after = hub.gets + 10
    with pytest.raises(UserError, match="answered 403 for me/demo"):
        pull("me/demo", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    hub.broken_after, before = None, hub.gets
    pull("me/demo", tmp_path / "back")
    assert hub.gets - before < len(hub.files("me/demo")) - 2
    assert [path.name for path in tmp_path.iterdir() if path.name != "hub"] == ["back"]


def test_what_cannot_be_is_refused(run: Run, hub: SmallHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(run, "me/demo")
    before = dict(hub.files("me/demo"))
    other = Run.open(shutil.copytree(run.path, tmp_path / "other"))
    manifest = other.manifest_path.read_text().replace(run.identity, "another")
    other.manifest_path.write_text(manifest)
    with pytest.raises(UserError, match="me/demo holds another run"):
        push(Run.open(other.path), "me/demo")
    with pytest.raises(UserError, match="'demo' is no repository"):
        push(run, "demo")
    with pytest.raises(UserError, match="Nothing is trained"):
        push(Run.create(tmp_path / "new", RunSettings()), "me/new")
    hub.commits["me/other"], hub.private["me/other"] = [{"model.safetensors": b""}], False
    with pytest.raises(UserError, match="me/other holds something else"):
        push(run, "me/other")
    with pytest.raises(UserError, match="me/other holds no run"):
        pull("me/other", tmp_path / "back")
    with pytest.raises(UserError, match="has no repository me/none, or hides it"):
        pull("me/none", tmp_path / "back")
    with pytest.raises(UserError, match="has no such revision"):
        pull("me/demo", tmp_path / "back", revision="v9")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(UserError, match="is there already"):
        pull("me/demo", tmp_path / "taken")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"answered 401 for me/mine .*log in"):
        push(run, "me/mine")
    with pytest.raises(UserError, match="hides it"):
        pull("me/demo", tmp_path / "back")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="cannot be reached"):
        pull("me/demo", tmp_path / "back")
    assert hub.files("me/demo") == before
    assert not (tmp_path / "back").exists()


def test_a_run_that_is_damaged_on_the_hub_is_not_put_in_place(run: Run, hub: SmallHub, tmp_path: Path) -> None:
    push(run, "me/demo")
    hub.files("me/demo")["run.json"] = b"{"
    with pytest.raises(UserError, match=r"run\.json of me/demo is damaged"):
        pull("me/demo", tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir() if path.name != "hub"] == []


def test_a_run_is_fetched_into_an_empty_folder_behind_a_link_but_not_the_current_one(
    run: Run, hub: SmallHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run, "me/demo", weights_only=True)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    with pytest.raises(UserError, match="is there already"):
        pull("me/demo", Path())
    monkeypatch.chdir(tmp_path)
    pull("me/demo", Path("link"))
    assert (tmp_path / "link").is_symlink()
    assert Run.open(tmp_path / "real").identity == run.identity


def test_a_fetch_that_another_call_has_overtaken_says_so(
    run: Run, hub: SmallHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run, "me/demo", weights_only=True)
    there = tmp_path / "back" / "run.json"
    monkeypatch.setattr(HfApi, "snapshot_download", lambda *_, **__: shutil.copytree(run.path, there.parent))
    with pytest.raises(UserError, match="is there already"):
        pull("me/demo", tmp_path / "back")
    assert there.exists()
