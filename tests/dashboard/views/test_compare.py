"""Comparing members in the dashboard: parts from data to HTML and figures, reads, and the page in the test harness."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from app_pages import html, links, open_page
from streamlit.testing.v1 import AppTest
from synthetic_run import INJECTION, write_synthetic_run

from dashboard.shared.reads import opening, typed_text
from dashboard.views.compare import charts as compare
from dashboard.views.compare import data, text_strips
from dashboard.views.compare import data as comparing
from dashboard.views.compare import family_tables as families
from dashboard.views.compare.text_strips import Mark
from sae_core.analysis.live_text import LiveText
from sae_core.ensembles.ensemble import load_ensemble
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run

THRESHOLDS = {"cosine": 0.7, "correlation": 0.5, "overlap": 1 / 3}


# Parts


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        ("cosine", (0, 2, 4), 0.9, 0.6, 0.5, 0.1, 0),
        ("cosine", (1, 3), 0.8, 0.1, 0.0, 0.4, 2),
        ("correlation", (0, 2, 4), 0.9, 0.6, 0.5, 0.1, 1),
        ("correlation", (3, 5), 0.2, 0.7, 0.4, 0.2, 0),
        ("overlap", (0, 2, 4), 0.9, 0.6, 0.5, 0.1, 0),
    ]
    columns = ["measure", "features", "cosine", "correlation", "overlap", "density", "more"]
    made = pd.DataFrame(rows, columns=columns)
    made["size"] = made["features"].map(len)
    found = comparing.united(made)
    found["tokens"] = [[" a"], [INJECTION], ["\n", "b"]]
    return found


def test_families_with_the_same_features_are_one(table: pd.DataFrame) -> None:
    assert table["family"].tolist() == [0, 1, 2]
    assert table["features"].tolist() == [(0, 2, 4), (1, 3), (3, 5)]
    assert table["found"].tolist() == [("cosine", "correlation", "overlap"), ("cosine",), ("correlation",)]
    assert table["more"].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("found", "size", "expected"),
    [
        ("any", None, [0, 1, 2]),
        ("any", 2, [1, 2]),
        ("cosine", None, [0, 1]),
        ("correlation", 3, [0]),
        ("overlap", 2, []),
        ("disputed", None, [1, 2]),
    ],
)
def test_families_are_chosen_by_who_finds_them(
    table: pd.DataFrame, found: str, size: int | None, expected: list[int]
) -> None:
    assert families.chosen(table, found, size)["family"].tolist() == expected


def test_the_family_table_prefers_a_label_to_a_suggestion(table: pd.DataFrame) -> None:
    shown = families.as_shown(table, {2: "articles"}, ["the", "", "", "=cmd()", "", ""])
    assert shown["Label"].tolist() == ["articles", "suggested: =cmd()", "suggested: =cmd()"]
    assert families.as_shown(table, {}, [])["Label"].tolist() == ["", "", ""]
    assert shown["Top tokens"].tolist() == ["·a", INJECTION, "⏎  b"]
    assert shown["Density"].tolist() == pytest.approx([10, 40, 20])


def test_the_scatter_leads_from_points_to_families(table: pd.DataFrame) -> None:
    chart = families.scatter(table, THRESHOLDS)
    assert [list(trace.customdata) for trace in chart.data] == [[1, 2], [0]]
    assert list(chart.data[0].x) == pytest.approx([0.8, 0.2])
    assert list(chart.data[0].y) == pytest.approx([0.1, 0.7])
    assert "<img" not in str(chart.data[0].text)
    assert chart.to_json() == families.scatter(table, THRESHOLDS).to_json()  # a changed figure loses its selection
    assert families.picked({"selection": {"points": [{"customdata": 2}]}}) == 2
    assert families.picked({"selection": {"points": [{"customdata": [1]}]}}) == 1
    assert families.picked({"selection": {"points": []}}) is None
    assert families.picked(None) is None
    assert len(families.points_of(table.assign(correlation=np.nan))) == 0


def test_sizes_stand_beside_chance() -> None:
    sizes = {"cosine": {"2": 5, "3": 7}, "correlation": {"3": 1200}, "overlap": {}}
    chance = {"cosine": {}, "correlation": {"2": 4}, "overlap": {"2": 9}}
    text = families.sizes_table({"sizes": sizes, "null_sizes": chance, "thresholds": THRESHOLDS}, 3)
    rows = [re.split("</t[dh]>", row) for row in text.split("<tr>")[2:]]
    cells = [[cell.rpartition(">")[2] for cell in row[:-1]] for row in rows]
    assert cells[0][0] == "all 3"
    assert [cell.replace("\u2009", "").replace(",", "") for cell in cells[0][1:]] == ["7", "0", "1200", "0", "0", "0"]
    assert cells[1] == ["2 of 3", "5", "0", "0", "4", "0", "9"]


def test_pairs_that_are_too_unlike_are_marked() -> None:
    pairs = pd.DataFrame({"first": [3], "second": [9], "cosine": [0.71], "correlation": [0.49], "overlap": [0.5]})
    text = families.pair_table(pairs, {3: 0, 9: 1}, THRESHOLDS)
    assert "0 – 1" in text
    assert [part in text for part in ("0.71 ↓", "0.49 ↓", "0.50 ↓")] == [False, True, False]


def test_figures_of_pairs_by_activations_stand_beside_shifted_members() -> None:
    pair = {"a": 0, "b": 1, "best": 0.5, "matched": 0.4, "shared": None}
    chance = [
        {"a": 0, "b": 1, "best": 0.1, "matched": 0.0, "shared": None},
        {"a": 1, "b": 0, "best": 0.3, "matched": 0.2},
    ]
    firing = {"pairs": {"correlation": [pair]}, "null": {"correlation": [chance[0], {**chance[1], "shared": 0.5}]}}
    pairs, null = compare.pairs_by("correlation", {}, firing)
    assert (pairs[0]["mmcs"], pairs[0]["mean_matched_cosine"]) == (0.5, 0.4)
    assert np.isnan(compare.matrix(pairs, "shared", 2)).all()
    assert null == pytest.approx({"mmcs": 0.2, "mean_matched_cosine": 0.1, "shared": 0.5})
    cosines = {"pairs": [{"a": 0, "b": 1}], "null": None}
    assert compare.pairs_by("cosine", cosines, None)[1] == dict.fromkeys(compare.MEASURES)


def test_lone_features_match_in_no_way() -> None:
    atoms = pd.DataFrame({"feature": range(5), "dead": [False, False, False, False, True]})
    scores = pd.DataFrame({"cosine": [0.2, 0.9, 0.1, np.nan, 0.0], "correlation": [0.6, 0.1, 0.3, 0.2, 0.0]})
    assert compare.lone_features(atoms, scores, THRESHOLDS, ["cosine"])["feature"].tolist() == [2, 0, 3]
    assert compare.lone_features(atoms, scores, THRESHOLDS, ["cosine", "correlation"])["feature"].tolist() == [2, 3]


def test_removers_are_ordered_by_what_they_remove() -> None:
    energy = pd.DataFrame(
        {
            "feature": range(4),
            "member": [0, 0, 1, 1],
            "fired": [3, 1, 2, 0],
            "removed": [0.1, 0.3, 0.05, 0.0],
            "alone": 0.2,
        }
    )
    atoms = pd.DataFrame({"top_token": list("abcd"), "density": [0.1, 0.2, 0.3, 0.0]})
    rows = compare.removers(energy, atoms, None)
    assert rows["feature"].tolist() == [1, 0, 2]
    assert rows["of_stage"].tolist() == pytest.approx([0.75, 0.25, 1.0])
    assert compare.removers(energy, atoms, 1)["top_token"].tolist() == ["c"]


def test_stages_are_shown_as_shares() -> None:
    text = compare.stage_table(
        [{"before": 1.0, "after": 0.25, "bias": 0.05}, {"before": 0.0, "after": 0.0, "bias": 0.0}]
    )
    flat = text.replace("\u202f", " ").replace("\u2009", " ").replace("\xa0", " ")
    assert all(share in flat for share in ("75.0 %", "75 %", "5.0 %", "70.0 %", "25.0 %"))


# Strips


def test_the_strongest_feature_of_each_token_is_marked() -> None:
    features, rows = np.array([7, 8, 9]), np.array([0, 0, 2])
    values = np.array([0.5, 0.9, 0.1], np.float32)
    marks = text_strips.strongest_marks(features, rows, values, 3, {8: 1.8}, {9: 4})
    assert marks[0] == Mark(8, pytest.approx(0.9), 1.8, None)
    assert marks[1] is None
    assert marks[2] == Mark(9, pytest.approx(0.1), pytest.approx(0.1), 4)


def test_families_of_several_members_get_a_colour() -> None:
    strips = [[Mark(1, 1, 1, 5), Mark(2, 1, 1, 6), None], [Mark(3, 1, 1, 5), None, Mark(4, 1, 1, None)]]
    assert text_strips.family_colors(strips) == {5: text_strips.FAMILY_COLORS[0]}


def test_all_strips_break_at_the_same_tokens() -> None:
    texts = ["abc", " def", "\n", "ghi", " jkl", "x" * 10_000]
    assert text_strips.lines(texts, width=9) == [range(0, 3), range(3, 5), range(5, 6)]
    assert [place for line in text_strips.lines(texts, width=1) for place in line] == list(range(6))
    assert text_strips.lines([]) == []


def test_strips_hold_the_same_tokens_and_escape_them() -> None:
    texts = ["The", INJECTION, "\u202eabc", "y" * 10_000]
    marks = [Mark(1, 0.5, 1.0, 3), Mark(2, 0.5, 1.0, None), None, Mark(3, 2.0, 0.0, 3)]
    describe = {1: f"top token {INJECTION}"}
    text = text_strips.aligned(
        texts, ["member 0", "member 1"], [marks, [None] * 4], colors={3: "#123456"}, describe=describe
    )
    assert "<img" not in text
    assert "\u202e" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") >= 2
    assert len(text) < 5000
    assert text.count("#123456") == 2
    assert text.count(text_strips.LONE_COLOR) == 1
    own = text_strips.aligned(texts, ["a"], [marks], colors={}, describe={}, lone=["#abcdef"])
    assert own.count("#abcdef") == 3
    by_activation = text_strips.aligned(texts, ["a"], [marks], colors=None, describe={})
    assert 'class="a4"' in by_activation
    assert INJECTION not in text_strips.family_legend({3: "#123456"}, {3: [INJECTION]})


# Reads


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    complete = write_synthetic_run(root / "complete")
    shutil.copytree(complete.path, root / "older")
    for name in ("bagged", "boosted"):
        folder = Run.open(root / "older").ensemble(name)
        for path in (folder.families, folder.family_summary, folder.firing_matches, folder.stage_energy):
            path.unlink(missing_ok=True)
    return root


def test_a_family_and_its_surroundings_are_those_of_the_tables(runs: Path) -> None:
    run = Run.open(runs / "complete")
    found = data.families(run, "bagged")
    assert found is not None
    stored = read_table(run.ensemble("bagged").families)
    assert len(found) == len({tuple(features) for features in stored["features"]})
    row = found[found["size"] == 2].iloc[0]
    members = [feature // 24 for feature in row["features"]]
    info = opening.ensembles(run)["bagged"]
    pairs = data.family_pairs(run, info, row["features"])
    assert pairs is not None
    for measure in ("cosine", "correlation", "overlap"):
        assert pairs[measure].mean() == pytest.approx(row[measure], abs=1e-6)
    absent = ({0, 1, 2} - set(members)).pop()
    matches = read_table(run.ensemble("bagged").matches)
    there = matches[matches["feature"].isin(row["features"]) & (matches["other_member"] == absent)]
    nearest = data.nearest_elsewhere(run, "bagged", row["features"])[absent]
    assert nearest["cosine"][1] == pytest.approx(there["best_cosine"].max())
    more = data.more_of_family(run, "bagged", row["features"])
    assert set(more["into"]) <= set(row["features"])
    assert not set(more["feature"]) & set(row["features"])
    mapping = data.family_of(run, "bagged", "cosine")
    atoms = read_table(run.ensemble("bagged").atoms)
    assert set(mapping) == set(atoms["feature"][atoms["family"] >= 0])
    scores = data.best_scores(run, "bagged")
    firing = read_table(run.ensemble("bagged").firing_matches)
    assert scores is not None
    for feature in range(len(atoms)):
        own = firing[firing["feature"] == feature]
        assert scores["overlap"].iloc[feature] == pytest.approx(own["best_overlap"].max())


def test_an_older_run_has_its_families_by_cosine(runs: Path) -> None:
    older, complete = Run.open(runs / "older"), Run.open(runs / "complete")
    found = data.families(older, "bagged")
    assert found is not None
    assert found["by_cosine"].all()
    assert {*found["found"]} == {("cosine",)}
    assert found["correlation"].isna().all()
    assert data.family_of(older, "bagged", "cosine").keys() == data.family_of(complete, "bagged", "cosine").keys()
    assert data.family_summary(older, "bagged") is None
    assert data.stage_energy(older, "boosted") is None


# The page


def live_of(run: Run, ensemble: str, texts: list[str]) -> LiveText:
    """What the real one would give, with activations drawn at random instead of a language model's."""
    loaded = load_ensemble(run.ensemble(ensemble))
    with torch.no_grad():
        acts_TD = 3 * torch.randn(len(texts), loaded.d_in, generator=torch.Generator().manual_seed(0))
        coefs_TM = loaded.encode(acts_TD).numpy()
    parts = [np.nonzero(coefs_TM[:, a:b].T) for a, b in zip(loaded.offsets[:-1], loaded.offsets[1:], strict=True)]
    features = np.concatenate([part[0] + start for part, start in zip(parts, loaded.offsets, strict=False)])
    rows = np.concatenate([part[1] for part in parts])
    pointers = np.cumsum([0, *(len(part[0]) for part in parts)])
    energy = acts_TD.square().sum(dim=1).numpy()
    left = np.ones((len(loaded), len(texts)), np.float32)
    return LiveText(
        "",
        np.zeros(len(texts), np.int32),
        texts,
        True,
        features,
        rows,
        coefs_TM[rows, features],
        pointers,
        energy,
        left,
    )


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text can be read although the synthetic run has no language model."""
    tokens = ["The", " array", INJECTION, "\n", " returns"]
    monkeypatch.setattr(typed_text, "live_text", lambda run, ensemble, text: live_of(run, ensemble, tokens))

    class Read:
        acts_TD = 3 * torch.randn(5, 32, generator=torch.Generator().manual_seed(0))

    monkeypatch.setattr(comparing, "text_read", lambda *_: Read())


def read_it(app: AppTest) -> AppTest:
    app.text_area(key="aligned-text").set_value("The array")
    return next(button for button in app.button if button.label == "Read it").click().run()


def test_one_text_goes_through_all_members(monkeypatch: pytest.MonkeyPatch, runs: Path, typed: None) -> None:
    app = read_it(open_page(monkeypatch, runs, "compare", run="complete", ensemble="bagged"))
    assert not app.exception
    page = html(app)
    assert INJECTION not in page
    assert all(f"{name} {member}</span>" in page for name in ("member",) for member in range(3))
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 3
    assert "another feature" in page
    app.segmented_control(key="aligned-mode").set_value("family").run()
    assert not app.exception
    assert "outlined" in html(app)


def test_stages_remove_the_energy_of_the_text(monkeypatch: pytest.MonkeyPatch, runs: Path, typed: None) -> None:
    app = read_it(open_page(monkeypatch, runs, "compare", run="complete", ensemble="boosted"))
    assert not app.exception
    page = html(app)
    assert "removes of this text" in page.replace("\u2019", "'")
    assert sum("does most of it with" in caption.value for caption in app.caption) == 3
    run = Run.open(runs / "complete")
    found = data.energy_of_text(run, "boosted", "The array")
    for (stage, table), before in zip(found, [None, *[stage for stage, _ in found]], strict=False):
        removed = float((stage.before_B - stage.after_B).sum())
        assert table["removed"].sum() + float(stage.bias_B.sum()) == pytest.approx(removed, rel=1e-3)
        assert before is None or torch.equal(stage.before_B, before.after_B)


def test_a_text_that_cannot_be_read_gets_a_sentence(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    app = read_it(open_page(monkeypatch, runs, "compare", run="complete", ensemble="bagged"))
    assert not app.exception
    assert "This text cannot be read" in html(app)


def test_the_page_shows_a_family_of_the_link(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    found = data.families(Run.open(runs / "complete"), "bagged")
    assert found is not None
    row = found[found["size"] == 2].iloc[0]
    app = open_page(monkeypatch, runs, "compare", run="complete", ensemble="bagged", family=str(row["family"]))
    assert not app.exception
    page = html(app)
    assert f"Family {row['family']}</h1>" in page
    assert "has none; the closest is" in page
    for feature in row["features"]:
        assert any(f"feature={feature}" in link.split("&") for link in links(app))
    assert "All three agree" in page
    assert "by chance" in page


@pytest.mark.parametrize("asked", ["99999", "-1", "<img src=x onerror=alert(1)>", "٣"])
def test_a_family_that_is_not_there_gets_a_sentence(monkeypatch: pytest.MonkeyPatch, runs: Path, asked: str) -> None:
    app = open_page(monkeypatch, runs, "compare", run="complete", ensemble="bagged", family=asked)
    assert not app.exception
    assert "There is no such family" in html(app)
    assert INJECTION not in html(app)


@pytest.mark.parametrize("ensemble", ["bagged", "boosted"])
def test_an_older_run_says_what_to_run(monkeypatch: pytest.MonkeyPatch, runs: Path, ensemble: str) -> None:
    app = open_page(monkeypatch, runs, "compare", run="older", ensemble=ensemble)
    assert not app.exception
    page = html(app)
    assert "Only atoms are compared yet" in page
    assert f"sae-ensemble index {runs / 'older'}" in page
    assert ("The energy that features remove is not measured yet" in page) == (ensemble == "boosted")


def test_families_and_measures_can_be_chosen(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    app = open_page(monkeypatch, runs, "compare", run="complete", ensemble="bagged", by="overlap", measure="shared")
    assert not app.exception
    assert "0.33" in html(app)
    for way in families.FOUND:
        app.segmented_control(key="family-found").set_value(way).run()
        assert not app.exception
