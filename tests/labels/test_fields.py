"""What people write in a label is declared in one place: a field that is added there works everywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sae_core
from sae_core.foundation.errors import UserError
from sae_core.labels import LabelStore
from sae_core.labels.database import database_at
from sae_core.labels.fields import Whole, Words

NUMBER = Whole(title="Confidence", least=1, most=5, since=4)
DECLARATION = "    source: Source | None = None\n    version: int"
ADDED = """    source: Source | None = None
    sure: int | None = field(default=None, metadata=written(Whole(title="Sure", least=1, most=5, since=4)))
    tag: str = field(default="", metadata=written(Words(title="Tag", longest=9, since=4, spreads=True)))
    version: int"""


@pytest.mark.parametrize("text", ["0", "6", "2.0", "-1", "x", "²", "9" * 30])
def test_a_number_out_of_range_is_refused_and_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number from 1 to 5"):
        NUMBER.parse(text)


def test_a_value_is_read_back_from_its_text() -> None:
    for value in (None, 1, 5):
        assert NUMBER.parse(f" {NUMBER.text(value)} ") == value
        assert NUMBER.fault(value) == ""
    assert "6 is not a number" in NUMBER.fault(6)
    assert "'3' is not a number" in NUMBER.fault("3")
    words = Words(title="Tag", longest=3, since=4)
    assert words.parse(" a\0b ") == "ab"
    assert (words.fault("abc"), "it has 4 characters and 3 fit" in words.fault("abcd")) == ("", True)


PROGRAM = """
import json, sys
from sae_core.labels import Copy, Edit, LabelStore, Label, plan_import
from sae_core.labels.database import database_at

said = []
for address in sys.argv[1:]:
    store = LabelStore.shared(database_at(address), "old", created="1")
    def save(feature, seen=None, **values):
        return store.save([Edit(Label.by("Ada", "bagged", (feature, 0, feature), values), seen)], author="Ada")
    first = store.get("bagged", 1)
    save(1, label="one", sure=3)
    save(1, label="one", sure=4, tag="t")
    store.propagate("bagged", 1, [Copy(2, 0, 2, 0.9)], author="Ada")
    save(1, label="one", tag="new")
    given = store.get("bagged", 2)
    csv = store.to_csv()
    same = plan_import(store, csv, {"bagged": [8]}).same
    older = plan_import(store, "ensemble,feature,label\\nbagged,2,else\\n", {"bagged": [8]}).edits()[0].wanted
    try:
        plan_import(store, "ensemble,feature,label,sure\\nbagged,2,x,7\\n", {"bagged": [8]})
    except Exception as error:
        fault = str(error)
    steps = [store.undo("Ada", store.last_step("Ada").number).restored for _ in range(3)]
    last = store.get("bagged", 1)
    said.append({
        "first": [first.label, first.sure, first.tag], "given": [given.label, given.sure, given.tag], "csv": csv,
        "same": same, "older": [older.label, older.tag], "fault": fault, "steps": steps,
        "last": [last.label, last.sure, last.tag], "dtype": str(store.table()["sure"].dtype),
        "new": [change.new and change.new["sure"] for change in store.history("bagged", 1)],
    })
print(json.dumps(said))
"""


def test_a_field_that_is_added_to_the_declaration_works_everywhere(server: str, tmp_path: Path) -> None:
    addresses = [f"sqlite:///{tmp_path}/team.sqlite", f"{server}&options=-csearch_path%3Dadded"]
    make_schema(server)
    for address in addresses:
        store = LabelStore.shared(database_at(address), "old", created="1")
        store.set("bagged", 0, 1, 1, "first", "", "Ada")
    shutil.copytree(Path(sae_core.__file__).parent, tmp_path / "sae_core", ignore=shutil.ignore_patterns("__pycache__"))
    declared = tmp_path / "sae_core" / "labels" / "records.py"
    source = declared.read_text()
    assert source.count(DECLARATION) == 1
    declared.write_text(source.replace(DECLARATION, ADDED).replace("import Field,", "import Whole, Field,"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *addresses],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for said in json.loads(done.stdout):
        header, *rows = said.pop("csv").splitlines()
        assert header.startswith("run,ensemble,feature,member,latent,label,note,sure,tag,author,time,source_feature")
        assert [row.split(",")[5:9] for row in rows] == [["one", "", "", "new"], ["one", "", "", "new"]]
        assert said == {
            "first": ["first", None, ""],
            "given": ["one", None, "new"],
            "same": 2,
            "older": ["else", "new"],
            "fault": "Line 2, column sure: '7' is not a number from 1 to 5.",
            "steps": [2, 1, 1],
            "last": ["one", 3, ""],
            "dtype": "Int64",
            "new": [None, 3, 4, None, 4, 3],
        }
    # This program would lose what the new fields hold, so it refuses these tables.
    for address in addresses:
        with pytest.raises(UserError, match="newer sae-ensemble"):
            LabelStore.shared(database_at(address), "old", created="1").set("bagged", 0, 1, 1, "lost")


def make_schema(server: str) -> None:
    """Make a place for tables that no other test uses."""
    import psycopg

    with psycopg.connect(server) as connection:
        connection.execute("CREATE SCHEMA added")
