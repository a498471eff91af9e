"""Long texts as passages that fit a model's context, cut between tokens; nothing but white space gets lost.

A passage is a text of its own: whoever reads it later has the model's tokenizer make the same tokens of it. Where the
tokenizer says where its tokens stand, passages are cut there, and what comes out is checked; else they are found by
trying. Each takes time in proportion to the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_core.activations.origins.language_model.tokenized import TextTokenizer, TokenizedText
from sae_core.foundation.errors import UserError

STRETCH_CHARS = 65_536
"""Longer texts are tokenized in stretches of this length: some tokenizers take the square of a word's length."""
GROUP_CHARS = 1_000_000
"""Characters whose tokens are in memory together."""
MOST_OTHER = 0.02
"""Where the tokenizer makes other tokens of more than this share of the passages, each begins with a word instead."""
_SHORT = 16
"""A text of more characters for each token of the context is taken to be longer than the context."""
_GUESSES = 5
_BEHIND, _NEAR = 32, 16
"""Characters behind a passage with which its end is tried, and in front of it where it may end within a word."""


class Passage(NamedTuple):
    """A part of a text, with the ids of its ordinary tokens."""

    text: str
    ids: NDArray[np.int32]


class _Part(NamedTuple):
    """Tokens of a text that belong together, and the texts that may give them: with all white space before, and less.

    ``texts`` are the stretch from the end of the part before on, from the first token on, and from the first word on.
    """

    texts: tuple[str, ...]
    ids: NDArray[np.int32]


def cut_texts(tokenizer: TextTokenizer, texts: Sequence[str], *, room: int | None = None) -> list[list[Passage]]:
    """The passages of each text, in order; none of a text without ordinary tokens.

    Args:
        tokenizer: The model's tokenizer.
        texts: The texts.
        room: Ordinary tokens of a passage, at most; by default as many as the context holds beside special ones.

    Raises:
        UserError: If the context holds nothing but special tokens.
    """
    special = special_tokens(tokenizer)
    room = room or tokenizer.context - special
    if room < 1:
        raise UserError(
            f"model.context is {tokenizer.context}, and the tokenizer puts {special} special tokens around a text; set "
            "it higher."
        )
    passages: list[list[Passage]] = [[] for _ in texts]
    short = [number for number, text in enumerate(texts) if len(text) <= _SHORT * room]
    long = [number for number, text in enumerate(texts) if len(text) > _SHORT * room]
    beginnings = tokenizer.encode([texts[number] for number in short], room + special)
    for number, ids in zip(short, map(_ordinary, beginnings), strict=True):
        if len(ids) >= room:  # it may go on
            long.append(number)
        elif len(ids):
            passages[number] = [Passage(texts[number], ids)]
    if not tokenizer.says_places:
        for number in long:
            passages[number] = list(_found_by_trying(tokenizer, texts[number], room))
        return passages
    for group in _groups(texts, sorted(long)):
        stretches = [stretch for _, stretch in group]
        read = _encode(tokenizer, stretches, spans=True)
        for at_words in (False, True):
            parts = [_parts(*each, room, at_words) for each in zip(stretches, read, strict=True)]
            every = [part for own in parts for part in own]
            found, other = _fitted(tokenizer, every, room)
            if other <= MOST_OTHER * len(every):
                break
        fitted = iter(found)
        for (number, _), own in zip(group, parts, strict=True):
            passages[number] += [passage for _ in own for passage in next(fitted)]
    return passages


def count_tokens(tokenizer: TextTokenizer, texts: Sequence[str]) -> list[int]:
    """Ordinary tokens of each text, however long it is."""
    counts = [0] * len(texts)
    for group in _groups(texts, range(len(texts))):
        read = _encode(tokenizer, [stretch for _, stretch in group])
        for (number, _), encoded in zip(group, read, strict=True):
            counts[number] += int(encoded.ordinary.sum())
    return counts


def special_tokens(tokenizer: TextTokenizer) -> int:
    """Special tokens around a text."""
    encoded = next(tokenizer.encode(["a"], whole=True))
    return len(encoded.ids) - int(encoded.ordinary.sum())


def _encode(tokenizer: TextTokenizer, texts: Sequence[str], *, spans: bool = False) -> list[TokenizedText]:
    return list(tokenizer.encode(texts, whole=True, spans=spans))


def _ordinary(encoded: TokenizedText) -> NDArray[np.int32]:
    return encoded.ids[encoded.ordinary]


def _groups(texts: Sequence[str], numbers: Sequence[int]) -> Iterator[list[tuple[int, str]]]:
    """(number, stretch) of the stretches of texts, as many together as memory is given for."""
    group: list[tuple[int, str]] = []
    chars = 0
    for number in numbers:
        for stretch in _stretches(texts[number]):
            group.append((number, stretch))
            chars += len(stretch)
            if chars >= GROUP_CHARS:
                yield group
                group, chars = [], 0
    if group:
        yield group


def _stretches(text: str) -> Iterator[str]:
    """A text in pieces of a bounded length, which end before a space or a line end where there is one."""
    start = 0
    while len(text) - start > STRETCH_CHARS:
        stop = start + STRETCH_CHARS
        least = start + STRETCH_CHARS // 2
        end = max(text.rfind(" ", least, stop), text.rfind("\n", least, stop))
        end = end if end > least else stop
        yield text[start:end]
        start = end
    yield text[start:]


def _parts(text: str, encoded: TokenizedText, room: int, at_words: bool) -> list[_Part]:
    """Tokens of a text in parts of ``room`` each, none of which begins within a character.

    With ``at_words`` a part is up to half shorter, so that the next one begins with a word.
    """
    ids, spans = _ordinary(encoded), encoded.spans[encoded.ordinary]
    # Bytes of one character are several tokens that stand at one place.
    cuts_T = np.flatnonzero(np.append(spans[1:, 0] >= spans[:-1, 1], True)) + 1 if len(ids) else np.zeros(0, np.int64)
    words_T = np.array([cut for cut in cuts_T.tolist() if _begins_word(text, spans, cut)]) if at_words else cuts_T
    parts, first, begin = [], 0, 0
    while first < len(ids):
        last = _last_before(words_T, first + room)
        if last <= first + room // 2:
            last = _last_before(cuts_T, first + room)
        if last <= first:  # the bytes of one character are more than fit
            last = int(cuts_T[np.searchsorted(cuts_T, first, side="right")])
        end = int(spans[last - 1, 1]) if last < len(ids) else len(text)
        own = text[begin:end]
        parts.append(_Part((own, text[max(begin, int(spans[first, 0])) : end], own.lstrip()), ids[first:last]))
        first, begin = last, end
    return parts


def _last_before(cuts_T: NDArray[np.int64], limit: int) -> int:
    """The last of some places that is not behind a limit; 0 if there is none."""
    place = int(np.searchsorted(cuts_T, limit, side="right")) - 1
    return int(cuts_T[place]) if place >= 0 else 0


def _begins_word(text: str, spans: NDArray[np.int64], token: int) -> bool:
    """Whether white space stands before a token or at its beginning, or the text ends before it."""
    if token == len(spans):
        return True
    begin, before = int(spans[token, 0]), int(spans[token - 1, 1])
    return begin > before or text[max(0, begin - 1) : begin + 1].strip() != text[max(0, begin - 1) : begin + 1]


def _fitted(tokenizer: TextTokenizer, parts: Sequence[_Part], room: int) -> tuple[list[list[Passage]], int]:
    """Each part as a passage of which the tokenizer makes the same tokens, or else some that fit; and how many parts
    do not get the same tokens.

    Some tokenizers put a space before every text, so that one that begins with a space gets another token: such a part
    is right without it. Where a tokenizer makes more tokens of a part by itself than there is room for, it is divided.
    """
    fitted: list[list[Passage]] = [[] for _ in parts]
    left = list(range(len(parts)))
    fallback: dict[int, list[Passage]] = {}
    for which in range(3):
        texts, others = [parts[number].texts[which] for number in left], []
        for number, text, encoded in zip(left, texts, _encode(tokenizer, texts), strict=True):
            ids = _ordinary(encoded)
            if np.array_equal(ids, parts[number].ids):
                fitted[number] = [Passage(text, ids)]
                continue
            others.append(number)
            if 0 < len(ids) <= room:
                fallback.setdefault(number, [Passage(text, ids)])
        left = others
    for number in left:
        found = fallback.get(number) or _found_by_trying(tokenizer, parts[number].texts[0], room)
        fitted[number] = list(found)
    return fitted, len(left)


def _found_by_trying(tokenizer: TextTokenizer, text: str, room: int) -> Iterator[Passage]:
    """Passages of a text as long as there is room for, by tokenizing beginnings of several lengths."""
    start, ratio = 0, 4.0
    while start < len(text):
        rest = len(text) - start
        low, high, best = 0, rest + 1, None  # so many characters fit, and so many do not
        for guess in range(64):
            size = int(room * ratio) if guess < _GUESSES else (low + min(high, 2 * low + 2)) // 2
            size = min(max(size, low + 1), high - 1)
            ids = _ordinary(_encode(tokenizer, [text[start : start + size]])[0])
            if len(ids) <= room:
                low, best = size, ids
            else:
                high = size
            if high - low <= 1 or len(ids) == room:
                break
            ratio = size / max(len(ids), 1)
        if best is None:  # one character is more tokens than fit; the rest of them is cut off
            low, best = 1, ids[:room]
        elif low < rest:
            end, following = _good_end(tokenizer, text[start : start + low + _BEHIND], low)
            ids = _ordinary(_encode(tokenizer, [text[start : start + end]])[0])
            if 0 < len(ids) <= room:
                yield Passage(text[start : start + end], ids)
                start += following
                continue
        if len(best):
            yield Passage(text[start : start + low], best)
        start += low


def _good_end(tokenizer: TextTokenizer, text: str, most: int) -> tuple[int, int]:
    """(end of a passage of at most ``most`` characters, beginning of the next one) in a text that goes on behind it.

    Between two tokens, so that both sides get the tokens that they have together; else before a word, if one begins in
    the second half; else between two characters that the tokenizer would have put together.
    """
    whole = _ordinary(_encode(tokenizer, [text])[0])
    gaps = [place for place in range(most, most // 2, -1) if text[place].isspace() and not text[place - 1].isspace()]
    # Some tokenizers put a space before every text: there a word is right without the one that it has.
    words = [(gap, following) for gap in gaps[:1] for following in (gap, _next_word(text, gap))]
    within = [(place, place) for place in range(most - 1, max(most - _NEAR, most // 2), -1)]
    for end, following in [(most, most), *words, *within]:
        parts = _encode(tokenizer, [text[:end], text[following:]])
        if np.array_equal(np.concatenate([_ordinary(part) for part in parts]), whole):
            return end, following
    return words[-1] if words else (most, most)


def _next_word(text: str, place: int) -> int:
    """Where the white space at a place ends."""
    return len(text) - len(text[place:].lstrip())
