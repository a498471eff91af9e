"""A campaign of malformed inputs: each ends in one sentence or works correctly, and harms nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import Outcome, call
from hostile import arrays, checkpoints, folders, labels, settings, texts
from hostile.campaign import Case, World, attempt, complaints
from models import build_model_folder

from sae_core.foundation.errors import UserError

GROUPS: dict[str, Callable[[World], Iterator[Case]]] = {
    generate.__name__: generate
    for generate in (
        texts.training_texts,
        texts.task_tables,
        settings.single_settings,
        settings.combinations,
        settings.settings_files,
        settings.arguments,
        folders.model_folders,
        folders.sae_folders,
        folders.run_files,
        checkpoints.foreign_saes,
        labels.label_files,
        labels.addresses,
        arrays.array_files,
        arrays.row_tables,
    )
}
FEWEST = 530


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small model, a text, and a run that is trained, indexed and evaluated."""
    folder = tmp_path_factory.mktemp("hostile")
    model, text = build_model_folder(folder / "model"), folder / "text.jsonl"
    text.write_bytes(texts.WHOLE[".jsonl"])
    world = World(folder / "cases", model, text, folder / "run")
    options = world.training(methods="bagged", members=2)
    for words in (("train", world.run, *options), ("index", world.run), ("evaluate", world.run)):
        assert call(*words).code == 0
    return world


@pytest.fixture
def world(source: World) -> Iterator[World]:
    source.folder.mkdir()
    yield World(source.folder, source.model, source.text, source.run)
    shutil.rmtree(source.folder)


@pytest.fixture(scope="module")
def counts() -> dict[str, int]:
    """Cases that were tried, by group."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_malformed_input_ends_in_one_sentence(world: World, counts: dict[str, int], group: str) -> None:
    cases = list(GROUPS[group](world))
    counts[group] = len(cases)
    found = [line for case in cases for line in complaints(case)]
    assert not found, f"{len(found)} faults in {len(cases)} cases:\n" + "\n".join(found)


def test_code_in_checkpoints_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    cases = list(checkpoints.code_in_files(World(tmp_path / "cases", tmp_path, tmp_path, tmp_path)))
    assert not [line for case in cases for line in complaints(case)]
    assert len(cases) >= 7


@pytest.mark.slow
def test_there_were_enough_cases(counts: dict[str, int]) -> None:
    if len(counts) < len(GROUPS):
        pytest.skip("not all groups were run")
    assert sum(counts.values()) >= FEWEST


def test_a_seed_gives_the_same_cases(world: World, tmp_path: Path) -> None:
    names = [case.name for case in folders.sae_folders(world)]
    (tmp_path / "again").mkdir()
    again = World(tmp_path / "again", world.model, world.text, world.run)
    assert names == [case.name for case in folders.sae_folders(again)]
    assert len(set(names)) == len(names)


def test_the_campaign_sees_faults(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps({"a": 1}))

    def crash() -> Outcome:
        raise KeyError("lost")

    def refuse(sentence: str) -> Callable[[], Outcome]:
        def act() -> None:
            raise UserError(sentence)

        return lambda: attempt(act)

    def harm() -> Outcome:
        kept.write_text("{}")
        return Outcome(2, "", "Error: kept.json is damaged.")

    good = Case("good", refuse("kept.json is damaged; delete it."), says=("kept.json",), kept=(kept,))
    assert not complaints(good)
    assert not complaints(Case("done", lambda: Outcome(0, "", ""), "done"))
    for act, fate, says, word in (
        (crash, "either", (), "KeyError"),
        (lambda: Outcome(0, "", ""), "refused", (), "must be refused"),
        (refuse("No."), "done", (), "must be done"),
        (lambda: Outcome(1, "", "Error: it failed."), "refused", (), "exit code 1"),
        (lambda: Outcome(2, "", "Error: one.\nError: two."), "refused", (), "not one sentence"),
        (lambda: Outcome(2, "", "Traceback (most recent call last):\nError: x."), "refused", (), "traceback"),
        (refuse("no full stop"), "refused", (), "not one sentence"),
        (refuse("Something is wrong."), "refused", ("kept.json",), "names none"),
        (harm, "refused", (), "changed"),
    ):
        assert any(word in line for line in complaints(Case("bad", act, fate, says, (kept,)))), word
