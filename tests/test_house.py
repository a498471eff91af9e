"""Rules for the tests themselves (shared helpers are in tests/support), and for names that are declared once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def modules_imported(source: str) -> Iterator[str]:
    """The modules that a source imports anywhere in it, by full name; of ``from a import b`` both a and a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            whole = node.module or ""
            yield from (whole, *(f"{whole}.{alias.name}" for alias in node.names))


def faults_of_imports(source: str) -> list[str]:
    """Those of them that are tests, that only pytest may import, or that are found in one working directory alone."""
    parts = [(name, part) for name in modules_imported(source) for part in name.split(".")]
    return sorted({name for name, part in parts if part.startswith("test_") or part in ("conftest", "tests")})


@pytest.mark.parametrize(
    "line",
    [
        "from test_a import b",
        "import test_a as c",
        "from tests.test_a import b",
        "from . import test_a",
        "import conftest",
        "from tests.models import a",
    ],
)
def test_an_import_of_a_test_is_seen_wherever_it_stands(line: str) -> None:
    assert faults_of_imports(line)
    assert faults_of_imports(f"def f():\n    {line}\n")
    assert not faults_of_imports("import pytest\nfrom streamlit.testing.v1 import AppTest\nfrom models import test\n")


def test_no_test_imports_a_test() -> None:
    paths = sorted(TESTS.rglob("*.py"))
    assert len(paths) > 100
    found = {str(path.relative_to(TESTS)): faults_of_imports(path.read_text(encoding="utf-8")) for path in paths}
    assert not {path: names for path, names in found.items() if names}


def test_what_tests_share_holds_no_tests_and_tests_have_names_of_their_own() -> None:
    support = TESTS / "support"
    assert not list(support.rglob("test_*.py"))
    tests = [path for path in TESTS.rglob("*.py") if support not in path.parents]
    assert not [path for path in tests if not path.name.startswith("test_") and path.name != "conftest.py"]


NAMED = re.compile(r"\.(?:facts|is_finished|finish|evaluation|evaluation_table)\(f?[\"']")
"""A stage that is asked by its name, not by its declaration."""


def test_stages_are_asked_by_their_declarations() -> None:
    assert NAMED.search('run.facts(f"train/{name}")')
    assert NAMED.search('run.evaluation("loss")')
    assert not NAMED.search("CORPUS.facts(run)")
    rooms = [path for room in ("sae_core", "dashboard") for path in (TESTS.parent / room).rglob("*.py")]
    above = [path for path in rooms if "foundation" not in path.parts]
    assert len(above) > 200
    found = {str(path): NAMED.findall(path.read_text(encoding="utf-8")) for path in above}
    assert not {path: names for path, names in found.items() if names}
