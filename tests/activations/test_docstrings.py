"""The embedded corpus on a small package: the passages found, their cuts, labels and de-duplication."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sae_core.activations.origins.text import docstrings
from sae_core.activations.origins.text.docstrings import MAX_CHARS, MIN_CHARS, NearDuplicates, Passage, read_passages

PROSE = (
    "Fit a curve to noisy points by minimising the squared distance to every one of them, which is slow for many "
    "points and exact for few of them, as the old papers say."
)
NUMPY_STYLE = f"""{PROSE}

Parameters
----------
points : array of shape (n, 2)
    Where the measurements were taken, one row for each, in metres from the corner of the room; order does not matter.
weights : array of shape (n,), optional
    How much each counts.

Examples
--------
>>> curve = fit([[0, 1], [2, 3]], weights=[1, 2])
>>> curve.at(4)
5.0
>>> curve.residual(points=[[0, 1], [2, 3]], squared=True, averaged=True)
0.25
"""
GOOGLE_STYLE = """Read a table from a file on disk or from an address, guessing the separator from the first of its
lines if there is none given here.

Args:
    path: Where the table lies, as a string or a path; compressed files are unpacked while they are being read.
    separator: One character.

Raises:
    OSError: If the file cannot be opened, since it is missing, or its folder may not be entered by the user who asks.
"""
ATTACHED = (
    "The sum of all elements of the input along the dimensions that are given, keeping them as one if asked to do so, "
    "else not."
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that would fail if it were imported."""
    root = tmp_path / "fakepackage"
    (root / "sub" / "tests").mkdir(parents=True)
    (root / "__init__.py").write_text('raise RuntimeError("imported")\n')
    (root / "curve.py").write_text(f'def fit():\n    r"""{NUMPY_STYLE}"""\n')
    (root / "sub" / "__init__.py").write_text(
        f'"""Too short."""\nclass Table:\n    def read(self):\n        """{GOOGLE_STYLE}"""\n'
    )
    (root / "sub" / "ops.py").write_text(
        f'add_docstr(total, r"""{ATTACHED}""")\n\ndef copy_of_fit():\n    r"""{NUMPY_STYLE}"""\n'
    )
    (root / "sub" / "tests" / "helper.py").write_text(f'"""{PROSE[::-1]}"""\n')
    (root / "test_curve.py").write_text(f'"""{PROSE[::-1]}"""\n')
    (root / "broken.py").write_text(f'"""{PROSE[::-1]}"""\ndef (:\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    return "fakepackage"


def read(package: str, **options: int) -> list[Passage]:
    return read_passages(packages=(package,), workers=1, **options)


def test_sections_are_found_with_their_names_and_kinds(package: str) -> None:
    passages = {(passage.module, passage.name, passage.kind): passage.text for passage in read(package)}
    table = [("fakepackage.sub", "Table.read", kind) for kind in ("prose", "parameters")]
    fits = [key for key in passages if key not in table and key[1] != ""]
    assert set(table) <= set(passages)
    assert passages["fakepackage.sub.ops", "", "prose"] == ATTACHED
    assert [kind for _, _, kind in fits] == ["prose", "parameters", "example"]
    texts = list(passages.values())
    assert PROSE in texts
    assert any(text.startswith("Parameters\n----------\npoints") for text in texts)
    assert any(text.startswith("Examples\n--------\n>>> curve = fit") for text in texts)
    assert "fakepackage" not in sys.modules


def test_a_docstring_that_occurs_twice_is_kept_once(package: str) -> None:
    names = {passage.name for passage in read(package) if passage.text == PROSE}
    assert len(names) == 1
    assert names < {"fit", "copy_of_fit"}


def test_tests_and_broken_files_are_passed_over(package: str) -> None:
    assert all(PROSE[::-1] not in passage.text for passage in read(package))
    assert {path.name for path in docstrings.source_files(package)} == {
        "__init__.py",
        "curve.py",
        "ops.py",
        "broken.py",
    }


def test_the_result_does_not_depend_on_the_number_of_workers(package: str) -> None:
    assert read_passages(packages=(package, "json"), workers=2) == read_passages(packages=(package, "json"), workers=1)


def test_less_text_is_a_prefix_of_more(package: str) -> None:
    whole = read_passages(packages=(package, "json"), workers=1)
    part = read_passages(packages=(package, "json"), workers=1, max_chars=900)
    assert part == whole[: len(part)]
    assert sum(len(passage.text) for passage in part[:-1]) < 900 <= sum(len(passage.text) for passage in part)


def test_packages_take_turns() -> None:
    order = [package for package, _, _ in docstrings._interleaved(("json", "email", "logging"), files_per_batch=1)]
    assert order[:3] == ["json", "email", "logging"]
    assert order.count("email") > order.count("json")


def test_packages_that_are_not_installed() -> None:
    assert docstrings.package_root("no_such_package") is None
    assert docstrings.source_files("no_such_package") == []
    with pytest.raises(ValueError, match="None of the packages no_such_package is installed"):
        read_passages(packages=("no_such_package",))


def test_long_sections_are_cut_to_bounded_passages() -> None:
    paragraphs = "\n\n".join(f"Paragraph number {number}: " + "some words of it " * 20 for number in range(12))
    lines = "\n".join("a line without any blank line near it " * 2 for _ in range(60))
    for text in (paragraphs, lines, "word" * 1000):
        pieces = [piece for piece, _ in docstrings.split_sections(text)]
        assert len(pieces) > 2 or text.startswith("wordword")
        assert all(MIN_CHARS <= len(piece) <= MAX_CHARS for piece in pieces)
    assert all(piece.startswith("Paragraph") for piece, _ in docstrings.split_sections(paragraphs))


def test_tables_of_signs_are_no_passages() -> None:
    assert list(docstrings.split_sections("+---+---+ | 1 | 2 | 3 |" * 20)) == []


def test_near_duplicates() -> None:
    words = [f"word{'abcdefghij'[number % 10]}{'klmnopqrst'[number // 10]}" for number in range(60)]
    seen = NearDuplicates()
    assert seen.is_new(" ".join(words))
    assert not seen.is_new(" ".join(words))
    assert not seen.is_new(" ".join(words[:50]).upper() + " 12345 67890")
    assert seen.is_new(" ".join(reversed(words)))


def test_passages_survive_a_file(tmp_path: Path) -> None:
    passages = [Passage('é "x"\n', "p", "p.m", "f", "prose"), Passage("y", "p", "p.m", "", "example")]
    docstrings.write_jsonl(passages, tmp_path / "p.jsonl")
    assert docstrings.read_jsonl(tmp_path / "p.jsonl") == passages
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]
