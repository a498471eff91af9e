"""How many characters of a text no token stands for: the tokenizer calls them unknown, or drops them without a word."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray


def lost_characters(
    tokenizer: Any, text: str, ids: NDArray[np.int32], spans: NDArray[np.int64] | None
) -> tuple[int, int]:
    """(characters that no token stands for, all characters); white space does not count.

    Where the tokenizer says where its tokens stand, the characters outside of them are lost, unless they are there when
    the tokens are read again: some normalize a text before they look at it. Where it does not say so, those are lost
    that are not read again.

    Args:
        tokenizer: The tokenizer, as transformers made it.
        text: What was tokenized.
        ids: Its tokens [T], unknown and special ones left out.
        spans: First and last (exclusive) character of each [T, 2]; None if the tokenizer does not say so.
    """
    if spans is None:
        return _not_read_again(tokenizer, text, ids)
    covered = np.zeros(len(text) + 1, np.int64)
    np.add.at(covered, spans[:, 0], 1)
    np.add.at(covered, spans[:, 1], -1)
    written = ~np.array([character.isspace() for character in text], np.bool_)
    outside = covered.cumsum()[:-1] == 0
    total = int(written.sum())
    if not (outside & written).any():
        return 0, total
    # Behind a character that is dropped, places may be too far in front, so that white space seems to be outside.
    again, of = _not_read_again(tokenizer, text, ids)
    return min(int(outside.sum()), round(total * again / max(of, 1))), total


def _not_read_again(tokenizer: Any, text: str, ids: NDArray[np.int32]) -> tuple[int, int]:
    """The same, by what the tokens read like; case, accents and compatible forms of a character do not matter."""
    wanted = Counter(_plain(text))
    there = Counter(_plain(str(tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))))
    return (wanted - there).total(), wanted.total()


def _plain(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(part for part in parts if not part.isspace() and unicodedata.category(part) != "Mn")
