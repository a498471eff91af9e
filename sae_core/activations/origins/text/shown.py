"""How a token reads on its own: the one text by which people see it, find it and read it in a suggested label."""

from __future__ import annotations

import re
from functools import lru_cache

NEWLINE, TAB, SPACE = "⏎", "→", "·"
_ALONE = str.maketrans({"\n": NEWLINE, "\t": TAB, "\r": "␍", " ": SPACE, "\u00a0": SPACE})
_BETWEEN = re.compile(f"(?<=[^{SPACE}]){SPACE}(?=[^{SPACE}])")
_TYPED = str.maketrans({"\n": NEWLINE, "\t": TAB, "\r": "␍"})
# Control characters, and those that turn the direction of the text around them or cannot be seen.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_KEPT = 20_000  # texts of tokens, of which the same come again and again


@lru_cache(_KEPT)
def show_alone(text: str) -> str:
    """A token on its own, spaces at its ends included: ``·the``, ``⏎⏎``; an empty one is ``∅``. Not escaped.

    A single space between two words stays one, since it cannot be overlooked.
    """
    return _BETWEEN.sub(" ", visible(text.translate(_ALONE))) or "∅"


def visible(text: str) -> str:
    """A text with its control characters spelt out: ``\\u200b``."""
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def typed(text: str) -> str:
    """What somebody typed who may have written the signs of `show_alone`, or what they stand for but for spaces."""
    return text.translate(_TYPED)
