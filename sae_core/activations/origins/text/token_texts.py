"""Tokens as readable text, from a tokenizer's file alone: byte-level BPE, sentencepiece and WordPiece vocabularies."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_object, read_table

PARTIAL = "\N{REPLACEMENT CHARACTER}"
"""Stands for a token that holds only some of a character's bytes."""

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> dict[str, int]:
    """The byte behind each character of a byte-level vocabulary (GPT-2's `bytes_to_unicode`, the other way round)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


class TokenTexts:
    """What each token of a vocabulary reads like. Without a tokenizer, token 17 reads ``#17``.

    Args:
        file: ``tokenizer.json``, or None.

    Raises:
        UserError: If the file is damaged.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._pieces: dict[int, bytes] = {}
        self._size = 0
        self._texts: dict[int, str] = {}
        self._tokenizer: Tokenizer | None = None
        self.special: frozenset[int] = frozenset()
        """Numbers of the special tokens, such as BOS and padding."""
        if file is None:
            return
        settings = read_object(file)
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exceptions
            raise UserError(f"{file} is not a tokenizer ({error}); restore it from the model's folder.") from None
        added = settings.get("added_tokens") or []
        self._added: dict[int, str] = {token["id"]: token["content"] for token in added}
        self.special = frozenset(token["id"] for token in added if token.get("special"))
        self._to_bytes = _reader(settings)

    @classmethod
    def of_table(cls, file: Path) -> TokenTexts:
        """From the table that a run has where its tokenizer has no file of this kind.

        Raises:
            UserError: If it is damaged.
        """
        table, texts = read_table(file), cls()
        if not {"token", "bytes", "special"} <= {*table.columns}:
            raise UserError(f"{file} holds no vocabulary; delete the run and train again.")
        texts._pieces = dict(zip(table["token"].tolist(), table["bytes"].tolist(), strict=True))
        texts._size = len(texts._pieces)
        texts.special = frozenset(table["token"][table["special"]].tolist())
        return texts

    @property
    def vocabulary_size(self) -> int:
        """Tokens that have a text; 0 without a tokenizer."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True) if self._tokenizer else self._size

    def text(self, token: int) -> str:
        """One token on its own; bytes that are no whole character read ``\\xe2\\x80``."""
        if token not in self._texts:
            self._texts[token] = self._bytes(token).decode("utf-8", errors="backslashreplace")
        return self._texts[token]

    def sequence(self, tokens: Iterable[int]) -> list[str]:
        """Consecutive tokens: a character split over several is whole at its last one, the others read `PARTIAL`."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        return [decoder.decode(self._bytes(token)) + PARTIAL * bool(decoder.getstate()[0]) for token in tokens]

    def _bytes(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._look_up(token)
        return piece

    def _look_up(self, token: int) -> bytes:
        name = self._tokenizer.id_to_token(token) if self._tokenizer else None
        if name is None:
            return f"#{token}".encode()
        if token in self._added:
            return self._added[token].encode()
        return self._to_bytes(name)


def _reader(settings: dict[str, Any]) -> Callable[[str], bytes]:
    """How vocabulary entries of this tokenizer become bytes."""
    kinds = set(_types(settings.get("decoder"))) | set(_types(settings.get("pre_tokenizer")))
    model = settings.get("model") or {}
    if "ByteLevel" in kinds:
        alphabet = byte_alphabet()
        # A vocabulary may hold characters outside the alphabet, added by hand; they stand for themselves.
        return lambda name: b"".join(bytes([alphabet[char]]) if char in alphabet else char.encode() for char in name)
    if "WordPiece" in kinds or model.get("type") == "WordPiece":
        prefix = model.get("continuing_subword_prefix") or "##"
        return lambda name: (name.removeprefix(prefix) if name.startswith(prefix) else f" {name}").encode()
    suffix = model.get("end_of_word_suffix")
    return lambda name: _sentencepiece(name, suffix)


def _sentencepiece(name: str, suffix: str | None) -> bytes:
    byte = _BYTE_FALLBACK.fullmatch(name)
    if byte:
        return bytes([int(byte[1], 16)])
    if suffix and name.endswith(suffix):
        name = name.removesuffix(suffix) + " "
    return name.replace("▁", " ").encode()


def _types(part: Any) -> Iterator[str]:
    """The ``type`` of a tokenizer's part and of all parts in it."""
    if isinstance(part, dict):
        yield str(part.get("type"))
        for value in part.values():
            yield from _types(value)
    elif isinstance(part, list):
        for value in part:
            yield from _types(value)
