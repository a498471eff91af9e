"""The examples with arrays, from their data to every page: a small vibration run here, and both whole."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from app_pages import html, open_page

from dashboard.views import pages
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run
from sae_core.report.build import write_report

pytestmark = pytest.mark.slow  # whole runs, with their maps
EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = {
    "sae.width": 24,
    "sae.k": 3,
    "training.members": 2,
    "training.tokens": 4000,
    "training.batch_size": 100,
    "training.methods": ["bagged"],
    "training.device": "cpu",
    "training.kernels": "plain",
    "evaluation.bootstrap": 20,
}


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made: Run = example("vibration").main(tmp_path_factory.mktemp("examples") / "run", windows=40, **TINY)
    return made


@pytest.mark.parametrize("page", pages())
def test_every_page_shows_a_run_of_arrays(monkeypatch: pytest.MonkeyPatch, run: Run, page: str) -> None:
    table = read_table(run.ensemble("bagged").atoms)
    feature = int(table["density"].idxmax())
    app = open_page(monkeypatch, run.path, page, ensemble="bagged", feature=str(feature))
    assert not app.exception
    shown = html(app)
    assert "cannot be shown" not in shown
    if page == "feature":
        assert "data:image/svg+xml" in shown
        assert "outer race" in shown
        assert "machine" in shown
        assert "indexed rows" in shown
    if page == "text":  # one line, and no error
        assert "There are no texts" in shown
    if page == "spurious":
        assert "--target LABEL=A,B" in shown


def test_the_report_is_of_rows_and_lacks_only_what_needs_a_language_model(run: Run) -> None:
    write_report(run.path, run.path / "report.html")
    page = (run.path / "report.html").read_text()
    assert "the activations of acts.npy, with the table rows.parquet" in page
    assert "Traceback" not in page


def test_a_feature_of_the_bag_means_the_worn_race(tmp_path: Path) -> None:
    run = example("vibration").main(tmp_path / "run", **{"training.device": "cpu", "training.methods": ["bagged"]})
    suggested = read_table(run.ensemble("bagged").suggestions)
    found = suggested[suggested["suggestion"] == "“outer race”"]
    assert ((found["precision"] > 0.95) & (found["recall"] > 0.9)).any()


def test_features_of_digits_detect_digits(tmp_path: Path) -> None:
    run = example("digits").main(tmp_path / "run", **{"training.device": "cpu", "training.methods": ["bagged"]})
    table = read_table(run.evaluation_table("concepts"))
    best = table[(table["method"] == "bagged") & (table["m"] == 5) & (table["variant"] == "standardised")]
    assert len(best) == 10
    assert best["accuracy"].mean() > 0.85
    assert run.corpus.images.exists()
