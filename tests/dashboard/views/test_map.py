"""The map page: places, colours and names beside plain references, and the page with a browser's answers put in."""

from __future__ import annotations

import base64
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from app_pages import html, open_page
from label_stores import read_csv
from streamlit.testing.v1 import AppTest
from synthetic_run import INJECTION, write_synthetic_run

from dashboard.components import map_canvas
from dashboard.components.map_canvas import Listed
from dashboard.shared.look.suggested import MEASURED_ON
from dashboard.shared.selection import selection_csv
from dashboard.views.map import drawing
from sae_core.analysis.atoms.joint_map import Side, joint_map_path, read_joint_map
from sae_core.analysis.spurious.choices import Choice, as_csv
from sae_core.foundation.colours import NEUTRAL
from sae_core.foundation.files.whole_files import read_table, write_table
from sae_core.foundation.numbering import place_columns
from sae_core.foundation.run import Run
from sae_core.labels import LabelStore

MEMBERS, WIDTH = 3, 24


@pytest.fixture
def atoms() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "feature": range(6),
            "member": [0, 0, 1, 1, 2, 2],
            "latent": [0, 1] * 3,
            "density": [0.1, 0.002, 0.1, 0.0, 0.1, 0.4],
            "dead": [False, False, False, True, False, False],
            "stability": [1.0, 0.0, 1.0, 0.5, np.nan, 0.5],
            "cluster": [0, -1, 0, 1, 9, 1],
            "top_token": [" a", INJECTION, " a", "", "a", "=1+1"],
            "label": ["", INJECTION, "seen twice", "seen twice", "", ""],
            "x": [0.0, 1, 2, 3, 4, np.nan],
            "y": [0.0, 1, 2, 1, 0, 5],
        }
    )


def numbers(text: str, kind: str) -> list[int]:
    return np.frombuffer(base64.b64decode(text), kind).tolist()


# Data


def test_places_keep_the_shape_of_the_map() -> None:
    x, y = drawing.places(np.array([[-10.0, 3.0], [30.0, 13.0], [10.0, 8.0], [np.nan, 1.0]]))
    assert x.tolist() == [0, 65535, 32768, 0]  # half a step is rounded to even
    assert (int(y[1]) - int(y[0])) * 4 == pytest.approx(65535, abs=4)  # a quarter as high as wide
    assert int(y[0]) + int(y[1]) == pytest.approx(65535, abs=2)
    assert [axis.tolist() for axis in drawing.places(np.full((2, 2), np.nan))] == [[0, 0], [0, 0]]
    assert [axis.tolist() for axis in drawing.places(np.full((2, 2), 7.0))] == [[32768, 32768]] * 2


@pytest.mark.parametrize("color", [*(name for name in drawing.COLORS if name != "concept"), "closest", "side"])
def test_every_atom_has_a_colour_of_the_palette(atoms: pd.DataFrame, color: str) -> None:
    atoms = atoms.assign(side=[0, 0, 0, 1, 1, 1], cosine=0.5, detector=[0, 20, 5, 1, 0, 5])
    found = drawing.color_atoms(atoms, color)
    assert len(found.colors) == len(atoms)
    assert found.colors.max() < len(found.palette) <= 256
    assert all(len(color) == 7 and int(color[1:], 16) >= 0 for color in found.palette)
    assert all(entry["color"] < len(found.palette) for entry in found.legend.get("entries", []))
    assert numbers(found.data()["index"], "u1") == found.colors.tolist()


def test_colours_mean_what_the_legend_says(atoms: pd.DataFrame) -> None:
    density = drawing.color_atoms(atoms, "density")
    assert [tick["text"] for tick in density.legend["ticks"]] == ["0.1 %", "1 %", "10 %", "100 %"]
    assert density.colors[0] == round(63 * 2 / 3)  # 10 % is two thirds of the way from 0.1 % to 100 %
    assert density.palette[density.colors[3]] == NEUTRAL  # never fires
    stability = drawing.color_atoms(atoms, "stability")
    assert stability.colors.tolist() == [63, 0, 63, 32, 64, 32]
    cluster = drawing.color_atoms(atoms, "cluster")
    assert cluster.palette[cluster.colors[1]] == NEUTRAL
    assert cluster.colors[4] == 1  # the ninth colour is the second again
    label = drawing.color_atoms(atoms, "label")
    assert [entry["text"] for entry in label.legend["entries"]] == ["seen twice", "other labels", "not labelled"]
    assert label.colors.tolist() == [2, 1, 0, 0, 2, 2]
    assert label.front == (0, 1)
    assert drawing.color_atoms(atoms, "member", word="stage").legend["entries"][2] == {"text": "stage 2", "color": 2}


def test_points_carry_their_texts_once(atoms: pd.DataFrame) -> None:
    tokens = drawing.token_texts(atoms["top_token"])
    data = drawing.points_data("key", atoms[["x", "y"]].to_numpy(), {"top token": tokens, "long": ["x" * 500] * 6})
    (column, long) = data["columns"]
    shown = [column["values"][number] for number in numbers(column["index"], "<u4")]
    assert shown == ["·a", INJECTION, "·a", "", "a", "=1+1"]
    assert len(column["values"]) == 5
    assert len(long["values"][0]) == 90
    assert (len(numbers(data["x"], "<u2")), data["count"]) == (6, 6)


def test_hidden_are_the_dead_and_those_without_a_place(atoms: pd.DataFrame) -> None:
    def flags(text: str | None) -> list[int]:
        assert text is not None
        return np.flatnonzero(np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))).tolist()

    assert flags(drawing.hidden_points(atoms, dead=False)) == [3, 5]
    assert flags(drawing.hidden_points(atoms, dead=True)) == [5]
    assert drawing.hidden_points(atoms.head(3), dead=False) is None


def test_names_are_written_at_the_median_of_their_cluster() -> None:
    cluster = np.array([0, 0, 0, 1, -1])
    xy = np.array([[0.0, 0], [1, 0], [9, 9], [10, 10], [3, 3]])
    marks = drawing.cluster_marks(cluster, ["first", "x" * 80], xy)
    assert [mark["text"] for mark in marks] == ["first", "x" * 43 + "…"]
    assert (marks[0]["x"], marks[0]["y"]) == (6554, 0)
    assert drawing.cluster_marks(cluster, ["", ""], xy) == []


def test_a_choice_as_csv_is_harmless_to_spreadsheets(atoms: pd.DataFrame) -> None:
    text = selection_csv(atoms, run="r", ensemble="bagged")
    table = pd.read_csv(io.StringIO(text), keep_default_na=False)
    assert table["feature"].tolist() == list(range(6))
    assert table.loc[5, "top_token"] == "'=1+1"
    assert table.loc[1, "label"] == INJECTION
    assert list(table.columns[:2]) == ["run", "ensemble"]
    assert list(table.columns[2:5]) == ["feature", "member", "latent"]
    assert selection_csv(atoms, header=False).count("\n") == 6
    # A suggestion is said to be measured on text that the SAEs were trained on.
    suggested = atoms.assign(suggestion=["the", *[""] * 5], suggestion_precision=[0.5, *[np.nan] * 5])
    table = pd.read_csv(io.StringIO(selection_csv(suggested)), keep_default_na=False)
    assert table["suggestion_precision"].tolist() == ["0.5", *[""] * 5]
    assert table["suggestion_measured_on"].tolist() == [MEASURED_ON, *[""] * 5]
    assert "SAEs were trained on both" in MEASURED_ON


def test_every_table_of_features_joins_with_every_other_and_labels_come_from_the_map(tmp_path: Path) -> None:
    widths = [4, 6]
    atoms = pd.DataFrame({**place_columns(range(10), widths), "top_token": "the", "label": "", "density": 0.5})
    atoms.loc[[3, 7], "label"] = ["=three", "seven"]
    listed = selection_csv(atoms, run="run", ensemble="bagged")
    store = LabelStore(tmp_path / "labels.sqlite", "run")
    assert read_csv(store, listed, {"bagged": widths}, "Ada") == 2
    assert [(one.feature, one.member, one.latent, one.label) for one in store.all()] == [
        (3, 0, 3, "=three"),
        (7, 1, 3, "seven"),
    ]
    choice = Choice("bios", "bagged", "mine", "Ada", (3, 7, 9))
    written = as_csv(choice, [{"feature": 7, "label": "seven", "member": 1, "latent": 3}], widths)
    tables = [pd.read_csv(io.StringIO(text), keep_default_na=False) for text in (listed, store.to_csv(), written)]
    for one, other in itertools.permutations(tables, 2):
        by_number = one.merge(other, on=["ensemble", "feature"])
        by_place = one.merge(other, on=["ensemble", "member", "latent"])
        assert by_number["member_x"].tolist() == by_number["member_y"].tolist()
        assert by_place["feature_x"].tolist() == by_place["feature_y"].tolist()
        assert set(by_number["feature"]) == set(by_place["feature_x"]) >= {3, 7}
    assert read_csv(LabelStore(tmp_path / "other.sqlite", "run"), written, {"bagged": widths}, "Ada") == 1


# The page


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maps")
    run = write_synthetic_run(path / "run", members=MEMBERS, width=WIDTH)
    write_synthetic_run(path / "seed", seed=1, members=MEMBERS, width=WIDTH)
    LabelStore(run.labels, "run").set("bagged", 1, 6, 30, INJECTION, "", "Ada")
    return path


class Canvas:
    """Stands for the component: keeps what it is sent, and answers as a browser would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, listed: Listed | None = None) -> None:
        self.points: dict[str, Any] = {}
        self.map: dict[str, Any] = {}
        self.listed = listed
        monkeypatch.setattr(map_canvas, "send_points", self.points.update)
        monkeypatch.setattr(map_canvas, "show_map", self._show)

    def _show(self, data: dict[str, Any], **_: Any) -> tuple[None, Listed | None]:
        self.map = dict(data)
        return None, self.listed


def open_map(monkeypatch: pytest.MonkeyPatch, root: Path, **query: str) -> AppTest:
    app = open_page(monkeypatch, root, "map", **{"run": "run", "ensemble": "bagged", **query})
    assert not app.exception
    return app


@pytest.mark.parametrize("color", list(drawing.COLORS))
def test_the_page_sends_all_atoms_and_their_colours(monkeypatch: pytest.MonkeyPatch, root: Path, color: str) -> None:
    canvas = Canvas(monkeypatch)
    app = open_map(monkeypatch, root, color=color)
    assert "cannot be shown" not in html(app)
    assert canvas.points["count"] == MEMBERS * WIDTH
    assert canvas.map["points"] == canvas.points["key"]
    assert len(numbers(canvas.map["color"]["index"], "u1")) == MEMBERS * WIDTH
    assert canvas.map["panels"] == [{"title": "", "start": 0, "stop": MEMBERS * WIDTH}]
    assert [part["start"] for part in canvas.map["parts"]] == [0, WIDTH, 2 * WIDTH]
    assert INJECTION in canvas.points["columns"][0]["values"]
    assert INJECTION not in html(app)


def test_the_real_component_is_mounted_twice(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    app = open_map(monkeypatch, root)
    assert len(app.get("bidi_component")) == 2


def test_a_concept_is_coloured_by_the_share_of_firing_in_it(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    canvas = Canvas(monkeypatch)
    open_map(monkeypatch, root, color="concept", concept="package: pandas")
    assert canvas.map["color"]["name"] == "concept package pandas"
    assert "pandas (of all tokens: " in canvas.map["color"]["legend"]["title"]


def test_detection_is_coloured_by_how_few_features_suffice(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    table = read_table(Run.open(root / "run").evaluation_table("concepts"))
    mine = table[(table["task"] == "kind") & (table["concept"] == "prose") & (table["method"] == "bagged")]
    mine = mine[mine["variant"] == "standardised"]
    least = np.zeros(MEMBERS * WIDTH, int)
    for m, features in sorted(zip(mine["m"], mine["features"], strict=True), key=lambda row: -row[0]):
        least[list(features)] = m
    canvas = Canvas(monkeypatch)
    open_map(monkeypatch, root, color="detector", detects="kind/prose")
    color = canvas.map["color"]
    assert color["legend"]["title"] == "chosen to detect kind · prose"
    texts = {entry["color"]: entry["text"] for entry in color["legend"]["entries"]}
    of_text = {"not chosen": 0, "best alone": 1, **{f"among the best {m}": m for m in mine["m"]}}
    shown = [of_text[texts[code]] for code in numbers(color["index"], "u1")]
    assert shown == least.tolist()
    assert len(set(shown)) > 2
    assert color["front"] == list(range(len(texts) - 1))


def test_nothing_is_coloured_by_detection_before_it_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_synthetic_run(tmp_path / "run", members=MEMBERS, stop_before="evaluate")
    canvas = Canvas(monkeypatch)
    app = open_map(monkeypatch, tmp_path, color="detector")
    assert canvas.map["color"]["name"] == "member"
    (colors,) = (one for one in app.segmented_control if one.label == "Colour")
    assert "Detection" not in colors.options
    assert "Concept" in colors.options


def test_the_feature_of_the_address_is_shown_and_marked(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    canvas = Canvas(monkeypatch)
    app = open_map(monkeypatch, root, feature="30")
    assert (canvas.map["feature"], canvas.map["marks"]) == (30, [])
    assert "Feature 30" in html(app)
    assert any("feature=30" in link.proto.query_string for link in app.get("page_link"))
    app = open_map(monkeypatch, root, feature="999999")
    assert "This cannot be shown" in html(app)


def test_two_members_share_the_map_and_the_match_is_marked(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    canvas = Canvas(monkeypatch)
    app = open_map(monkeypatch, root, show="members", left="1", right="2", feature="30")
    assert canvas.map["panels"] == [
        {"title": "member 1", "start": WIDTH, "stop": 2 * WIDTH},
        {"title": "member 2", "start": 2 * WIDTH, "stop": 3 * WIDTH},
    ]
    matches = read_table(Run.open(root / "run").ensemble("bagged").matches)
    best = matches[(matches["feature"] == 30) & (matches["other_member"] == 2)]["best_feature"].item()
    assert canvas.map["marks"] == [best]
    assert f"Feature {best}" in html(app)
    open_map(monkeypatch, root, show="members", left="0", right="2", feature="30")
    assert canvas.map["marks"] == []  # it is on neither side


def test_a_choice_is_listed_with_links_and_as_csv(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    atoms = read_table(Run.open(root / "run").ensemble("bagged").atoms)
    chosen = np.array([3, 30, 31, 60])
    Canvas(monkeypatch, Listed("search the", chosen))
    app = open_map(monkeypatch, root)
    table = app.dataframe[0].value
    ordered = atoms.loc[chosen].sort_values(["density", "feature"], ascending=[False, True])["feature"].tolist()
    assert table["open"].tolist() == [f"feature?run=run&ensemble=bagged&feature={number}" for number in ordered]
    assert INJECTION in table["label"].tolist()
    assert "4 features that fit “the”" in html(app)
    assert app.get("download_button")
    Canvas(monkeypatch, Listed("lasso", np.array([], np.int64)))
    app = open_map(monkeypatch, root)
    assert "0 features inside the line" in html(app)
    assert not app.dataframe


@pytest.mark.parametrize(
    ("other", "run", "ensemble"), [("boosted", "run", "boosted"), ("seed · bagged", "seed", "bagged")]
)
def test_a_joint_map_is_offered_then_shown(
    monkeypatch: pytest.MonkeyPatch, root: Path, other: str, run: str, ensemble: str
) -> None:
    canvas = Canvas(monkeypatch)
    app = open_map(monkeypatch, root, show="joint", other=other)
    assert "have no joint map yet" in html(app)
    assert f"sae-ensemble map {root / 'run'} --ensemble bagged --other {ensemble}" in html(app)
    assert not canvas.map
    monkeypatch.setattr("sae_core.analysis.atoms.atom_map.map_atoms", lambda atoms, **_: atoms[:, :2].numpy())
    app.button[0].click().run()
    assert not app.exception
    sides = Side(Run.open(root / "run"), "bagged"), Side(Run.open(root / run), ensemble)
    joint = read_joint_map(*sides)
    assert joint is not None
    count = MEMBERS * WIDTH
    assert [(panel["start"], panel["stop"]) for panel in canvas.map["panels"]] == [(0, count), (count, 2 * count)]
    app = open_map(monkeypatch, root, show="joint", other=other, point=str(count + 5))
    assert canvas.map["marks"] == [int(joint["closest"][count + 5])]
    assert "Feature 5<" in html(app)
    assert any(f"ensemble={ensemble}&feature=5" in link.proto.query_string for link in app.get("page_link"))
    joint_map_path(*sides).unlink()


def test_only_comparable_runs_are_offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_synthetic_run(tmp_path / "run", members=2)
    write_synthetic_run(tmp_path / "unindexed", stop_before="index")
    Canvas(monkeypatch)
    app = open_map(monkeypatch, tmp_path, show="joint")
    assert app.selectbox(key="other-single").options == ["single", "boosted", "expanded"]


def test_a_map_without_places_says_what_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = write_synthetic_run(tmp_path / "run", members=2)
    atoms = read_table(run.ensemble("bagged").atoms)
    write_table(run.ensemble("bagged").atoms, atoms.assign(x=np.nan, y=np.nan))
    app = open_map(monkeypatch, tmp_path)
    assert "There is no map yet" in html(app)
    assert "sae-ensemble index" in html(app)
