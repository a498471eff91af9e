"""Write CSV in which no text runs as a spreadsheet formula; every CSV file of the program is written here."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

_HARMFUL = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""A text that begins with one of these runs as a formula (OWASP, *CSV injection*), full-width signs included."""


def harmless(cell: Any) -> Any:
    """Put an apostrophe before a text that a spreadsheet would run; leave numbers as they are.

    A text that already begins with an apostrophe gets another one, so that `original` removes exactly what was added.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith((*_HARMFUL, "'")) else cell


def original(cell: str) -> str:
    """Undo `harmless`."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith((*_HARMFUL, "'")) else cell


def write_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, line_end: str = "\n") -> str:
    """Return a table as CSV text, with every cell made `harmless`."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator=line_end)
    writer.writerow([harmless(name) for name in columns])
    writer.writerows([harmless(cell) for cell in row] for row in rows)
    return file.getvalue()
