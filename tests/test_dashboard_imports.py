"""What the dashboard imports before its first page: nothing that takes seconds and that no page needs to be drawn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dashboard

HEAVY = ("torch", "sklearn", "transformers", "numba", "umap")
FOLDER = Path(dashboard.__file__).parent


def imported_by_pages() -> list[str]:
    """The imports at the top of the entrance and of all pages, as statements."""
    files = [FOLDER / "app.py", *(FOLDER / "views").glob("*.py")]
    lines = [line for file in files for line in _import_lines(file.read_text(encoding="utf-8"))]
    return sorted(set(lines))


def _import_lines(source: str) -> list[str]:
    import ast

    tree = ast.parse(source)
    found = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return [ast.unparse(node) for node in found if getattr(node, "module", "") != "__future__"]


def test_no_page_waits_for_a_heavy_import() -> None:
    statements = imported_by_pages()
    assert any("dashboard.queries" in line or "import queries" in line for line in statements)
    check = f"import sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    program = "\n".join([*statements, check])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
