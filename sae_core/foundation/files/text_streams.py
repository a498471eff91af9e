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
_LONGEST_SIGN = 16
"""Characters of the longest piece of JSON that cannot be told from a fault when it is cut: two escaped halves."""
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


def first_sign(file: TextIO) -> str:
    """The first character that is no space; empty where there is none. A file may be one line of any length."""
    while piece := file.read(_PIECE):
        if found := piece.lstrip():
            return found[0]
    return ""


def array_items(file: TextIO, decoder: json.JSONDecoder, where: str) -> Iterator[Any]:
    """Yield the values of a JSON array one by one, in little memory.

    Args:
        file: The text, at the start of the array.
        decoder: Decodes the values.
        where: Names the file in messages.

    Raises:
        UserError: If the array is damaged or ends too early.
    """
    pieces = _Pieces(file, where)
    assert pieces.take() == "["
    if pieces.sign() == "]":
        pieces.take()
    else:
        following = ","
        while following == ",":
            yield pieces.value(decoder)
            following = pieces.take()
        if following != "]":
            raise UserError(
                f"After value {pieces.number} of {where} stands {following!r} instead of a comma; correct it."
            )
    if pieces.goes_on():
        raise UserError(f"{where} goes on after its array; leave out what follows.")


class _Pieces:
    """The text of a JSON array, of which only what is being decoded is in memory.

    Attributes:
        number: Number of the values that were decoded.
    """

    def __init__(self, file: TextIO, where: str) -> None:
        self._file, self._where, self.number = file, where, 0
        self._text, self._at = "", 0

    def _more(self) -> bool:
        # At least as much again, so that a long value is not decoded from its start for every piece.
        left = self._text[self._at :]
        piece = self._file.read(max(_PIECE, len(left)))
        self._text, self._at = left + piece, 0
        return bool(piece)

    def sign(self) -> str:
        """The next character that is no space."""
        while (at := _SPACE.match(self._text, self._at).end()) == len(self._text):  # type: ignore[union-attr]
            self._at = at
            if not self._more():
                raise UserError(f"{self._where} ends within its array, after value {self.number}; give the whole file.")
        self._at = at
        return self._text[at]

    def take(self) -> str:
        """The same, which is then behind."""
        found = self.sign()
        self._at += 1
        return found

    def value(self, decoder: json.JSONDecoder) -> Any:
        """The next value."""
        self.sign()
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # Only what may be cut off is read on, so that a fault at the front does not read the whole file.
                is_cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _LONGEST_SIGN
                if is_cut and self._more():
                    continue
                raise UserError(
                    f"Value {self.number + 1} of {self._where} is not JSON ({error.msg}); correct it."
                ) from None
            if end == len(self._text) and self._more():  # a number may go on
                continue
            self._at, self.number = end, self.number + 1
            return value

    def goes_on(self) -> bool:
        """Whether anything but space follows."""
        return bool(self._text[self._at :].strip() or first_sign(self._file))
