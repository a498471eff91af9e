"""Every page on a complete run and on unfinished ones, run by Streamlit's own test harness."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from app_pages import html, links, open_page, save
from streamlit.testing.v1 import AppTest
from synthetic_run import INJECTION, write_synthetic_run

from dashboard.views import pages
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json, write_json
from sae_core.foundation.run import Run
from sae_core.labels import LabelStore


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    write_synthetic_run(root / "complete")
    write_synthetic_run(root / "corpus-only", stop_before="train")
    write_synthetic_run(root / "trained", stop_before="index")
    write_synthetic_run(root / "indexed", stop_before="evaluate")
    return root


@pytest.mark.parametrize("page", pages())
@pytest.mark.parametrize("ensemble", ["single", "bagged", "boosted"])
def test_page_shows_a_complete_run(monkeypatch: pytest.MonkeyPatch, runs: Path, page: str, ensemble: str) -> None:
    app = open_page(monkeypatch, runs, page, run="complete", ensemble=ensemble)
    assert not app.exception
    assert "cannot be shown" not in html(app)
    assert app.query_params["run"] == "complete"
    assert app.query_params["ensemble"] == ensemble
    assert INJECTION not in html(app)


@pytest.mark.parametrize(
    ("run", "page", "command"),
    [
        ("corpus-only", "overview", "train"),
        ("corpus-only", "features", "train"),
        ("corpus-only", "feature", "train"),
        ("corpus-only", "compare", "train"),
        ("corpus-only", "map", "train"),
        ("corpus-only", "concepts", "evaluate"),
        ("trained", "overview", "evaluate"),
        ("trained", "features", "index"),
        ("trained", "feature", "index"),
        ("trained", "compare", "index"),
        ("trained", "map", "index"),
        ("indexed", "overview", "evaluate"),
        ("indexed", "concepts", "evaluate"),
    ],
)
def test_unfinished_run_says_what_to_run(
    monkeypatch: pytest.MonkeyPatch, runs: Path, run: str, page: str, command: str
) -> None:
    app = open_page(monkeypatch, runs, page, run=run)
    assert not app.exception
    assert f"sae-ensemble {command} {runs / run}" in html(app)


def test_labels_page_of_a_run_without_labels(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    app = open_page(monkeypatch, runs, "labels", run="trained")
    assert not app.exception
    assert "There are no labels yet" in html(app)
    assert not (runs / "trained" / "labels.sqlite").exists()


@pytest.mark.parametrize(
    "query",
    [
        {"run": "../../etc"},
        {"run": "complete", "ensemble": "../../../etc"},
        {"run": "complete", "ensemble": "bagged", "feature": "99999999"},
        {"run": "complete", "ensemble": "bagged", "feature": "-1"},
        {"run": "complete", "ensemble": "bagged", "feature": "<img src=x onerror=alert(1)>"},
    ],
)
def test_unknown_names_in_the_address_get_a_message(
    monkeypatch: pytest.MonkeyPatch, runs: Path, query: dict[str, str]
) -> None:
    app = open_page(monkeypatch, runs, "feature", **query)
    assert not app.exception
    assert "This cannot be shown" in html(app)
    assert "<img" not in html(app)


def test_feature_page_shows_the_feature_of_the_link(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    app = open_page(monkeypatch, runs, "feature", run="complete", ensemble="bagged", feature="30")
    page = html(app)
    assert "<h1>Feature 30</h1>" in page
    assert "member 1" in page
    assert ">1:6<" in page  # its member, and its number there
    # Its two matches in the other members lead on to them.
    assert len(re.findall(r'<a href="\?run=complete&amp;ensemble=bagged&amp;feature=\d+" data-go="\d+">', page)) >= 2


def test_next_and_previous_follow_the_filtered_order(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    app = open_page(
        monkeypatch, runs, "feature", run="complete", ensemble="bagged", feature="30", member="1", sort="feature"
    )
    app.button(key="next").click().run()
    assert app.query_params["feature"] == "31"
    assert app.query_params["sort"] == "feature"
    app.button(key="previous").click().run()
    app.button(key="previous").click().run()
    assert app.query_params["feature"] == "29"
    assert "<h1>Feature 29</h1>" in html(app)


def test_label_is_saved_with_its_author_and_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = write_synthetic_run(tmp_path / "run", members=2)
    app = open_page(monkeypatch, run.path, "feature", ensemble="bagged", feature="30")
    app.text_input(key="author").set_value("Ada").run()
    app.text_input(key="label-run-bagged-30").set_value(INJECTION)
    app.text_input(key="note-run-bagged-30").set_value("**sure**")
    save(app)
    label = LabelStore(run.labels, "run").get("bagged", 30)
    assert label is not None
    assert (label.member, label.latent, label.label, label.note, label.author) == (1, 6, INJECTION, "**sure**", "Ada")
    assert "&lt;img src=x onerror=alert(1)&gt;" in html(app)
    assert INJECTION not in html(app)
    app.text_input(key="label-run-bagged-30").set_value("")
    app.text_input(key="note-run-bagged-30").set_value(" ")
    save(app)
    assert LabelStore(run.labels, "run").get("bagged", 30) is None


def test_label_that_cannot_be_saved_is_a_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = write_synthetic_run(tmp_path / "run", members=2)
    app = open_page(monkeypatch, run.path, "feature", ensemble="bagged", feature="3")

    def refuse(*_: object, **__: object) -> None:
        raise UserError("The disk is full; make room.")

    monkeypatch.setattr(LabelStore, "save", refuse)
    app.text_input(key="label-run-bagged-3").set_value("lost")
    save(app)
    assert "disk is full" in app.error[0].value


def test_filters_are_read_from_and_written_to_the_address(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    app = open_page(monkeypatch, runs, "features", run="complete", ensemble="bagged", member="1", q="the", dead="1")
    assert "member 1" in app.selectbox(key="f-member-bagged-1").options
    assert members_listed(app) == {1}
    assert app.text_input(key="f-search-1").value == "the"
    app.selectbox(key="f-member-bagged-1").set_value(2).run()
    assert app.query_params["member"] == "2"
    assert members_listed(app) == {2}
    app.text_input(key="f-search-1").set_value("no such token").run()
    assert not app.get("bidi_component")
    assert "No feature fits" in app.info[0].value


def members_listed(app: AppTest) -> set[int]:
    """The members of the features in the table; each has 24."""
    return {feature // 24 for feature in json.loads(app.get("bidi_component")[0].proto.json)["features"]}


def test_sidebar_changes_run_and_ensemble(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    app = open_page(monkeypatch, runs, "features", run="complete", ensemble="bagged")
    app.selectbox(key="pick-ensemble-bagged").set_value("boosted").run()
    assert app.query_params["ensemble"] == "boosted"
    assert "of boosted" in html(app)
    app.selectbox(key="pick-run-complete").set_value("indexed").run()
    assert app.query_params["run"] == "indexed"
    assert not app.exception


def test_damaged_run_is_a_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = write_synthetic_run(tmp_path / "run", members=2)
    atoms = Run.open(run.path).ensemble("bagged").atoms
    atoms.write_bytes(atoms.read_bytes()[:100])
    app = open_page(monkeypatch, run.path, "features", ensemble="bagged")
    assert not app.exception
    assert "atoms.parquet is damaged" in html(app)


def test_concept_page_leads_to_the_detecting_features(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    app = open_page(monkeypatch, runs, "concepts", run="complete", ensemble="bagged", task="kind", concept="prose")
    assert app.segmented_control(key="task-kind").value == "kind"
    assert app.selectbox(key="concept-prose").value == "prose"
    assert len([link for link in links(app) if "feature=" in link]) == 5
    app.segmented_control(key="method-bagged").set_value("boosted").run()
    assert all("ensemble=boosted" in link for link in links(app) if "feature=" in link)


def test_the_number_of_features_decides_what_the_concept_page_shows(
    monkeypatch: pytest.MonkeyPatch, runs: Path
) -> None:
    app = open_page(monkeypatch, runs, "concepts", run="complete", ensemble="bagged", task="kind", m="20")
    assert app.segmented_control(key="m-20").options == [f"m = {m}" for m in (1, 2, 5, 10, 20)]
    assert len([link for link in links(app) if "feature=" in link]) == 20
    assert [expander.label for expander in app.expander] == ["All figures", "14 more"]
    app.segmented_control(key="m-20").set_value("1").run()
    assert app.query_params["m"] == "1"
    assert len([link for link in links(app) if "feature=" in link]) == 1
    assert "all concepts, 1 feature<" in html(app)
    app.segmented_control(key="m-1").set_value("5").run()  # what its absence means
    assert "m" not in app.query_params


def test_label_form_keeps_its_place_after_a_link_to_another_feature(
    monkeypatch: pytest.MonkeyPatch, runs: Path
) -> None:
    # If it moved, the browser would make it anew and forget what is being typed there.
    app = open_page(monkeypatch, runs, "feature", run="complete", ensemble="bagged", feature="3")
    app.query_params["feature"] = "4"
    app.run()
    assert "scrollTo" in html(app)
    followed = place_of_form(app)
    app.text_input(key="author").set_value("Ada").run()
    assert "scrollTo" not in html(app)
    assert place_of_form(app) == followed


def place_of_form(app: AppTest) -> int:
    """Where in the block that a step draws the form is."""
    for block in app.main.children.values():
        for place, part in getattr(block, "children", {}).items():
            if part.type == "form":
                return place
    raise AssertionError("there is no form")


def test_the_overview_names_the_k_of_each_member(monkeypatch: pytest.MonkeyPatch, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "complete", tmp_path / "mixture")
    manifest = tmp_path / "mixture" / "run.json"
    settings = read_json(manifest)
    settings["settings"]["training"]["member_k"] = [2, 4, 8]
    write_json(manifest, settings)
    app = open_page(monkeypatch, tmp_path, run="mixture")
    assert not app.exception
    assert "k = 4, by member 2, 4, 8<" in html(app)


def test_the_overview_shows_what_members_add_in_the_measure_of_the_link(
    monkeypatch: pytest.MonkeyPatch, runs: Path, tmp_path: Path
) -> None:
    for measure, said in (("loss_recovered", "Loss recovered"), ("explained_variance", "Explained variance")):
        app = open_page(monkeypatch, runs, run="complete", gain=measure)
        assert not app.exception
        assert f"{said} on held-out tokens when only the first members are used" in html(app)
    recovered = read_json(Run.open(runs / "complete").evaluation("loss"))["ensembles"]["single"]["loss_recovered"]
    assert f"{100 * recovered:.2f}" in html(app)
    shutil.copytree(runs / "complete", tmp_path / "encoder")
    write_json(Run.open(tmp_path / "encoder").evaluation("loss"), {"defined": False, "ensembles": {}})
    app = open_page(monkeypatch, tmp_path, run="encoder", gain="loss_recovered")
    assert not app.exception
    assert "Explained variance on held-out tokens" in html(app)
