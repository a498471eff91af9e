"""Open text files, compressed ones (.gz, .zst) too, and read JSON arrays piece by piece."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from sae_core.foundation.errors import UserError

COMPRESSED = (".gz", ".zst")
"""Endings of compressed files; what is in them is told by the ending before."""
_PIECE = 2**16
_SPACE = re.compile(r"[ \t\r\n]*")


def format_of(path: Path) -> str:
    """The ending that names a file's format, in small letters: ``.jsonl`` for ``a.jsonl`` and for ``a.jsonl.gz``."""
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix in COMPRESSED else suffix


@contextmanager
def open_text(path: Path, *, newline: str | None = None) -> Iterator[TextIO]:
    """Open a UTF-8 text file, which may be compressed.

    Raises:
        OSError: If the file cannot be read, or is damaged or not compressed as its ending says.
    """
    try:
        with _opened(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline) as text:
            yield text
    except (EOFError, zlib.error) as error:
        raise OSError(str(error)) from None


def _opened(path: Path) -> Any:
    if path.suffix.lower() == ".gz":
        return gzip.open(path)
    if path.suffix.lower() == ".zst":
        import pyarrow as pa

        # The reader that pyarrow gives reads whatever follows the first frame, too.
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def array_items(file: TextIO, decoder: json.JSONDecoder, where: str) -> Iterator[Any]:
    """Yield the values of a JSON array one by one, in little memory.

    Args:
        file: The text, at the start of the array.
        decoder: Decodes the values.
        where: Names the file in messages.

    Raises:
        UserError: If the array is damaged or ends too early.
    """
    text, at, number = file.read(_PIECE), 0, 0

    def more() -> bool:
        nonlocal text, at
        # At least as much again, so that a long value is not decoded from its start for every piece.
        piece = file.read(max(_PIECE, len(text) - at))
        text, at = text[at:] + piece, 0
        return bool(piece)

    def sign() -> str:
        nonlocal at
        while (at := _SPACE.match(text, at).end()) == len(text):  # type: ignore[union-attr]
            if not more():
                raise UserError(f"{where} ends within its array, after value {number}; give the whole file.")
        return text[at]

    assert sign() == "["
    at += 1
    if sign() == "]":
        at += 1
    else:
        while True:
            sign()
            try:
                value, end = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                if more():
                    continue
                raise UserError(f"Value {number + 1} of {where} is not JSON ({error.msg}); correct it.") from None
            at, number = end, number + 1
            yield value
            following = sign()
            at += 1
            if following == "]":
                break
            if following != ",":
                raise UserError(f"After value {number} of {where} stands {following!r} instead of a comma; correct it.")
    if text[at:].strip() or file.read().strip():
        raise UserError(f"{where} goes on after its array; leave out what follows.")
