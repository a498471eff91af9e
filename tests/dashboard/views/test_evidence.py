"""ROC curves and intervals on the page on concepts, and the report in the overview."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from app_pages import html, open_page
from synthetic_run import write_synthetic_run

from dashboard.shared.look.suggested import suggestion_line, suggestion_text
from dashboard.views.concepts import data
from dashboard.views.concepts.charts import (
    by_features,
    difference,
    means,
    roc_chart,
    with_features,
)
from dashboard.views.overview import data as report_data
from dashboard.views.overview.findings import (
    found_by_members,
    marginal_chart,
    stops,
)
from sae_core.analysis.concepts.detected import Mean, difference_of
from sae_core.analysis.concepts.detector_outcomes import KEY
from sae_core.analysis.shared.names_in_tables import COVERED
from sae_core.foundation.figures import Figure
from sae_core.foundation.files.whole_files import read_json, read_table, write_json, write_table
from sae_core.foundation.numbers import percent
from sae_core.foundation.run import DETECTION, DETECTORS, Run
from sae_core.report.html import number, questions
from sae_core.report.tables import by_ensemble, by_members


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_synthetic_run(tmp_path_factory.mktemp("runs") / "complete", members=2)


def test_one_concept_is_shown_as_roc_and_by_number_of_features(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    app = open_page(monkeypatch, run.path, "concepts", ensemble="bagged", look="roc")
    assert not app.exception
    assert "ROC curves, 5 features" in html(app)
    assert "<details" in html(app)  # examples of the features that detect it
    app.segmented_control(key="look-roc").set_value("features").run()
    assert app.query_params["look"] == "features"
    assert "how many features it takes" in html(app)


def test_runs_without_curves_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path) -> None:
    other = write_synthetic_run(tmp_path / "earlier", members=2)
    other.evaluation_table(DETECTORS).unlink()
    app = open_page(monkeypatch, other.path, "concepts", look="roc")
    assert not app.exception
    assert "No ROC curves are kept" in html(app)
    assert f"sae-ensemble evaluate {other.path}" in html(app)


def test_roc_curves_are_drawn_as_they_are_kept(run: Run) -> None:
    table = with_features(read_table(run.evaluation_table("concepts")), 5)
    rows = table[(table["task"] == "kind") & (table["concept"] == "prose") & (table["variant"] == "plain")]
    curves = read_table(run.evaluation_table(DETECTORS)).merge(rows[list(KEY)], on=list(KEY))
    chart = roc_chart(curves, rows)
    own = next(trace for trace in chart.data if trace.name and trace.name.startswith("bagged"))
    kept = curves[curves["method"] == "bagged"].iloc[0]
    assert list(own.x) == list(kept["roc_false_positive_rate"])
    assert list(own.y) == list(kept["roc_detection_rate"])
    assert (own.x[0], own.x[-1], own.y[0], own.y[-1]) == (0, 1, 0, 1)
    area = rows[(rows["method"] == "bagged")]["auc"].iloc[0]
    assert f"({area:.3f})" in own.name
    assert len(chart.data) == 1 + rows["method"].nunique()


def test_means_over_concepts_have_the_interval_that_was_drawn_for_them() -> None:
    rows = [
        {"method": "bagged", "m": 5, "accuracy": a, "accuracy_low": a - h, "accuracy_high": a + h}
        for a, h in ((0.8, 0.03), (0.9, 0.04))
    ]
    known = {("bagged", 5): Mean(0.85, 0.82, 0.91)}
    found = means(pd.DataFrame(rows), known).iloc[0]
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((0.85, 0.82, 0.91))
    chart = by_features(pd.DataFrame(rows), 0.5, known)
    assert chart.data[0].error_y.array == pytest.approx([0.06])
    assert chart.data[0].error_y.arrayminus == pytest.approx([0.03])
    alone = means(pd.DataFrame(rows[:1])).iloc[0]
    assert (alone["low"], alone["high"]) == pytest.approx((0.77, 0.83))
    assert math.isnan(means(pd.DataFrame(rows)).iloc[0]["low"])


def test_what_was_cut_off_the_texts_of_a_task_is_said(
    monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path
) -> None:
    assert not any("are cut off" in each.value for each in open_page(monkeypatch, run.path, "concepts").caption)
    other = Run.open(shutil.copytree(run.path, tmp_path / "cut"))
    facts = read_json(other.evaluation("concepts"))
    read = {"tokens_per_text": 30, "tokens_per_text_asked": 128, "texts": 40, "cut_texts": 12, "tokens": 900}
    read |= {"dropped_tokens": 534, "dropped_share": 534 / 1434, "unknown_share": 0.0125}
    write_json(other.evaluation("concepts"), facts | {"tasks": [task | {"read": read} for task in facts["tasks"]]})
    app = open_page(monkeypatch, other.path, "concepts")
    assert not app.exception
    assert any(
        "At most the first 30 tokens of a text are read (special ones included, not 128, which is beyond the run's "
        "context): 12 of 40 texts are longer, and 37.2% of all tokens are cut off. The tokenizer does not know 1.25% "
        "of the characters." in each.value
        for each in app.caption
    )


def test_methods_are_compared_with_one_sae_on_the_same_texts(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    app = open_page(monkeypatch, run.path, "concepts", ensemble="bagged")
    assert not app.exception
    assert app.query_params.get("variant", "standardised") == "standardised"
    page = html(app)
    assert "Differences to one SAE" in page
    pairs = difference_of(data.mean_accuracies(run), "library", 5, "standardised")
    found = pairs["bagged", "single"]
    assert difference(found).text in page
    assert difference(found).small in page
    assert difference(Mean(0.0, 0.0, 0.0)).small == "exactly the same"
    assert difference(None).text == "–"
    app = open_page(monkeypatch, run.path, "concepts", ensemble="bagged", variant="plain")
    assert any("feel the scale" in caption.value for caption in app.caption)


def test_the_overview_says_what_the_report_says(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    app = open_page(monkeypatch, run.path, "overview")
    assert not app.exception
    content = report_data.report(run)
    assert content is not None
    page = html(app)
    assert content["decision"]["headline"] in page
    assert "What to do next" in page
    assert "Where to stop" in page
    assert "all 2 members were worth it" in page or "stop at 1 of 2 members" in page
    assert f"sae-ensemble evaluate {run.path} --retrain OTHER" in page
    assert {button.proto.label for button in app.get("download_button")} == {"Report as HTML", "Report as JSON"}
    written = json.loads(report_data.report_json(run))
    assert written["decision"] == json.loads(json.dumps(content["decision"]))
    assert report_data.report_html(run).startswith("<!doctype html>")


def test_stability_over_trainings_is_shown_beside_random_dictionaries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = write_synthetic_run(tmp_path / "run", members=2)
    figures = {"pooled": 0.71, "null_pooled": 0.31, "mmcs": 0.6, "null_best": 0.3, "pw_mcc": 0.55, "null_matched": 0.2}
    often = {"retrains": 4, "pooled": 0.66, "null_pooled": 0.33}
    nulls = {"pw_mcc": 0.3054, "mmcs": 0.4, "null_matched": 0.237, "null_best": 0.3}
    stages = [{"stage": 1, **nulls, "noise_matched": None, "noise_best": None}]
    stages.append({"stage": 2, **nulls, "noise_matched": 0.2968, "noise_best": 0.35})
    boosted = {**figures, "by_stage": stages, "noise": {"reason": None, "rows": 100, "tokens": 100}}
    content = {"runs": ["a", "b"], "ensembles": {"bagged": figures, "boosted": boosted}, "single_as_often": often}
    write_json(run.evaluation("stability"), content)
    app = open_page(monkeypatch, run.path, "overview")
    assert not app.exception
    assert "0.710" in html(app)
    assert "--retrain OTHER" not in html(app)
    assert any("One SAE given 4 retrains" in caption.value for caption in app.caption)
    assert html(app).count("their stage 2 0.305, on noise 0.297") == 1


def test_what_the_control_of_boosting_detects_stands_beside_it(
    monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path
) -> None:
    other = Run.open(shutil.copytree(run.path, tmp_path / "controlled"))
    table = read_table(other.evaluation_table("concepts"))
    table.loc[table["method"] == "stage 1 + random stages", "accuracy"] = 0.61234
    write_table(other.evaluation_table("concepts"), table)
    other.evaluation_table(DETECTORS).unlink(missing_ok=True)
    other.evaluation_table(DETECTION).unlink(missing_ok=True)
    app = open_page(monkeypatch, other.path, "overview")
    assert not app.exception
    row = html(app).split(">stage 1 + random stages")[1].split("</tr>")[0]
    assert "61.2\u202f%" in row
    assert "61.2\u202f% with 1" in row
    # On the page of concepts it is a method like others, but none whose features could be opened.
    app = open_page(monkeypatch, other.path, "concepts", ensemble="boosted")
    assert not app.exception
    assert "stage 1 + random stages, 5 features" in html(app)
    assert "stage 1 + random stages" not in {option for each in app.get("button_group") for option in each.options}


def test_what_is_found_of_a_known_truth_has_intervals_and_differences(
    monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path
) -> None:
    other = Run.open(shutil.copytree(run.path, tmp_path / "known"))
    keys = ("recall", "mcc", "precision", "f1")
    scores = {
        name: {
            **dict.fromkeys(keys, 0.4),
            "recall_cap": 0.875,
            **{f"{key}_interval": [0.31, 0.52] for key in keys},
            **{f"{key}_above": {"single": [-0.04, 0.05], "random": [0.26, 0.37]} for key in keys},
            "random": dict.fromkeys(keys, 0.1),
            "by_frequency": [],
        }
        for name in (folder.name for folder in other.ensembles())
    }
    write_json(other.evaluation("truth"), {"threshold": 0.9, "ensembles": scores})
    app = open_page(monkeypatch, other.path)
    assert not app.exception
    shown = html(app)
    assert "0.310 – 0.520" in shown
    assert "bagged − single</th><td>+0.000<small>−0.040 – +0.050</small>" in shown
    assert "+0.300<small>+0.260 – +0.370</small>" in shown
    # Each of the headings that are alike says whose random dictionaries it is about.
    tooltips = re.findall(r'<th title="([^"]+)">random</th>', shown[shown.index("Known truth") :])
    assert [tooltip.split(" of ")[0] for tooltip in tooltips[:4]] == ["Recall", "MCC", "Precision", "F1"]
    assert "0.875" in shown
    assert COVERED in [each.value for each in app.caption]


@pytest.mark.parametrize("page", ["text", "spurious"])
def test_pages_of_texts_say_that_an_origin_has_none(
    monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path, page: str
) -> None:
    other = shutil.copytree(run.path, tmp_path / "run")
    manifest = read_json(other / "run.json")
    manifest["settings"]["text"]["source"] = manifest["settings"]["model"]["name"] = "known"
    write_json(other / "run.json", manifest)
    app = open_page(monkeypatch, other, page)
    assert not app.exception
    assert "come from a known dictionary" in html(app)


def step(members: int, gain: float | None) -> dict:
    keys = ("train_seconds", "train_flops", "bytes", "inference_seconds_per_token", "explained_variance")
    empty = {"mean": None, "low": None, "high": None}
    own = {"mean": gain, "low": None, "high": None}
    return {"members": members, **dict.fromkeys(keys, empty), "added_explained_variance": own, "added_per_cost": own}


def test_the_marginal_curve_and_its_sentences() -> None:
    ensembles = {
        "single": {"by_members": [step(1, 0.8)], "stop": None, "figures": {}},
        "bagged": {"by_members": [step(1, 0.8), step(2, 0.03), step(3, 0.004)], "stop": 2, "figures": {}},
    }
    chart = marginal_chart(ensembles, 0.01)
    assert chart is not None
    assert [list(trace.y) for trace in chart.data] == [[0.03, 0.004]]
    assert chart.layout.shapes[0].y0 == 0.01
    assert stops(ensembles) == ["bagged: stop at 2 of 3 members"]
    assert by_members({"ensembles": ensembles}).count("<tr>") == 1 + 3
    only = {"single": ensembles["single"]}
    assert marginal_chart(only, 0.01) is None
    assert by_members({"ensembles": only}) == ""


def test_tables_leave_out_what_nobody_has_and_escape() -> None:
    ensembles = {
        "<i>": {"figures": {"a.x": {"mean": 0.5, "low": 0.4, "high": 0.6}}},
        "b": {"figures": {}},
    }
    x = Figure(key="a.x", title="X", style=percent, definition="what <b>X</b> is")
    y = Figure(key="a.y", title="Y", style=percent, definition="what Y is")
    table = by_ensemble({"ensembles": ensembles}, [x, y])
    assert "<i>" not in table
    assert "Y" not in table
    assert "what &lt;b&gt;X&lt;/b&gt; is" in table
    assert percent(0.4) in table
    assert by_ensemble({"ensembles": ensembles}, [y]) == ""
    assert number(None, percent).text == number({"mean": None}, percent).text == "–"
    assert "&lt;script&gt;" in questions({"cost": "Cost"}, {"cost": ["<script>"]})


def test_what_members_find_is_drawn_where_it_was_measured() -> None:
    ensembles = {
        "single": {"by_members": [step(1, 0.8)]},
        "bagged": {
            "by_members": [{**step(1, 0.8), "recall": {"mean": 0.2}}, {**step(2, 0.1), "recall": {"mean": 0.3}}]
        },
    }
    found = found_by_members(ensembles, "recall")
    assert found == {"bagged": {"by_members": [{"members": 1, "recall": 0.2}, {"members": 2, "recall": 0.3}]}}
    assert found_by_members(ensembles, "detection_5") == {}


def test_suggestions_are_marked_measured_and_escaped() -> None:
    row = {"suggestion": "token <b>the</b>", "precision": 0.912, "recall": 0.5}
    assert suggestion_text(row) == f"token <b>the</b> (precision {percent(0.912, 0)}, recall {percent(0.5, 0)})"
    assert "suggested: <i>token &lt;b&gt;the&lt;/b&gt;" in suggestion_line(row)
    assert suggestion_text({"suggestion": ""}) == suggestion_line({"suggestion": ""}) == ""
