"""Tables as CSV in which no text is a formula to a spreadsheet, for every CSV file that the program writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

_HARMFUL = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""A text that begins with one of these is a formula or hides one (OWASP, *CSV injection*); wide signs count too."""


def harmless(cell: Any) -> Any:
    """A cell with an apostrophe in front where a spreadsheet would run its text; numbers stay as they are.

    A text that already begins with an apostrophe gets one more, so that `original` takes back exactly what was added.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith((*_HARMFUL, "'")) else cell


def original(cell: str) -> str:
    """The text that `harmless` made a cell of."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith((*_HARMFUL, "'")) else cell


def write_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, line_end: str = "\n") -> str:
    """A table as CSV text, its texts made harmless."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator=line_end)
    writer.writerow([harmless(name) for name in columns])
    writer.writerows([harmless(cell) for cell in row] for row in rows)
    return file.getvalue()
