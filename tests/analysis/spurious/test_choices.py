"""Choices of features to ablate: stored by name and author, found again, exported, and refused if empty."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from sae_core.analysis.spurious.choices import Choice, as_csv, as_json, choices, delete_choice, save_choice
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings

ADA = Choice("bios", "bagged", "gendered words", "Ada", (7, 3, 3), "ab12", figures={"target": 0.9})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", RunSettings())


def test_a_choice_is_found_again_and_replaced_by_one_of_the_same_name_and_author(run: Run) -> None:
    kept = save_choice(run, ADA)
    assert kept.features == (3, 7)
    assert len(kept.created) == 20
    assert choices(run, "bios") == [kept]
    again = save_choice(run, replace(ADA, features=(9,), name=" gendered words "))
    assert choices(run, "bios") == [again]
    others = [
        save_choice(run, replace(ADA, author="../../etc")),
        save_choice(run, replace(ADA, method="boosted")),
        save_choice(run, replace(ADA, name="a/b <i>")),
    ]
    assert {choice.author for choice in choices(run, "bios")} == {"Ada", "../../etc"}
    assert choices(run, "bios", "boosted") == [others[1]]
    assert [choice.name for choice in choices(run, "bios", "bagged")] == ["a/b <i>", *["gendered words"] * 2]
    assert not choices(run, "other")
    folder = run.spurious_choices("bios")
    assert len(list(folder.glob("*.json"))) == 4
    assert {path.parent for path in run.path.rglob("*") if path.is_file()} == {run.path, folder}
    delete_choice(run, again)
    delete_choice(run, again)
    assert again not in choices(run, "bios")
    assert len(choices(run, "bios")) == 3


def test_nothing_and_nameless_choices_are_refused_and_damage_is_named(run: Run) -> None:
    with pytest.raises(UserError, match="tick some"):
        save_choice(run, replace(ADA, features=()))
    for name in ("  ", "x" * 81):
        with pytest.raises(UserError, match="1 to 80 characters"):
            save_choice(run, replace(ADA, name=name))
    assert not run.spurious_choices("bios").exists()
    save_choice(run, ADA)
    path = next(run.spurious_choices("bios").glob("*.json"))
    path.write_text('{"task": "bios"}', encoding="utf-8")
    with pytest.raises(UserError, match="is damaged; delete it"):
        choices(run, "bios")


def test_exports_hold_every_feature_with_its_evidence() -> None:
    choice = replace(ADA, features=(3, 7), name='=cmd() "x", y')
    rows = [{"feature": 3, "label": "@pronoun", "score": -0.5}, {"feature": 7, "label": "", "score": 2}]
    content = json.loads(as_json(choice, rows))
    assert content["features"] == [3, 7]
    assert content["name"] == choice.name
    assert content["evidence"] == rows
    assert content["figures"] == {"target": 0.9}
    table = list(csv.DictReader(io.StringIO(as_csv(choice, rows, [4, 4]))))
    places = [(row["feature"], row["member"], row["latent"]) for row in table]
    assert places == [("3", "0", "3"), ("7", "1", "3")]
    assert [row["score"] for row in table] == ["-0.5", "2"]
    assert table[0]["label"] == "'@pronoun"
    assert table[0]["name"] == f"'{choice.name}"
