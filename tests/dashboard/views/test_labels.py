"""Labels in the dashboard: edited, in bulk and for families, taken back, imported, and two people at one label."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from app_pages import html, info, open_page, save
from streamlit.testing.v1 import AppTest
from synthetic_run import INJECTION, write_synthetic_run

from dashboard.shared import label_tables
from sae_core.analysis.similarity.pair_scores import atom_cosines
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.machine import environment as variables
from sae_core.foundation.run import Run
from sae_core.labels import WRITTEN, Change, Conflict, Edit, Label, LabelStore, Source, Step

INFO = info("bagged", 8, 8, 4)


def label(feature: int, text: str, note: str = "", source: Source | None = None, version: int = 1) -> Label:
    member, latent = INFO.place(feature)
    return Label("bagged", member, latent, feature, text, note, "Ada", "2026-01-31T12:00:00Z", source, version)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_synthetic_run(tmp_path_factory.mktemp("labels") / "run")


@pytest.fixture
def run(whole_run: Run, tmp_path: Path) -> Run:
    """A copy that a test may write into."""
    return Run.open(shutil.copytree(whole_run.path, tmp_path / "run"))


def store_of(run: Run) -> LabelStore:
    return LabelStore(run.labels, run.name)


def texts(run: Run) -> dict[int, str]:
    return {one.feature: one.label for one in store_of(run).all("bagged")}


def write(run: Run, author: str, **by_feature: str) -> None:
    """Labels of the bagged ensemble, given as f3="text"."""
    width = run.settings.sae.width
    for name, text in by_feature.items():
        feature = int(name[1:])
        store_of(run).set("bagged", feature // width, feature % width, feature, text, author=author)


def said(app: AppTest) -> str:
    return " ".join(one.value for one in [*app.success, *app.error])


def open_labels(monkeypatch: pytest.MonkeyPatch, run: Run, view: str = "all", author: str = "Cy") -> AppTest:
    monkeypatch.setenv("SAE_ENSEMBLE_AUTHOR", author)
    app = open_page(monkeypatch, run.path, "labels", ensemble="bagged", view=view)
    assert not app.exception
    return app


def test_a_list_of_features_is_read_and_a_part_that_names_none_is_named() -> None:
    assert label_tables.listed("", INFO) == []
    assert label_tables.listed("3, 17-19; 1:6-7\n2:3 3", INFO) == [3, 17, 18, 19, 14, 15]
    for text in ("20", "2:4", "3:0", "x", "-1", "5-3", "1:", "²", "9" * 30, "1:2:3", "<b>"):
        with pytest.raises(UserError, match="names no"):
            label_tables.listed(f"1 {text}", INFO)


def test_a_bulk_edit_sets_appends_or_removes_what_is_not_so_already() -> None:
    there = {1: label(1, "one", "note", version=7), 2: label(2, "common"), 3: label(3, "x; Common; y")}
    versions = {1: 7, 4: 5}

    def bulk(action: str, text: str = "common") -> list[tuple[int, str, str, int | None]]:
        edits = label_tables.bulk_edits(INFO, [1, 2, 3, 14], there, versions, action=action, text=text, author="Bob")
        assert {edit.wanted.author for edit in edits} == {"Bob"}
        return [(edit.wanted.feature, edit.wanted.label, edit.wanted.note, edit.seen) for edit in edits]

    assert bulk("set") == [(1, "common", "note", 7), (3, "common", "", 0), (14, "common", "", 0)]
    assert bulk("append") == [(1, "one; common", "note", 7), (14, "common", "", 0)]
    assert bulk("remove") == [(1, "", "", 7), (2, "", "", 0), (3, "", "", 0)]
    wanted = label_tables.bulk_edits(INFO, [14], {}, {}, action="set", text="x", author="Bob")[0].wanted
    assert (wanted.member, wanted.latent) == (1, 6)


def test_only_what_was_edited_since_the_last_time_is_saved() -> None:
    shown = [label(1, "one", "note", Source(9, 1, 1, 0.8), version=4), label(2, "two", version=6)]
    edits = label_tables.edits_in_table(
        shown, {0: {"label": "new"}, 1: {"note": None}, 5: {"label": "gone"}}, {}, "Bob"
    )
    assert [(e.wanted.label, e.wanted.note, e.wanted.author, e.seen) for e in edits] == [
        ("new", "note", "Bob", 4),
        ("two", "", "Bob", 6),
    ]
    assert edits[0].wanted.source is None  # a person's own from now on
    done = {0: {"label": "new"}}
    edits = label_tables.edits_in_table(shown, {0: {"label": "new"}, 1: {"label": "2"}}, done, "Bob")
    assert [e.wanted.feature for e in edits] == [2]
    edits = label_tables.edits_in_table(shown, {0: {"label": "newer", "note": "n"}}, done, "Bob")
    assert [(e.wanted.label, e.wanted.note) for e in edits] == [("newer", "n")]


def test_labels_are_found_by_words_ensemble_and_kind() -> None:
    found = [label(1, "Imports", "of numpy"), label(2, "imports", source=Source(1, 0, 1, 0.9)), label(3, "other")]
    assert label_tables.matching(found, "import NUMPY") == found[:1]
    assert label_tables.matching(found, "ada imports") == found[:2]
    assert label_tables.matching(found, "", kind="propagated") == found[1:2]
    assert label_tables.matching(found, "", kind="own") == [found[0], found[2]]
    assert label_tables.matching(found, "", ensemble="single") == []


def test_texts_of_people_stay_text() -> None:
    time = "2026-01-31T12:00:00Z"
    html_of = (
        label_tables.two_texts(label(1, INJECTION, INJECTION), None, INJECTION, time),
        label_tables.two_texts(label(1, "x"), label(1, INJECTION), INJECTION, ""),
        label_tables.history_table(
            [Change(dict.fromkeys(WRITTEN, INJECTION), dict.fromkeys(WRITTEN, INJECTION), *[INJECTION, time] * 2)]
        ),
        label_tables.steps_table([Step(1, INJECTION, INJECTION, time, INJECTION, 3, True)]),
    )
    for one in html_of:
        assert "&lt;img" in one
        assert "<img" not in one


def test_match_scores_are_cosines_of_atoms(whole_run: Run) -> None:
    folder, width = whole_run.ensemble("bagged"), whole_run.settings.sae.width
    from sae_core.ensembles.ensemble import load_ensemble

    atoms = load_ensemble(folder).dictionary.detach().numpy().astype(np.float64)
    others = [width, 2 * width + 5, 3]
    expected = [atoms[3] @ atoms[n] / np.linalg.norm(atoms[3]) / np.linalg.norm(atoms[n]) for n in others]
    assert np.allclose(atom_cosines(folder, [width] * 3, 3, others), expected, atol=1e-12)


def test_two_people_at_one_label_see_both_texts(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    write(run, "Ada", f30="first")
    monkeypatch.setenv("SAE_ENSEMBLE_AUTHOR", "Cy")
    app = open_page(monkeypatch, run.path, "feature", ensemble="bagged", feature="30")
    write(run, "Bob", f30=INJECTION)
    app.text_input(key="label-run-bagged-30").set_value("of Cy")
    save(app)
    assert texts(run) == {30: INJECTION}
    page = html(app)
    assert "Somebody was faster" in page
    assert "saved by Bob" in page
    assert "of Cy" in page
    assert INJECTION not in page
    app.button(key="labels-keep").click().run()
    assert texts(run) == {30: INJECTION}
    assert app.text_input(key="label-run-bagged-30").value == INJECTION
    assert "left as it was" in said(app)

    write(run, "Bob", f30="later")
    app.run()
    assert any("Bob has just saved" in one.value for one in app.markdown)
    app.text_input(key="label-run-bagged-30").set_value("of Cy")
    save(app)
    app.button(key="labels-mine").click().run()
    assert texts(run) == {30: "of Cy"}
    assert not app.exception
    write(run, "Bob", f30="last")
    app.run()
    app.button(key="label-load").click().run()
    assert app.text_input(key="label-run-bagged-30").value == "last"
    app.text_input(key="label-run-bagged-30").set_value("after loading")
    save(app)
    assert texts(run) == {30: "after loading"}


def test_a_family_gets_a_label_and_one_undo_takes_it_back(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    atoms = read_table(run.ensemble("bagged").atoms)
    family = atoms[atoms["family"] == atoms["family"].max()]["feature"].tolist()
    assert len(family) > 1
    monkeypatch.setenv("SAE_ENSEMBLE_AUTHOR", "Cy")
    app = open_page(monkeypatch, run.path, "feature", ensemble="bagged", feature=str(family[0]))
    app.text_input(key=f"label-run-bagged-{family[0]}").set_value("ours")
    app.checkbox(key=f"family-run-bagged-{family[0]}").check()
    save(app)
    assert texts(run) == dict.fromkeys(family, "ours")
    copy = store_of(run).get("bagged", family[1])
    assert copy is not None
    assert copy.source is not None
    assert copy.source.feature == family[0]
    app.button(key="label-undo").click().run()
    assert texts(run) == {}
    assert app.text_input(key=f"label-run-bagged-{family[0]}").value == ""
    assert "Taken back" in said(app)
    app.button(key="label-redo").click().run()
    assert texts(run) == dict.fromkeys(family, "ours")
    assert app.text_input(key=f"label-run-bagged-{family[0]}").value == "ours"
    assert "Made again" in said(app)
    assert app.button(key="label-redo").disabled


def test_several_labels_are_changed_and_taken_back(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    write(run, "Ada", f3="old")
    app = open_labels(monkeypatch, run, "several")
    app.text_area(key="several-list").set_value("3, 5-6, nonsense").run()
    assert "“nonsense” names no feature" in html(app)
    app.text_area(key="several-list").set_value("3, 5-6").run()
    app.text_input(key="several-text").set_value("bulk").run()
    app.selectbox(key="several-action").set_value("append").run()
    assert app.button(key="several-do").label == "Change 3 labels"
    app.button(key="several-do").click().run()
    assert texts(run) == {3: "old; bulk", 5: "bulk", 6: "bulk"}
    assert app.button(key="labels-redo").disabled
    app.button(key="labels-undo").click().run()
    assert texts(run) == {3: "old"}
    assert open_labels(monkeypatch, run, author="Dan").button(key="labels-redo").disabled
    monkeypatch.setenv("SAE_ENSEMBLE_AUTHOR", "Cy")
    app.button(key="labels-redo").click().run()
    assert texts(run) == {3: "old; bulk", 5: "bulk", 6: "bulk"}
    assert not app.exception
    assert "made again" in html(open_labels(monkeypatch, run, "changes"))


def test_several_chosen_by_a_filter_and_clashing_with_others(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    write(run, "Ada", f3="old", f4="old", f5="old")
    app = open_labels(monkeypatch, run, "several")
    app.segmented_control(key="several-by").set_value("a filter").run()
    app.selectbox(key="several-state").set_value("yes").run()
    app.text_input(key="several-text").set_value("mine").run()
    write(run, "Bob", f3="of Bob", f4="of Bob")
    app.button(key="several-do").click().run()
    assert texts(run) == {3: "of Bob", 4: "of Bob", 5: "old"}
    assert "faster at 2 labels" in html(app)
    control = next(one for one in app.segmented_control if one.label == "Labels that differ")
    control.set_value("Replace all").run()
    app.button(key="labels-mine").click().run()
    assert texts(run) == {3: "mine", 4: "mine", 5: "mine"}
    assert not app.exception


def test_families_get_labels_in_bulk(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    atoms = read_table(run.ensemble("bagged").atoms)
    first = int(atoms[atoms["family"] >= 0]["feature"].iloc[0])
    write(run, "Ada", **{f"f{first}": "source"})
    app = open_labels(monkeypatch, run, "several")
    app.text_area(key="several-list").set_value("0-71").run()
    app.selectbox(key="several-action").set_value("family").run()
    app.slider(key="several-least").set_value(0.0).run()
    app.button(key="several-do").click().run()
    size = int(atoms["family_size"].iloc[first])
    assert len(texts(run)) == size
    assert f"{size - 1} label" in said(app)
    app = open_labels(monkeypatch, run)
    table = app.data_editor[0].value
    assert sum("cosine" in text for text in table["source"]) == size - 1
    app = open_labels(monkeypatch, run, "changes")
    assert "given to a family" in html(app)


def test_an_import_shows_what_differs_before_it_writes(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    write(run, "Ada", f1="same", f2="theirs")
    app = open_labels(monkeypatch, run, "files")
    text = "ensemble,member,feature,label\nbagged,0,1,same\nbagged,0,2,mine\nbagged,0,3,'=new\n"
    app.file_uploader[0].set_value(("in.csv", text.encode(), "text/csv")).run()
    assert not app.exception
    assert texts(run) == {1: "same", 2: "theirs"}
    assert app.button(key="labels-import").label == "Import 1 label"
    control = next(one for one in app.segmented_control if one.label == "Labels that differ")
    control.set_value("Replace all").run()
    app.button(key="labels-import").click().run()
    assert texts(run) == {1: "same", 2: "mine", 3: "=new"}
    assert "2 labels imported from in" in said(app)
    app.button(key="labels-undo").click().run()
    assert texts(run) == {1: "same", 2: "theirs"}
    app.file_uploader[0].set_value(("bad.csv", b"ensemble,member\n", "text/csv")).run()
    assert "Line 1" in app.error[0].value


def test_a_team_shares_a_database_and_its_password_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path
) -> None:
    monkeypatch.setenv(variables.LABELS, f"sqlite:///{tmp_path}/team.sqlite")
    app = open_page(monkeypatch, run.path, "feature", ensemble="bagged", feature="30")
    app.text_input(key="label-run-bagged-30").set_value("for the team")
    save(app)
    assert not run.labels.exists()
    app = open_labels(monkeypatch, run)
    assert "in the database of your team" in html(app)
    assert app.data_editor[0].value["label"].tolist() == ["for the team"]
    monkeypatch.setenv(variables.LABELS, "postgresql://ada:se-cret@localhost:1/x?connect_timeout=2")
    app = open_page(monkeypatch, run.path, "labels", ensemble="bagged")
    assert "This cannot be shown" in html(app)
    assert "se-cret" not in html(app)


def test_a_conflict_can_be_made_an_edit() -> None:
    conflict = Conflict(label(1, "mine"), label(1, "theirs"), 9, "Bob", "2026-01-31T12:00:00Z")
    assert conflict.replacing() == Edit(label(1, "mine"), 9)
