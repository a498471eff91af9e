"""Finding features: filters that rank, the rows of the table, pins in the address, and their pages run by AppTest."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from app_pages import html, info, open_page
from six_features import six_features
from streamlit.testing.v1 import AppTest
from synthetic_run import INJECTION, write_synthetic_run

from dashboard.shared import filters, pins
from dashboard.shared.filters import Filters
from dashboard.shared.pins import MOST, Pin
from dashboard.shared.reads import finding, opening, tables, typed_text
from dashboard.shared.reads.finding import Ranking
from dashboard.views import file_of
from dashboard.views.features import rows as feature_rows
from dashboard.views.map import data
from dashboard.views.pinned.side_by_side import Beside, side_by_side
from dashboard.views.text.firing import firing
from sae_core.activations.corpus import Corpus
from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.analysis.index.by_token import write_by_token
from sae_core.analysis.live_text import LiveText
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run
from sae_core.labels import LabelStore

INFOS = {
    "bagged": info("bagged", 24, 24),
    "odd.name": info("odd.name", 10),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run = write_synthetic_run(folder / "complete")
    write_synthetic_run(folder / "older", stop_before="evaluate")
    write_synthetic_run(folder / "trained", stop_before="index")
    for name in ("bagged", "boosted"):
        place = run.ensemble(name)
        write_by_token(ActivationIndex.open(place.index), Corpus.open(run), place.by_token)
    return folder


# Filters


@pytest.fixture
def features() -> pd.DataFrame:
    return six_features()


@pytest.mark.parametrize(
    ("choice", "numbers_left"),
    [
        (Filters(dead="only"), [2]),
        (Filters(family=2), [0, 3]),
        (Filters(family=3), [3]),
        (Filters(cluster=1), [3, 4]),
        (Filters(cluster=-1), [5]),
        (Filters(sort="density", reverse=True), [5, 1, 4, 3, 0]),
        (Filters(sort="feature", reverse=True), [5, 4, 3, 1, 0]),
        (Filters(sort="stability", reverse=True), [1, 4, 0, 3, 5]),  # what is not known stays last
        (Filters(sort="label", reverse=True), [1, 3, 0, 4, 5]),
        (Filters(sort="top_token"), [3, 1, 5, 0, 4]),
        (Filters(sort="cluster"), [5, 0, 1, 3, 4]),
        (Filters(token="the"), [3, 0, 5]),
        (Filters(token="the", reverse=True), [5, 0, 3]),
        (Filters(concept="a/b", sort="peak"), [5, 3, 0]),
        (Filters(token="the", member=1), [3, 5]),
        (Filters(sort="match"), [0, 3, 1, 4, 5]),  # nothing ranks, so the usual order
    ],
)
def test_filters_rank_choose_and_sort(features: pd.DataFrame, choice: Filters, numbers_left: list[int]) -> None:
    found = filters.apply(features, choice, ranked=[3, 0, 2, 5])
    assert found["feature"].tolist() == numbers_left
    # What is said to need no texts is the same without them, and the rest cannot do without.
    atoms = features.drop(columns=["label", "note", "search_text", "promoted_text", "suggestion"], errors="ignore")
    if choice.reads_texts:
        with pytest.raises(KeyError):
            filters.apply(atoms, choice, ranked=[3, 0, 2, 5])
    else:
        again = filters.apply(atoms, choice, ranked=[3, 0, 2, 5])
        assert again["feature"].tolist() == numbers_left


def test_sorting_agrees_with_pandas_on_a_large_table() -> None:
    generator = np.random.default_rng(0)
    count = 5000
    table = pd.DataFrame(
        {
            "feature": range(count),
            "member": generator.integers(0, 4, count),
            "density": generator.choice([0.1, 0.2, 0.3], count),
            "dead": False,
            "stability": np.where(generator.random(count) < 0.1, np.nan, generator.random(count).round(1)),
            "peak": generator.random(count),
            "family_size": generator.integers(1, 4, count),
            "top_token": generator.choice([" a", "b", "", " c"], count),
            "label": "",
            "note": "",
        }
    )
    for column in ("density", "stability", "peak", "family_size"):
        expected = table.sort_values([column, "feature"], ascending=[False, True], na_position="last")["feature"]
        assert filters.apply(table, Filters(sort=column))["feature"].tolist() == expected.tolist()


def test_all_filters_survive_the_address_bar() -> None:
    choice = Filters(
        search="a b",
        sort="cluster",
        reverse=True,
        family=3,
        cluster=-1,
        token="·the",
        concept="kind/prose",
        dead="only",
    )
    assert Filters.from_query(choice.to_query()) == choice
    nonsense = {"family": "-3", "cluster": "-2", "dead": "perhaps", "dir": "sideways", "sort": "os.system"}
    assert Filters.from_query(nonsense) == Filters()
    assert set(choice.to_query()) <= set(filters.KEYS)


# Rows


def test_a_page_of_rows_holds_its_part_of_the_order(features: pd.DataFrame) -> None:
    big = pd.concat([features] * 20, ignore_index=True).assign(feature=range(120))
    order = np.arange(119, -1, -1)
    columns = feature_rows.columns("member", members=2, filters=Filters(), table=big)
    page = feature_rows.page(big, order, 1, columns=columns, filters=Filters(), scores=None, pinned=[60, 3], chosen=60)
    assert page.features == list(range(69, 19, -1))
    assert (page.number, page.pages, page.pinned) == (1, 3, [60])
    assert len(page.rows) == feature_rows.ROWS
    assert all(len(row) == len(columns) for row in page.rows)
    assert feature_rows.page(
        big, order, 99, columns=columns, filters=Filters(), scores=None, pinned=[]
    ).features == list(range(19, -1, -1))
    assert [feature_rows.page_with(order, feature) for feature in (119, 69, 0, 500, None)] == [0, 1, 2, 0, 0]


def test_a_token_brings_columns_with_its_shares(features: pd.DataFrame) -> None:
    choice = Filters(token="the")
    scores = pd.DataFrame({"feature": [3, 0], "score": [0.9, 0.25], "share": [0.85, 0.5], "fires": [1.0, 0.1]})
    columns = feature_rows.columns("member", members=1, filters=choice, table=features)
    assert "Stability" not in {column.title for column in columns}
    page = feature_rows.page(features, np.array([3, 0]), 0, columns=columns, filters=choice, scores=scores, pinned=[])
    cells = dict(zip((column.title for column in columns), page.rows[0], strict=True))
    assert (cells["Tells it"], cells["On it"], cells["Fires"]) == (0.9, "85\u202f%", "100\u202f%")
    assert cells["Top token"] == "·The"
    assert cells["Label"] == ["article", False]
    assert not page.ascending  # the best first


# Live text


def test_the_strongest_features_of_a_text_and_of_each_token_are_shown() -> None:
    generator = np.random.default_rng(1)
    rows = np.repeat(np.arange(4), 400)
    live = LiveText(
        text="a b c d",
        tokens=np.arange(4, dtype=np.int32),
        texts=list("abcd"),
        cut=False,
        features=np.concatenate([generator.permutation(2000)[:400] for _ in range(4)]),
        rows=rows,
        values=generator.exponential(size=1600).astype(np.float32) * (1 + 9 * (rows == 0)),
        pointers=np.array([0, 1600]),
        energy_T=np.ones(4, np.float32),
        left_JT=np.zeros((1, 4), np.float32),
    )
    shown = {one.feature: one for one in firing(live, None, [0, 1000])}
    dense = np.zeros((4, 2000), np.float32)
    dense[live.rows, live.features] = live.values
    assert set(np.argsort(-dense.max(axis=0))[:300].tolist()) <= set(shown)
    for token in range(4):
        assert set(np.argsort(-dense[token])[:8].tolist()) <= set(shown)
    for feature, one in shown.items():
        assert one.rows == np.flatnonzero(dense[:, feature]).tolist()
        np.testing.assert_allclose(one.values, dense[one.rows, feature], atol=1e-4)
        assert one.member[0] == str(feature // 1000)


# Pins


def test_pins_survive_the_address_bar() -> None:
    text = pins.to_text([Pin("bagged", 3), Pin("odd.name", 9)])
    assert text == "bagged.3~odd.name.9"
    assert pins.from_text(text, INFOS) == ([Pin("bagged", 3), Pin("odd.name", 9)], [])


@pytest.mark.parametrize(
    "part",
    ["bagged.48", "bagged.-1", "bagged.x", "bagged", "../../etc.1", "nobody.1", "bagged." + "9" * 50, "bagged.٣"],
)
def test_a_pin_that_names_no_feature_is_told_apart(part: str) -> None:
    assert pins.from_text(f"bagged.3~{part}~~bagged.3", INFOS) == ([Pin("bagged", 3)], [part])


def test_a_link_holds_only_so_many_pins() -> None:
    text = "~".join(f"bagged.{number}" for number in range(40))
    assert len(pins.from_text(text, INFOS)[0]) == MOST


def test_columns_side_by_side_escape_everything() -> None:
    one = Beside(
        1, INJECTION, "bagged", 0, False, INJECTION, [(INJECTION, INJECTION, '"' + INJECTION)], [], [0, 1], [2], 1
    )
    html = side_by_side([one])
    assert "<img src=x" not in html
    assert html.count("&lt;img") == 5


# Queries and pages


def listed(app: AppTest) -> dict[str, Any]:
    """What the feature table was given."""
    (table,) = app.get("bidi_component")
    data: dict[str, Any] = json.loads(table.proto.json)
    return data


def test_a_token_finds_the_features_that_it_drives(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    run = Run.open(root / "complete")
    info = opening.ensembles(run)["bagged"]
    ranking = finding.ranking(run, info, Filters(token="the"))
    assert ranking is not None
    assert set(ranking.tokens) <= {" the", "the", "The", " The"}
    index, corpus = ActivationIndex.open(run.ensemble("bagged").index), Corpus.open(run)
    best = ranking.table.iloc[0]
    positions, values = index.feature(int(best["feature"]))
    on_it = np.array([corpus.token_text(token) for token in corpus.tokens[positions].tolist()]) == best["token"]
    assert best["share"] == pytest.approx(values[on_it].sum(dtype=np.float64) / values.sum(dtype=np.float64), rel=1e-5)
    app = open_page(monkeypatch, root, "features", run="complete", ensemble="bagged", token="the", dead="1")
    assert not app.exception
    assert listed(app)["features"] == ranking.table["feature"].tolist()[: feature_rows.ROWS]
    assert "driven by" in app.caption[0].value


def test_a_token_that_is_not_there_gets_a_sentence(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    app = open_page(monkeypatch, root, "features", run="complete", ensemble="bagged", token="zzz<b>")
    assert not app.exception
    assert "No token of the corpus reads" in app.info[0].value
    assert r"\<b\>" in app.info[0].value
    older = open_page(monkeypatch, root, "features", run="older", ensemble="bagged", token="the")
    assert "indexed before features could be found by token" in html(older)


def test_a_concept_finds_the_features_that_carry_it(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    run = Run.open(root / "complete")
    info = opening.ensembles(run)["bagged"]
    table = tables.concepts(run)
    assert table is not None
    mine = table[(table["task"] == "kind") & (table["concept"] == "prose") & (table["method"] == "bagged")]
    mine = mine[mine["variant"] == "standardised"]
    first = set(np.concatenate(mine[mine["m"] == 1]["features"].tolist()).tolist())
    ranking = finding.ranking(run, info, Filters(concept="kind/prose"))
    assert ranking is not None
    assert set(ranking.table["feature"][ranking.table["score"] == 1]) == first
    assert set(ranking.table["feature"]) == set(np.concatenate(mine["features"].tolist()).tolist())
    app = open_page(monkeypatch, root, "features", run="complete", ensemble="bagged", concept="kind/prose", dead="1")
    assert not app.exception
    assert listed(app)["features"] == ranking.table["feature"].tolist()[: feature_rows.ROWS]
    assert app.selectbox(key="f-concept-bagged-1").value == "kind/prose"


def test_sort_and_page_come_from_the_address(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    app = open_page(
        monkeypatch, root, "features", run="complete", ensemble="bagged", sort="peak", dir="reverse", page="2", dead="1"
    )
    data = listed(app)
    run = Run.open(root / "complete")
    peaks = tables.atoms(run, "bagged")
    assert peaks is not None
    expected = peaks.sort_values(["peak", "feature"])["feature"].tolist()
    assert data["features"] == expected[feature_rows.ROWS :]
    assert (data["number"], data["pages"], data["sort"], data["ascending"]) == (1, 2, "peak", True)
    # Without one it is the first, not that of feature 0.
    last = "reverse" if expected.index(0) >= feature_rows.ROWS else ""
    query = {"sort": "peak", "dead": "1", **({"dir": last} if last else {})}
    fresh = open_page(monkeypatch, root, "features", run="complete", ensemble="bagged", **query)
    assert listed(fresh)["number"] == 0
    assert 0 not in listed(fresh)["features"]
    # Another choice starts at its first page.
    app.selectbox(key="f-member-bagged-1").set_value(1).run()
    assert "page" not in app.query_params
    assert set(listed(app)["features"]) <= set(range(24, 48))


def test_the_way_back_leads_to_the_feature_that_was_shown_last(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    query = {"run": "complete", "ensemble": "bagged", "sort": "feature", "dead": "1"}
    monkeypatch.setattr(feature_rows, "ROWS", 10)
    app = open_page(monkeypatch, root, "feature", **query, feature="9")
    app.button(key="next").click().run()
    app.button(key="all").click().run()
    assert not app.exception
    # The browser goes there itself.
    assert re.search(
        r"pushState\(\{\}, '', \"features\?run=complete&ensemble=bagged&sort=feature&dead=1\"\)", html(app)
    )
    app.switch_page(file_of("features"))
    app.query_params.clear()
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    assert listed(app)["chosen"] == 10
    assert listed(app)["features"] == list(range(10, 20))
    assert {key: app.query_params[key] for key in query} == query
    assert "feature" not in app.query_params
    # Of another ensemble that number is another feature.
    app.switch_page(file_of("features"))
    for name, cursor in (("boosted", None), ("bagged", 10)):
        app.query_params["ensemble"] = name
        app.run()
        assert listed(app)["features"][:3] == ([10, 11, 12] if cursor else [0, 1, 2])
        assert listed(app)["chosen"] == cursor


def test_clusters_have_the_names_that_the_map_shows(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    run = Run.open(root / "complete")
    info = opening.ensembles(run)["bagged"]
    points = data.map_points(run, info)
    assert points is not None
    sizes = points.table["cluster"].value_counts()
    written = {str(mark["text"]) for mark in points.names}
    app = open_page(monkeypatch, root, "features", run="complete", ensemble="bagged", cluster="2")
    (menu,) = (one for one in app.selectbox if one.label == "Cluster of the atom map")
    assert menu.options[:2] == ["any", "in no cluster"]
    assert menu.value == 2
    found = {int(text.split(" · ")[0]): text.split(" · ")[1:] for text in menu.options[2:]}
    assert {number: parts[-1] for number, parts in found.items()} == {
        number: f"{size} features" for number, size in sizes.items() if number >= 0
    }
    assert {parts[0] for parts in found.values() if len(parts) == 2} == written
    assert written


def test_labels_and_notes_are_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = write_synthetic_run(tmp_path / "run", members=2)
    LabelStore(run.labels, "run").set("bagged", 1, 6, 30, INJECTION, "A Doubt", "Ada")
    for words in ("doubt", "img A DOUBT"):
        app = open_page(monkeypatch, run.path, "features", ensemble="bagged", q=words, dead="1")
        assert listed(app)["features"] == [30]
    row = dict(zip((c["key"] for c in listed(app)["columns"]), listed(app)["rows"][0], strict=True))
    assert row["label"] == [INJECTION, False]
    assert INJECTION not in html(app)


def test_pins_are_shown_side_by_side_and_stay_in_the_address(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    app = open_page(monkeypatch, root, "pinned", run="complete", ensemble="bagged", pins="bagged.30~boosted.3~nobody.1")
    page = html(app)
    assert not app.exception
    assert "<h2>Feature 30</h2>" in page
    assert "<h2>Feature 3</h2>" in page
    assert "This run has no feature “nobody.1”" in page
    assert INJECTION not in page
    assert app.query_params["pins"] == "bagged.30~boosted.3"
    app.button(key="pin-bagged-30").click().run()
    assert app.query_params["pins"] == "boosted.3"
    assert "<h2>Feature 30</h2>" not in html(app)
    del app.query_params["pins"]  # as a link within the dashboard does
    app.run()
    assert app.query_params["pins"] == "boosted.3"
    app.button(key="unpin-all").click().run()
    assert "No feature is pinned" in html(app)


def test_more_than_six_pins_are_paged(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    text = "~".join(f"bagged.{number}" for number in range(8))
    app = open_page(monkeypatch, root, "pinned", run="complete", ensemble="bagged", pins=text)
    assert html(app).count("<h2>Feature") == 6
    app.segmented_control(key="pinned-part-2").set_value(6).run()
    assert html(app).count("<h2>Feature") == 2


def test_pins_of_an_unindexed_run_say_what_to_run(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    app = open_page(monkeypatch, root, "pinned", run="trained", ensemble="bagged", pins="bagged.3")
    assert not app.exception
    assert "sae-ensemble index" in html(app)


def test_a_text_that_cannot_be_read_gets_a_sentence(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    def refuse(*_: object) -> LiveText:
        raise UserError("This run has no <b>language model</b>.")

    monkeypatch.setattr(typed_text, "live_text", refuse)
    app = open_page(monkeypatch, root, "text", run="complete", ensemble="bagged", text="the array")
    assert not app.exception
    assert "This run has no &lt;b&gt;language model&lt;/b&gt;." in html(app)


def test_a_typed_text_is_shown_with_its_features(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    asked = []

    def answer(run: Run, ensemble: str, text: str) -> LiveText:
        asked.append((run.path.name, ensemble, text))
        return LiveText(
            text, np.array([5, 6], np.int32), ["the", INJECTION], True,
            np.array([30, 2]), np.array([0, 1]), np.array([2.0, 1.5], np.float32), np.array([0, 1, 1, 2]),
            np.array([4.0, 4.0], np.float32), np.array([[1.0, 1.0]], np.float32),
        )  # fmt: skip

    monkeypatch.setattr(typed_text, "live_text", answer)
    app = open_page(monkeypatch, root, "text", run="complete", ensemble="bagged")
    assert not asked
    app.button(key="text-example").click().run()
    assert asked[-1][:2] == ("complete", "bagged")
    assert app.query_params["text"] == asked[-1][2]
    data = listed(app)
    assert [feature["feature"] for feature in data["features"]] == [2, 30]
    assert data["tokens"] == ["the", INJECTION]
    assert "25.0" in app.caption[0].value
    assert "cut: at most" in app.caption[0].value
    assert INJECTION not in html(app)


def test_a_ranking_of_both_keeps_the_order_of_the_token(root: Path) -> None:
    run = Run.open(root / "complete")
    info = opening.ensembles(run)["bagged"]
    by_token = finding.ranking(run, info, Filters(token="the"))
    by_concept = finding.ranking(run, info, Filters(concept="library/numpy"))
    both = finding.ranking(run, info, Filters(token="the", concept="library/numpy"))
    assert isinstance(both, Ranking)
    assert by_token is not None
    assert by_concept is not None
    carriers = set(by_concept.table["feature"])
    assert both.table["feature"].tolist() == [f for f in by_token.table["feature"] if f in carriers]
