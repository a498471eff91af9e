"""The embedded corpus: passages from docstrings of installed Python packages, read by parsing, never by importing."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import multiprocessing
import re
import signal
import sys
import sysconfig
import threading
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from sae_core.foundation.files.whole_files import parse_json, reading

STANDARD_LIBRARY = "python"
"""The name under which the standard library appears among the packages."""

PACKAGES = (
    "torch",
    "transformers",
    "scipy",
    "sklearn",
    "pandas",
    "numpy",
    "sympy",
    "networkx",
    "streamlit",
    "plotly",
    STANDARD_LIBRARY,
)
"""Packages whose docstrings make the demo's corpus; every one is a dependency of this project or of torch."""

MORE_PACKAGES = (
    *("altair", "click", "fsspec", "huggingface_hub", "jinja2", "joblib", "llvmlite", "mpmath", "narwhals", "numba"),
    *("PIL", "pyarrow", "pydantic", "rich", "starlette", "tornado", "typer", "umap", "urllib3", "websockets", "yaml"),
)
"""Further packages that the same installation brings; the embedded language model reads them too."""

MIN_CHARS = 120
MAX_CHARS = 1500
SHINGLE_WORDS = 6
MAX_SEEN_SHARE = 0.5
"""A passage of which more than this share of word shingles was seen before is a near-duplicate."""

_SKIPPED_FOLDERS = frozenset(
    {"tests", "test", "testing", "idlelib", "lib2to3", "site-packages", "_vendor", "__pycache__"}
)
_NUMPY_HEADING = re.compile(r"^(?P<title>[A-Z][A-Za-z ]{2,24})\n[-=~]{3,}[ \t]*\n", re.MULTILINE)
_GOOGLE_HEADING = re.compile(
    r"^(?P<title>Args|Arguments|Parameters|Attributes|Returns|Yields|Raises|Examples?|Usage|Notes?|Shape|References)"
    r"s?:+[ \t]*\n",
    re.MULTILINE,
)
_FIELD_LIST = re.compile(r"^:(param|type|return|rtype|raises|arg)\b", re.MULTILINE)
_PARAMETER_TITLES = frozenset(
    {"Args", "Arg", "Arguments", "Argument", "Parameters", "Parameter", "Attributes", "Attribute", "Returns", "Return"}
    | {"Other Parameters", "Yields", "Yield", "Raises", "Raise", "Keyword Args", "Inputs", "Outputs"}
)
_EXAMPLE_TITLES = frozenset({"Example", "Examples", "Usage"})


@dataclass(frozen=True, slots=True)
class Passage:
    """One section of one docstring.

    Attributes:
        text: The passage, cleaned of its indentation, 120 to 1500 characters.
        package: Top-level package, e.g. ``scipy``; the standard library is ``python``.
        module: Dotted module name.
        name: Dotted name of the documented object within its module; empty for the module itself.
        kind: ``parameters``, ``example`` or ``prose``.
    """

    text: str
    package: str
    module: str
    name: str
    kind: str


def package_root(package: str) -> Path | None:
    """The folder that holds a package's source, or None if it is not installed. Nothing is imported."""
    if package == STANDARD_LIBRARY:
        return Path(sysconfig.get_paths()["stdlib"])
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def source_files(package: str) -> list[Path]:
    """The package's source files in an order that is shuffled, but the same on every machine."""
    root = package_root(package)
    if root is None:
        return []
    files = [
        path
        for path in root.rglob("*.py")
        if not _SKIPPED_FOLDERS.intersection(path.relative_to(root).parts[:-1]) and not path.name.startswith("test_")
    ]
    return sorted(files, key=lambda path: hashlib.sha1(path.relative_to(root).as_posix().encode()).digest())


def passages_of_file(package: str, root: Path, path: Path) -> list[Passage]:
    """All passages in one source file; none if it cannot be read or parsed."""
    try:
        source = path.read_bytes()
        if b'"""' not in source and b"'''" not in source:
            return []
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    module = ".".join(parts if package == STANDARD_LIBRARY else [package, *parts])
    return [
        Passage(text, package, module, name, kind)
        for name, docstring in _docstrings(tree)
        for text, kind in split_sections(docstring)
    ]


def _docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(dotted name, cleaned docstring) of the module and of everything defined in it."""
    stack: list[tuple[str, ast.AST]] = [("", tree)]
    while stack:
        name, node = stack.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node, clean=False)
            if docstring and len(docstring) >= MIN_CHARS:
                yield name, inspect.cleandoc(docstring).replace("\r\n", "\n").replace("\x00", "")
        elif isinstance(node, ast.Expr) and (attached := _attached_docstring(node.value)):
            yield name, attached
        for child in reversed(list(ast.iter_child_nodes(node))):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                stack.append((f"{name}.{child.name}" if name else child.name, child))
            elif isinstance(child, (ast.If, ast.Try, ast.With, ast.Expr)):
                stack.append((name, child))


def _attached_docstring(value: ast.expr) -> str | None:
    """The text that a call such as torch's add_docstr attaches to a compiled function."""
    if not isinstance(value, ast.Call) or "doc" not in ast.unparse(value.func):
        return None
    literals = [node.value for argument in value.args for node in ast.walk(argument) if isinstance(node, ast.Constant)]
    texts = [text for text in literals if isinstance(text, str)]
    longest = max(texts, key=len, default="")
    return inspect.cleandoc(longest).replace("\x00", "") if len(longest) >= MIN_CHARS else None


def split_sections(docstring: str) -> Iterator[tuple[str, str]]:
    """Cut a docstring at its section headings (numpydoc, Google) and into passages of bounded length.

    Yields:
        (text, kind) with ``kind`` one of ``parameters``, ``example``, ``prose``.
    """
    headings = sorted(
        [*_NUMPY_HEADING.finditer(docstring), *_GOOGLE_HEADING.finditer(docstring)], key=lambda match: match.start()
    )
    starts = [0, *(match.start() for match in headings)]
    titles = ["", *(match["title"].strip() for match in headings)]
    for start, end, title in zip(starts, [*starts[1:], len(docstring)], titles, strict=True):
        for text in _bounded(docstring[start:end].strip("\n")):
            if len(text) >= MIN_CHARS and sum(c.isalpha() for c in text) > 0.4 * len(text):
                yield text, _kind(title, text)


def _bounded(section: str) -> Iterator[str]:
    """Pieces of at most MAX_CHARS, cut at blank lines where there are any, else at line ends."""
    piece = ""
    for block in re.split(r"(\n\s*\n)", section):
        start = 0
        while len(block) - start > MAX_CHARS:
            cut = block.rfind("\n", start, start + MAX_CHARS)
            cut = cut if cut > start else start + MAX_CHARS
            yield (piece + block[start:cut]).strip("\n")[:MAX_CHARS]
            piece, start = "", cut
        rest = block[start:]
        if len(piece) + len(rest) > MAX_CHARS:
            yield piece.strip("\n")
            piece = ""
        piece += rest
    yield piece.strip("\n")


def _kind(title: str, text: str) -> str:
    lines = text.splitlines()
    doctest_share = sum(line.lstrip().startswith((">>>", "...", "In [")) for line in lines) / max(len(lines), 1)
    if doctest_share >= 0.2 or title in _EXAMPLE_TITLES:
        return "example"
    if title in _PARAMETER_TITLES or len(_FIELD_LIST.findall(text)) >= 2:
        return "parameters"
    return "prose"


class NearDuplicates:
    """Remembers word shingles; a text that mostly repeats earlier ones is a near-duplicate."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def is_new(self, text: str) -> bool:
        """Whether the text is new enough; if so, its shingles are remembered. Digits do not count as a difference."""
        words = re.findall(r"[^\W\d_]+|[^\w\s]{2,}", text.lower())
        shingles = {
            zlib.crc32(" ".join(words[i : i + SHINGLE_WORDS]).encode())
            for i in range(max(1, len(words) - SHINGLE_WORDS + 1))
        }
        if len(shingles & self._seen) > MAX_SEEN_SHARE * len(shingles):
            return False
        self._seen |= shingles
        return True


def _read_batch(batch: tuple[str, str, list[str]]) -> list[Passage]:
    package, root, paths = batch
    return [passage for path in paths for passage in passages_of_file(package, Path(root), Path(path))]


def iter_passages(*, packages: Sequence[str] | None = None, workers: int = 2) -> Generator[Passage, None, None]:
    """De-duplicated passages from installed packages, one after another.

    The packages take turns, a few files each, so that a small corpus has the same mix as a large one. With the same
    package versions the result is the same, whatever the number of workers. Whoever stops early closes the iterator.

    Args:
        packages: Names of packages, `PACKAGES` if not given; those not installed are passed over.
        workers: Processes that parse.

    Raises:
        ValueError: If no package in the list is installed.
    """
    names = PACKAGES if packages is None else packages
    batches = list(_interleaved(names))
    if not batches:
        raise ValueError(f"None of the packages {', '.join(names)} is installed; install one of them.")
    seen = NearDuplicates()
    with closing(_parallel_map(batches, workers)) as results:
        for found in results:
            yield from (passage for passage in found if seen.is_new(passage.text))


def read_passages(
    *, packages: Sequence[str] | None = None, max_chars: int | None = None, workers: int = 2
) -> list[Passage]:
    """The passages that `iter_passages` gives, until they hold ``max_chars`` characters; None reads everything."""
    passages: list[Passage] = []
    chars = 0
    with closing(iter_passages(packages=packages, workers=workers)) as found:
        for passage in found:
            passages.append(passage)
            chars += len(passage.text)
            if max_chars is not None and chars >= max_chars:
                break
    return passages


def _interleaved(packages: Sequence[str], files_per_batch: int = 8) -> Iterator[tuple[str, str, list[str]]]:
    queues = {package: source_files(package) for package in packages}
    position = 0
    while any(position < len(files) for files in queues.values()):
        for package, files in queues.items():
            chosen = files[position : position + files_per_batch]
            root = package_root(package)
            if chosen and root is not None:
                yield package, str(root), [str(path) for path in chosen]
        position += files_per_batch


def _parallel_map(batches: Sequence[tuple[str, str, list[str]]], workers: int) -> Generator[list[Passage], None, None]:
    """Results in the order of the batches. A bounded look-ahead lets the caller stop early at little cost."""
    if workers <= 1:
        yield from map(_read_batch, batches)
        return
    # "forkserver" and "spawn" start clean: forking a process that already runs torch's threads can deadlock.
    method = "spawn" if sys.platform in ("win32", "darwin") else "forkserver"
    pool = ProcessPoolExecutor(max_workers=workers, mp_context=multiprocessing.get_context(method))
    try:
        ahead = 8 * workers
        with _deaf_to_interrupts():  # the first submissions start all processes
            pending = [pool.submit(_read_batch, batch) for batch in batches[:ahead]]
        for index in range(len(batches)):
            yield pending[index].result()
            if index + ahead < len(batches):
                pending.append(pool.submit(_read_batch, batches[index + ahead]))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started within this ignore Ctrl-C, which a terminal sends to all; the caller answers it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def write_jsonl(passages: Iterable[Passage], path: Path) -> None:
    """Write passages one JSON object a line; the file appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as out:
        for passage in passages:
            out.write(json.dumps(asdict(passage), ensure_ascii=False) + "\n")
    partial.replace(path)


def read_jsonl(path: Path) -> list[Passage]:
    """Read what `write_jsonl` wrote.

    Raises:
        UserError: If it is missing or no JSON.
    """
    with reading(path), path.open(encoding="utf-8") as lines:
        return [Passage(**parse_json(line)) for line in lines]
