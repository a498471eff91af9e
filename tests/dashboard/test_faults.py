"""Addresses that name nothing, and runs that lack something: a friendly page, and nothing outside the run is read."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from app_pages import APP, html, open_page
from synthetic_run import write_synthetic_run

from dashboard.views import file_of, pages
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.run import Run

ENSEMBLE_FILES: dict[str, Callable[[EnsembleFolder], Path]] = {
    "index": lambda folder: folder.index,
    "atoms": lambda folder: folder.atoms,
    "matches": lambda folder: folder.matches,
    "match summary": lambda folder: folder.match_summary,
    "promoted tokens": lambda folder: folder.promoted,
    "training curves": lambda folder: folder.curves,
}
_opened: list[str] | None = None


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event in ("open", "os.listdir", "os.scandir", "glob.glob", "sqlite3.connect"):
        _opened.append(str(arguments[0]))


sys.addaudithook(_note)


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Paths that are opened or listed within the block, by any thread."""
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_synthetic_run(tmp_path_factory.mktemp("faults") / "runs" / "run", members=2)


def test_the_hook_sees_what_is_opened(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x", encoding="utf-8")
    with opened_files() as seen:
        (tmp_path / "text").read_text(encoding="utf-8")
        sqlite3.connect(tmp_path / "labels.sqlite").close()
    assert str(tmp_path / "text") in seen
    assert str(tmp_path / "labels.sqlite") in seen
    with opened_files() as seen:
        pass
    assert not seen


@pytest.mark.parametrize(
    "query",
    [
        {"run": "../outside"},
        {"run": "..\\outside"},
        {"run": "{outside}"},
        {"run": "run", "ensemble": "../../../outside/ensembles/bagged"},
        {"run": "run", "ensemble": "{outside}/ensembles/bagged"},
        {"run": "run\0", "ensemble": "bagged"},
        {"run": "run", "ensemble": "bagged", "feature": "../0"},
        {"run": "run", "ensemble": "bagged", "feature": "0x1"},
        {"run": "run", "ensemble": "bagged", "feature": "9" * 5000},
        {"run": "run", "ensemble": "bagged", "feature": "٣"},
    ],
    ids=lambda query: "-".join(query.values())[:40].replace("\0", "0"),
)
def test_an_address_reads_nothing_outside_the_run(
    monkeypatch: pytest.MonkeyPatch, run: Run, query: dict[str, str]
) -> None:
    root = run.path.parent
    outside = root.parent / "outside"
    if not outside.exists():
        shutil.copytree(run.path, outside)
    with opened_files() as seen:
        app = open_page(
            monkeypatch, root, "feature", **{k: v.replace("{outside}", str(outside)) for k, v in query.items()}
        )
    assert not app.exception
    assert "This cannot be shown" in html(app)
    assert any(str(run.path) in path for path in seen), "the hook has seen nothing of the run"
    assert not [path for path in seen if "outside" in path]


@pytest.mark.parametrize("missing", [*ENSEMBLE_FILES, "corpus", "tokenizer", "lens", "evaluation", "labels"])
def test_every_page_of_a_run_that_lacks_something_opens(
    monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path, missing: str
) -> None:
    copy = Run.open(shutil.copytree(run.path, tmp_path / "run"))
    if missing in ENSEMBLE_FILES:
        ENSEMBLE_FILES[missing](copy.ensemble("bagged")).unlink()
    elif missing == "corpus":
        shutil.rmtree(copy.corpus.path)
    elif missing == "tokenizer":
        shutil.rmtree(copy.corpus.tokenizer)
    elif missing == "lens":
        copy.corpus.lens.unlink(missing_ok=True)
    elif missing == "evaluation":
        shutil.rmtree(copy.evaluation("cost").parent)
    else:
        copy.labels.unlink(missing_ok=True)
    app = open_page(monkeypatch, copy.path, ensemble="bagged")
    for page in pages():
        app.switch_page(file_of(page)).run()
        assert not app.exception, page
        assert "cannot be shown" not in html(app), page


def test_every_fragment_ends_in_a_sentence() -> None:
    files = [path for path in APP.parent.rglob("*.py") if "st.fragment" in path.read_text("utf-8")]
    assert [path.name for path in files] == ["faults.py"]


@pytest.mark.parametrize("page", ["overview", "features", "feature", "labels", "map", "pinned"])
def test_a_run_that_is_deleted_under_an_open_page_ends_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run, page: str
) -> None:
    path = Path(shutil.copytree(run.path, tmp_path / "runs" / "run"))
    app = open_page(monkeypatch, path.parent, page, run="run", ensemble="bagged")
    assert not app.exception
    shutil.rmtree(path)
    if page == "feature":
        next(field for field in app.text_input if field.label == "Label").set_value("too late")
        save = next(button for button in app.button if button.label == "Save")
        save.click()
    app.run()
    assert not app.exception
    assert "This cannot be shown" in html(app)
    assert not path.exists()
