"""The report: its runs, its figures and intervals, its charts and its page."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from command_line import call, refused
from models import MARKUP
from report_figures import EXPLAINED, figure

from sae_core.analysis.shared.names_in_tables import COVERED
from sae_core.analysis.shared.seeds import within
from sae_core.analysis.summary import summarize
from sae_core.foundation.files.whole_files import read_json, write_json
from sae_core.foundation.run import Run
from sae_core.report.build import render
from sae_core.report.charts import LEFT, RIGHT, TOP, WIDTH, Axis, Point, Row, Series, dots, lines
from sae_core.report.figures import by_members, compared, concept_means, ensemble_figures, verdict_on
from sae_core.report.gather import gather
from sae_core.report.runs import find_subject

T_OF_3 = 4.302652729749464
"""Student's t at 97.5 % with two degrees of freedom."""


def with_seed(run: Run, path: Path, seed: int, explained: dict[str, float]) -> Run:
    """A copy of a run that says it has another seed and explains something else."""
    shutil.copytree(run.path, path, ignore=shutil.ignore_patterns("activations", "corpus", "index"))
    manifest = read_json(path / "run.json")
    manifest["settings"]["training"]["seed"] = seed
    write_json(path / "run.json", manifest)
    copy = Run.open(path)
    content = read_json(copy.evaluation("reconstruction"))
    for name, value in explained.items():
        content["ensembles"][name]["explained_variance"] = value
    write_json(copy.evaluation("reconstruction"), content)
    return copy


@pytest.fixture(scope="module")
def seeds(trained_run, tmp_path_factory):
    """A folder of three runs with different seeds, and what their ensembles explain."""
    folder = tmp_path_factory.mktemp("seeds")
    explained = {"single": (0.5, 0.6, 0.55), "bagged": (0.58, 0.7, 0.64), "boosted": (0.4, 0.7, 0.55)}
    for seed in (2, 0, 1):
        with_seed(trained_run, folder / f"run_{9 - seed}", seed, {name: own[seed] for name, own in explained.items()})
    return folder, explained


def test_figures_over_seeds_are_means_with_students_interval(seeds):
    folder, explained = seeds
    subject = find_subject(folder)
    assert [run.settings.training.seed for run in subject.runs] == [0, 1, 2]
    figures = ensemble_figures(subject.runs)
    for name, own in explained.items():
        figure = figures[name][EXPLAINED]
        half = T_OF_3 * np.std(own, ddof=1) / math.sqrt(3)
        assert figure["values"] == list(own)
        assert figure["mean"] == pytest.approx(np.mean(own))
        assert (figure["low"], figure["high"]) == pytest.approx((np.mean(own) - half, np.mean(own) + half))
        assert figure["interval"] == "seeds"
    # Seed by seed bagging is always above, though the intervals of the two overlap.
    assert figures["single"][EXPLAINED]["high"] > figures["bagged"][EXPLAINED]["low"]
    paired = compared(figures, "bagged", EXPLAINED)
    own = np.subtract(explained["bagged"], explained["single"])
    assert paired["mean"] == pytest.approx(own.mean())
    assert paired["low"] == pytest.approx(own.mean() - T_OF_3 * own.std(ddof=1) / math.sqrt(3))
    assert verdict_on(paired) == "higher"
    assert verdict_on(compared(figures, "boosted", EXPLAINED)) == "open"
    assert compared(figures, "bagged", "truth.recall") is None


def test_figures_of_one_run_have_its_bootstrap_intervals(trained_run):
    figures = ensemble_figures([trained_run])
    measured = read_json(trained_run.evaluation("reconstruction"))["ensembles"]
    for name, own in measured.items():
        figure = figures[name][EXPLAINED]
        assert (figure["mean"], [figure["low"], figure["high"]]) == (
            own["explained_variance"],
            own["explained_variance_interval"],
        )
        assert figures[name]["reconstruction.mse"]["low"] is None
    halves = [
        (own["explained_variance_interval"][1] - own["explained_variance_interval"][0]) / 2 for own in measured.values()
    ]
    by_name = dict(zip(measured, halves, strict=True))
    difference = compared(figures, "boosted", EXPLAINED)
    assert difference["interval"] == "paired bootstrap"
    assert [difference["low"], difference["high"]] == measured["boosted"]["explained_variance_above"]["single"]
    assert difference["low"] <= difference["mean"] <= difference["high"]
    # An earlier evaluation did not keep it.
    earlier = {name: {EXPLAINED: {**own[EXPLAINED], "above": {}}} for name, own in figures.items()}
    wider = compared(earlier, "boosted", EXPLAINED)
    assert wider["high"] - wider["mean"] == pytest.approx(math.hypot(by_name["boosted"], by_name["single"]))
    assert wider["high"] - wider["low"] > difference["high"] - difference["low"]


def test_concepts_are_averaged_as_the_summary_does(trained_run):
    means = concept_means([trained_run])
    for row in summarize(trained_run):
        for m in (1, 5):
            expected = row[f"concept_accuracy_{m}_standardised"]
            figure = means[row["ensemble"], f"{m}.standardised"]
            assert figure["mean"] == pytest.approx(expected)
            assert 0 <= figure["low"] <= figure["mean"] <= figure["high"] <= 1


def test_intervals_of_shares_stay_shares():
    assert within({"mean": 0.9, "low": 0.7, "high": 1.1}, 0, 1) == {"mean": 0.9, "low": 0.7, "high": 1}
    assert within({"mean": None, "low": None, "high": None}, 0, 1)["low"] is None


def known_truth(lift: float) -> dict:
    """What evaluation/truth.json holds of one training: two ensembles, the second one better by so much."""
    keys = ("recall", "mcc", "precision", "f1")
    scores = {}
    for name, own in (("single", 0.4), ("bagged", 0.4 + lift)):
        other, more = ("bagged", -lift) if name == "single" else ("single", lift)
        scores[name] = {
            **dict.fromkeys(keys, own),
            "recall_cap": 0.9,
            **{f"{key}_interval": [own - 0.1, own + 0.1] for key in keys},
            **{f"{key}_above": {other: [more - 0.02, more + 0.03], "random": [own - 0.15, own]} for key in keys},
            "random": dict.fromkeys(keys, 0.1),
            "by_frequency": [{"from": 0.001, "to": 0.01, "features": 5, "recall": own, "f1": own}],
        }
    return {"threshold": 0.9, "ensembles": scores}


def test_one_training_has_intervals_of_what_is_found_and_of_its_differences(seeds, tmp_path):
    folder, _ = seeds
    path = shutil.copytree(next(folder.iterdir()), tmp_path / "run")
    write_json(Run.open(path).evaluation("truth"), known_truth(0.2))
    content_ = gather(find_subject(path))
    recall = content_["ensembles"]["bagged"]["figures"]["truth.recall"]
    assert (recall["low"], recall["high"]) == pytest.approx((0.5, 0.7))
    assert recall["interval"] == "bootstrap"
    found = {(row["ensemble"], row["other"]): row for row in content_["truth"]["differences"]}
    assert list(found) == [("single", "random"), ("bagged", "random"), ("bagged", "single")]
    for key in ("recall", "mcc", "precision", "f1"):
        above, floor = found["bagged", "single"][key], found["bagged", "random"][key]
        assert (above["mean"], above["low"], above["high"]) == pytest.approx((0.2, 0.18, 0.23))
        assert (floor["mean"], floor["low"], floor["high"]) == pytest.approx((0.5, 0.45, 0.6))
        assert above["interval"] == ("bootstrap" if key == "precision" else "paired bootstrap")
    text = render(content_)
    Page(text)
    assert "bagged − single" in text
    assert "+0.200<small>+0.180 – +0.230</small>" in text
    assert COVERED in text
    assert content_["ensembles"]["bagged"]["figures"]["truth.recall_cap"]["mean"] == 0.9
    # Runs that were scored before intervals were kept have none, and say so by having none.
    earlier = known_truth(0.2)
    for own in earlier["ensembles"].values():
        for key in [key for key in own if key.endswith(("_interval", "_above"))]:
            del own[key]
    write_json(Run.open(path).evaluation("truth"), earlier)
    content_ = gather(find_subject(path))
    assert content_["truth"]["differences"][0]["recall"]["low"] is None
    assert not any("found more of the true" in sentence for sentence in content_["decision"]["next"])


def numbers(pattern: str, svg: str) -> list[tuple[float, ...]]:
    return [tuple(map(float, found)) for found in re.findall(pattern, svg)]


def test_lines_lie_where_the_numbers_say():
    points = [Point(1, 0.0), Point(2, 0.5, 0.25, 0.75), Point(3, 1.0)]
    svg = lines([Series("a", "#123456", points)], Axis("x", whole=True), Axis("y"), label="L")
    circles = numbers(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    # Even steps along x, with room for 0.3 on either side, and along y the whole height.
    room = WIDTH - RIGHT - LEFT
    assert [x for x, _ in circles] == pytest.approx([LEFT + room * (step + 0.3) / 2.6 for step in range(3)], abs=0.06)
    bottom, middle, top = (y for _, y in circles)
    assert top == TOP
    assert middle == pytest.approx((bottom + top) / 2, abs=0.06)
    (bar,) = numbers(r'y1="([\d.]+)" x2="[\d.]+" y2="([\d.]+)" stroke="#123456"', svg)
    assert bar == pytest.approx((middle + (bottom - top) / 4, middle - (bottom - top) / 4), abs=0.06)
    # An interval far beyond the points is cut off, and leaves them apart.
    far = lines([Series("a", "#1", [*points[:2], Point(3, 1.0, -99, 99)])], Axis("x"), Axis("y"), label="L")
    ys = [y for _, y in numbers(r'<circle cx="([\d.]+)" cy="([\d.]+)"', far)]
    assert ys[0] - ys[-1] > 50
    log = lines([Series("a", "#1", [Point(x, 1) for x in (1, 10, 100)])], Axis("x", log=True), Axis("y"), label="L")
    xs = [x for x, _ in numbers(r'<circle cx="([\d.]+)" cy="([\d.]+)"', log)]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11)
    assert lines([Series("a", "#1", [])], Axis("x"), Axis("y"), label="L") == ""


def test_charts_escape_what_they_are_given():
    rows = [Row(MARKUP, "#123", 0.5, 0.4, 0.6, mark=0.1)]
    for svg in (
        dots(rows, Axis(MARKUP), label=f'"{MARKUP}', mark=MARKUP, line=0.5),
        lines([Series(MARKUP, "#1", [Point(1, 1, title=MARKUP)])] * 2, Axis(MARKUP), Axis(MARKUP), label=f'"{MARKUP}'),
    ):
        assert "<img" not in svg
        assert "&lt;img" in svg


class Page(HTMLParser):
    """Checks that elements are closed in order, and collects what a page would load or run."""

    ALONE = frozenset({"meta", "br", "circle", "line", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.titles: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]
        if tag not in self.ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.ALONE:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


@pytest.fixture(scope="module")
def reported(trained_run, tmp_path_factory):
    """The report of a trained run whose tasks and name hold markup."""
    path = tmp_path_factory.mktemp("reported") / "a <b>run"
    shutil.copytree(trained_run.path, path, ignore=shutil.ignore_patterns("activations"))
    facts = read_json(Run.open(path).evaluation("concepts"))
    facts["tasks"][0]["task"] = MARKUP
    write_json(Run.open(path).evaluation("concepts"), facts)
    outcome = call("report", path)
    assert outcome.code == 0, outcome.err
    return path, outcome


def test_the_page_stands_alone_and_shows_text_as_text(reported):
    path, outcome = reported
    text = (path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.loads == []
    assert not page.tags & {"script", "img", "b", "link", "iframe"}
    assert MARKUP not in text
    assert page.titles == [
        *("Reconstruction", "Dictionary", "Concept detection", "Cost", "Definitions", "Limits"),
        "Settings, seeds and versions",
    ]
    content_ = read_json(path / "report.json")
    assert content_["decision"]["headline"] in outcome.err
    assert {"single", "bagged", "boosted", "expanded"} == set(content_["ensembles"])
    assert render(content_) == text  # the page says nothing that the figures do not hold


READ = {"tokens_per_text": 9, "tokens_per_text_asked": 9, "texts": 120, "cut_texts": 60, "dropped_share": 0.25} | {
    "unknown_share": 0.0
}
CUT = (
    "At most the first 9 tokens of a text are read (special ones included): 60 of 120 texts are longer, and 25.0% of "
    "all tokens are cut off."
)


def test_a_report_over_seeds_and_of_what_is_known_and_spurious(seeds, tmp_path):
    folder, _ = seeds
    both = tmp_path / "both"
    shutil.copytree(folder, both)
    found = {"recall": 0.5, "mcc": 0.6, "precision": 0.4, "f1": 0.3}
    bins = [{"from": low, "to": 10 * low, "features": 5, "recall": 0.5, "f1": 0.4} for low in (0.001, 0.01)]
    truth = {**found, "recall_cap": 0.8, "random": dict.fromkeys(found, 0.1), "by_frequency": bins}
    reached = (0.5, 0.6, 0.75)
    for path in both.iterdir():
        run = Run.open(path)
        value = reached[run.settings.training.seed]
        rows = [
            {"method": name, "ranking": ranking, "n": n, "retrained": False}
            | {key: figure(value, value - 0.1, value + 0.1) for key in ("target", "spurious", "worst_group", "scr")}
            for name, ranking, n in (("biased", "", 0), ("single", "biased probe", 2), ("single", "biased probe", 10))
        ]
        task = {"task": "t", "description": MARKUP, "seeds": [0, 1], "figures": rows, "read": READ}
        write_json(run.evaluation("truth"), {"threshold": 0.9, "ensembles": {"single": truth, "bagged": truth}})
        write_json(run.evaluation("spurious"), {"tasks": [task]})
    outcome = call("report", both, "--out", tmp_path / "there" / "page.html", "--json")
    content_ = json.loads(outcome.out)
    assert content_ == read_json(tmp_path / "there" / "page.json")
    text = (tmp_path / "there" / "page.html").read_text(encoding="utf-8")
    assert {"Known truth", "Spurious correlations"} <= set(Page(text).titles)
    assert MARKUP not in text
    assert [run["seed"] for run in content_["runs"]] == [0, 1, 2]
    assert content_["truth"]["by_frequency"]["single"][0]["recall"]["mean"] == 0.5
    floor = content_["truth"]["differences"][0]
    assert (floor["ensemble"], floor["other"], floor["mcc"]["interval"]) == ("single", "random", "seeds")
    assert floor["mcc"]["mean"] == pytest.approx(0.5)
    assert COVERED not in text
    found = content_["spurious"][0]
    assert len(found["runs"]) == 3
    assert "Means over 3 trainings, each over 2 draws, which share an unknown part" in text
    assert text.count(CUT) == 1
    content_["concepts"]["tasks"][0]["read"] = READ
    assert render(content_).count(f"Task {content_['concepts']['tasks'][0]['task']}: {CUT}") == 1
    row = next(row for row in found["figures"] if row["n"] == 10)
    half = T_OF_3 * np.std(reached, ddof=1) / math.sqrt(3)
    assert row["target"]["values"] == list(reached)
    assert (row["scr"]["low"], row["scr"]["high"]) == pytest.approx((np.mean(reached) - half, np.mean(reached) + half))
    assert any("means over 3 trainings" in sentence for sentence in content_["decision"]["sure"])


def test_what_cannot_be_reported_is_refused(trained_run, seeds, tmp_path):
    folder, _ = seeds
    refused(call("report", tmp_path), "holds no run")
    other = tmp_path / "runs"
    shutil.copytree(folder, other)
    refused(call("report", other, "--out", tmp_path / "page.pdf"), "does not end in .html")
    first, second = sorted(other.iterdir())[:2]
    manifest = read_json(second / "run.json")
    seed = manifest["settings"]["training"]["seed"]
    manifest["settings"]["training"]["seed"] = Run.open(first).settings.training.seed
    write_json(second / "run.json", manifest)
    refused(call("report", other), "have the same seed")
    manifest["settings"]["training"]["seed"] = seed
    manifest["settings"]["sae"]["k"] += 1
    write_json(second / "run.json", manifest)
    refused(call("report", other), "differ in more than their seeds", "sae.k")
    for path in other.iterdir():
        (path / "evaluation" / "reconstruction.json").unlink()
    refused(call("report", other), "Nothing in", "sae-ensemble evaluate")
    assert not list(tmp_path.rglob("report.*"))


def test_a_run_that_is_not_measured_is_left_out_and_said(seeds, tmp_path):
    folder, _ = seeds
    fewer = tmp_path / "fewer"
    shutil.copytree(folder, fewer)
    last = sorted(fewer.iterdir())[-1]
    (last / "evaluation" / "reconstruction.json").unlink()
    content_ = gather(find_subject(fewer))
    assert content_["left_out"] == [last.name]
    assert len(content_["runs"]) == 2
    assert any("not measured yet" in sentence for sentence in content_["decision"]["sure"])


@pytest.mark.browser
def test_a_browser_shows_the_page_at_any_width_and_asks_for_nothing(reported):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed")
    path, _ = reported
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        backgrounds = []
        for theme, width in (("light", 1440), ("dark", 390)):
            page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=theme)
            seen: list[str] = []
            page.on("console", lambda message, seen=seen: seen.append(message.text))
            page.on("request", lambda request, seen=seen: seen.append(request.url))
            page.goto((path / "report.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert len(seen) == 1  # the page itself
            backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            shown = page.locator("svg").first.bounding_box()
            assert shown["width"] > 200
        browser.close()
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def test_what_members_find_is_meant_over_tasks_and_runs_and_added_to_what_they_explain(seeds, tmp_path):
    folder, _ = seeds
    runs = [Run.open(path) for path in sorted(shutil.copytree(folder, tmp_path / "runs").iterdir())]
    before = by_members(runs, "bagged")
    assert len(before) > 1
    assert not any("detection_5" in step or "recall" in step for step in by_members(runs, "single"))
    for number, run in enumerate(runs):
        content_ = read_json(run.evaluation("concepts"))
        content_["tasks"] = [{"task": name} for name in ("a", "confounded", "b")]
        for task, shift in zip(content_["tasks"], (0.0, 0.4, 0.1), strict=True):
            found = [
                {"members": j + 1, "detection_5": 0.5 + 0.1 * number + shift + j / 100} for j in range(len(before))
            ]
            task["by_members"] = {"bagged": found}
        write_json(run.evaluation("concepts"), content_)
        truth = [{"members": j + 1, "explained_variance": 0.1, "recall": 0.2 + j / 10} for j in range(len(before))]
        write_json(run.evaluation("truth"), {"ensembles": {"bagged": {"by_members": truth}}})
    for j, (step, old) in enumerate(zip(by_members(runs, "bagged"), before, strict=True)):
        assert step["detection_5"]["values"] == pytest.approx([0.55 + 0.1 * number + j / 100 for number in range(3)])
        assert step["recall"]["mean"] == pytest.approx(0.2 + j / 10)
        assert step["explained_variance"] == old["explained_variance"]
