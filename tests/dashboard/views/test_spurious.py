"""The page on spurious correlations: what is ticked, what comes of it and what is saved; and where nothing is yet."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from app_pages import html, open_page
from spurious_run import CONTROL, FINGERPRINT, SAYS_S, TASK, add_spurious_task
from streamlit.testing.v1 import AppTest
from synthetic_run import write_synthetic_run

from dashboard.views.spurious import data, keeping
from dashboard.views.spurious import workbench as page
from dashboard.views.spurious.bench import Bench, Ticked
from dashboard.views.spurious.outcomes import Line, Names, automatic_chart, half_width, outcome_table, text_cards
from sae_core.analysis.shared.names_in_tables import RANDOM
from sae_core.analysis.spurious.ablation import Outcome
from sae_core.analysis.spurious.choices import Choice, choices, save_choice
from sae_core.analysis.spurious.files import open_workbench
from sae_core.foundation.files.whole_files import read_json
from sae_core.foundation.run import Run

NAMES = Names(("nurse", "teacher"), ("man", "woman"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    add_spurious_task(write_synthetic_run(root / "complete", members=2, stop_before="evaluate"))
    write_synthetic_run(root / "corpus-only", stop_before="train")
    write_synthetic_run(root / "trained", members=2, stop_before="index")
    add_spurious_task(write_synthetic_run(root / "not-indexed", members=2, stop_before="index"))
    return root


def button(app: AppTest, label: str):
    return next(button for button in app.button if button.label == label)


def test_unmeasured_runs_say_what_to_run(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    for name, command in (("corpus-only", "train"), ("trained", "spurious")):
        app = open_page(monkeypatch, runs, "spurious", run=name)
        assert not app.exception
        assert f"sae-ensemble {command} {runs / name}" in html(app)


@pytest.mark.parametrize("query", [{"run": "complete"}, {"run": "not-indexed"}, {"run": "complete", "bench": "random"}])
def test_the_page_opens_and_shows_signs_as_text(
    monkeypatch: pytest.MonkeyPatch, runs: Path, query: dict[str, str]
) -> None:
    app = open_page(monkeypatch, runs, "spurious", ensemble="boosted", **query)
    assert not app.exception
    assert "cannot be shown" not in html(app)
    assert "<img" not in html(app)
    assert "Untouched" in html(app)
    assert "Oracle" in html(app)


def test_random_stages_are_drawn_but_nobody_can_tick_their_features(
    monkeypatch: pytest.MonkeyPatch, runs: Path
) -> None:
    app = open_page(monkeypatch, runs, "spurious", run="complete", ensemble="boosted", bench=CONTROL)
    assert not app.exception
    offered = next(box.options for box in app.selectbox if box.label == "Features of")
    assert offered == ["single", "bagged", "boosted", "expanded", "random"]
    figures = read_json(Run.open(runs / "complete").evaluation("spurious"))["tasks"][0]["figures"]
    line = next(trace for trace in automatic_chart(figures, "target").data if trace.name == CONTROL)
    row = next(r for r in figures if (r["method"], r["ranking"], r["n"]) == (CONTROL, "biased probe", 5))
    assert line.y[list(line.x).index(5)] == row["target"]["mean"]
    assert line.line.dash == "dot"


def test_the_features_of_the_random_dictionary_can_be_exported(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    work, _ = open_workbench(Run.open(runs / "complete"), TASK, RANDOM, seed=0)
    here = SimpleNamespace(run=Run.open(runs / "complete"), ensembles={}, author="Ada")
    monkeypatch.setattr(keeping, "labels_of", lambda bench: {})
    facts = read_json(here.run.evaluation("spurious"))["tasks"][0]
    ready = data.bench(here.run, TASK, RANDOM, 0)
    picked = tuple(map(int, work.rank()[:2]))
    bench = Bench(here, facts, RANDOM, 0, ready, Ticked(), "key")
    lines = keeping._exported(bench, Choice(TASK, RANDOM, "mine", "Ada", picked), "csv")().splitlines()
    assert [line.split(",")[4] for line in lines[1:]] == [str(feature) for feature in picked]


def test_ticking_the_top_gives_the_benchs_figures(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    app = open_page(monkeypatch, runs, "spurious", run="complete", ensemble="bagged", seed="1")
    app.number_input[0].set_value(3).run()
    button(app, "Tick the top").click().run()
    assert not app.exception
    work, _ = open_workbench(Run.open(runs / "complete"), TASK, "bagged", seed=1)
    found = work.ablate(work.rank()[:3])
    names = NAMES
    expected = outcome_table(names, [Line("Your choice", 3, found, work.scr(found))], len(work.texts.test))
    cells = expected.split("Your choice")[1].split("<td>")[2:]
    mine = html(app).split("Your choice")[1].split("<td>")[2:]
    # Figures alone: what stands below them compares with the untouched probe.
    assert [cell.split("<")[0] for cell in mine[:8]] == [cell.split("<")[0] for cell in cells[:8]]
    button(app, "Clear").click().run()
    assert html(app).split("Your choice")[1].split("<td>")[1].startswith("–")


def test_the_feature_known_to_mean_the_attribute_is_ticked_and_helps(
    monkeypatch: pytest.MonkeyPatch, runs: Path
) -> None:
    app = open_page(monkeypatch, runs, "spurious", run="complete", ensemble="bagged")
    button(app, "Tick the known").click().run()
    assert app.session_state[f"ablate|complete|{TASK}|bagged"].features == {SAYS_S}
    button(app, "Check on all 2 seeds").click().run()
    assert not app.exception
    assert "All seeds" in html(app)
    button(app, "Tick the top").click().run()
    assert "All seeds" not in html(app)  # they were another choice's


def test_a_choice_is_saved_loaded_and_deleted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = write_synthetic_run(tmp_path / "run", members=2, stop_before="evaluate")
    add_spurious_task(run)
    app = open_page(monkeypatch, run.path, "spurious", ensemble="bagged")
    app.text_input(key="author").set_value("Ada").run()
    app.number_input[0].set_value(2).run()
    button(app, "Tick the top").click().run()
    app.session_state[f"ablate|run|{TASK}|bagged|keep"] = True  # opens what is folded away
    app.run()
    next(box for box in app.text_input if box.label == "Name").set_value("<b>mine</b>")
    button(app, "Save in the run").click().run()
    assert not app.exception
    work, _ = open_workbench(run, TASK, "bagged", seed=0)
    kept = choices(run, TASK, "bagged")[0]
    assert (kept.name, kept.author, kept.fingerprint) == ("<b>mine</b>", "Ada", FINGERPRINT)
    assert kept.features == tuple(sorted(map(int, work.rank()[:2])))
    assert kept.figures["target"] == work.ablate(kept.features).target
    far = int(work.rank()[-1])
    save_choice(run, Choice(TASK, "bagged", "far", "Bo", (far,), "another"))
    app.run()
    next(box for box in app.selectbox if box.label == "Saved").set_value(1).run()
    assert any("may mean something else" in caption.value for caption in app.caption)
    next(box for box in app.selectbox if box.label == "Saved").set_value(0).run()
    button(app, "Clear").click().run()
    button(app, "Load").click().run()
    assert app.session_state[f"ablate|run|{TASK}|bagged"].features == set(kept.features)
    button(app, "Delete").click().run()
    assert len(choices(run, TASK, "bagged")) == 1


def outcome(*groups: float) -> Outcome:
    cells = dict(zip([(False, False), (False, True), (True, False), (True, True)], groups, strict=True))
    return Outcome(float(np.mean(groups)), 0.5, cells)


def test_outcomes_are_compared_with_the_untouched_probe() -> None:
    lines = [Line("Untouched", 0, outcome(1, 0.5, 0.5, 1), 0.0), Line("Your choice", 3, outcome(1, 0.9, 0.8, 1), 0.7)]
    table = outcome_table(NAMES, lines, 400)
    assert "92.5" in table
    assert "+30.0" in table  # the worst group, from 50 to 80 %
    assert f"± {196 * (0.925 * 0.075 / 400) ** 0.5:.1f}" in table
    assert half_width(0.5, 400) == pytest.approx(0.049)
    assert half_width(1.0, 400) == half_width(0.3, 0) == 0.0
    headings = ["teacher · woman", "teacher · man", "nurse · woman", "nurse · man"]
    assert [table.index(each) for each in headings] == sorted(table.index(each) for each in headings)


def test_texts_are_cut_escaped_and_their_words_set_off() -> None:
    row = {"text": "She said <b>she</b> is Sheila" + " x" * 400, "target": True, "spurious": False, "mean": 1.5}
    page = text_cards(NAMES, [row], ["she"])
    assert page.count("<b>") == 2
    assert "<b>She</b> said &lt;b&gt;<b>she</b>&lt;/b&gt; is Sheila" in page
    assert "teacher · man" in page
    assert len(page) < 900


def test_automatic_lines_are_the_measured_means(runs: Path) -> None:
    figures = read_json(Run.open(runs / "complete").evaluation("spurious"))["tasks"][0]["figures"]
    chart = automatic_chart(figures, "worst_group")
    assert {trace.name for trace in chart.data} >= {"bagged", "random"}
    own = next(trace for trace in chart.data if trace.name == "bagged")
    row = next(r for r in figures if r["method"] == "bagged" and r["ranking"] == "biased probe" and r["n"] == 5)
    assert own.y[list(own.x).index(5)] == row["worst_group"]["mean"]
    assert len(chart.layout.shapes) == 2


def test_what_a_browser_sends_is_believed_as_far_as_it_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    ticked = Ticked()
    monkeypatch.setattr(page.st, "session_state", {"list": {"ticked": [3, 99, -1, 4.0], "look": None}})
    page._on_tick(ticked, "list", {1, 3, 4})
    assert ticked.features == {3, 4}
    page._on_look(ticked, "list")
    assert ticked.looked is None
    ticked.put([1])
    assert (ticked.preset, ticked.version) == ([1], 1)
