"""Text as it enters from outside: what is no character becomes U+FFFD, so that no later step meets it."""

from __future__ import annotations

import re

REPLACEMENT = "\ufffd"
"""Stands for what is no character, as everywhere in Unicode."""
_HALF_OR_NUL = re.compile("[\x00\ud800-\udfff]")


def clean_text(text: str) -> str:
    """A text without halves of surrogate pairs and without NUL characters; each of them becomes U+FFFD.

    Two halves that make a pair become the character that they stand for. A half can be encoded by nothing, and a NUL
    ends a text in databases and is no character in HTML. Other control characters stay: models have tokens for them.
    """
    if _HALF_OR_NUL.search(text) is None:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\x00", REPLACEMENT)
