"""Clean text where it enters the program: replace code points that are no characters by U+FFFD."""

from __future__ import annotations

import re

REPLACEMENT = "\ufffd"
"""Unicode's replacement character."""
_HALF_OR_NUL = re.compile("[\x00\ud800-\udfff]")


def clean_text(text: str) -> str:
    """Replace every lone surrogate and every NUL character of a text by U+FFFD.

    A surrogate pair becomes the character that it stands for. No encoding can write a lone surrogate. A NUL ends a text
    in databases and is no character in HTML. Other control characters stay, since models have tokens for them.
    """
    if _HALF_OR_NUL.search(text) is None:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\x00", REPLACEMENT)
