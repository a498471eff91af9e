"""What a tokenizer makes of text: what its options do, how much it does not know, and what its tokens read like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import pandas as pd

from sae_core.foundation.errors import UserError

MOST_UNKNOWN = 0.5
"""Share of characters that no known token stands for above which a text is not read."""
PLAIN = (
    "The quick brown fox jumps over the lazy dog, 0123456789 times.",
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "MLAGVSERTIDPKQNFYHWC ACGTACGT CC(=O)O",
    "naïve 你好 🙂",
)
"""Text that names no special token."""
_SAMPLED = 64
"""Entries of a vocabulary that are read as plain text too: it may be of another alphabet."""
_BEGINNING = 200

Reader = Callable[[str], bytes]


def splits_special(tokenizer: Any, *, name: str) -> bool:
    """Whether a tokenizer can be told to read special tokens that a text names as ordinary text.

    transformers' ``split_special_tokens`` does so in most. In some, such as a protein model's, every letter is an added
    token, and the option makes one unknown token of a whole text: then plain text gives other ids with it.

    In others, such as those whose vocabulary holds the special tokens as pieces, the option changes nothing, and a text
    that names one still becomes it.

    Raises:
        UserError: If the tokenizer makes no token of plain text, as one does whose vocabulary is missing.
    """
    special = {*tokenizer.all_special_tokens}
    numbers = np.linspace(0, max(len(tokenizer) - 1, 0), _SAMPLED).astype(int).tolist()
    entries = [entry for entry in tokenizer.convert_ids_to_tokens(numbers) if isinstance(entry, str)]
    sample = " ".join(entry for entry in entries if not any(word in entry for word in special))
    texts = [text for text in (*PLAIN, sample) if not any(word in text for word in special)]
    plain, split = (
        [tokenizer(text, add_special_tokens=False, verbose=False, **option)["input_ids"] for text in texts]
        for option in ({}, {"split_special_tokens": True})
    )
    if not any(plain):
        raise UserError(
            f"The tokenizer of model {name!r} ({type(tokenizer).__name__}) makes no token of plain text: its "
            "vocabulary is missing; give a whole model folder."
        )
    return plain == split and not _becomes_special(tokenizer, sorted(special))


def _becomes_special(tokenizer: Any, names: Sequence[str]) -> bool:
    """Whether a text that names a special token still becomes it when the tokenizer is told to split it."""
    numbers = {*tokenizer.all_special_ids} - {*unknown_ids(tokenizer)}
    options = {"add_special_tokens": False, "verbose": False, "split_special_tokens": True}
    return any(not numbers.isdisjoint(tokenizer(f"a {name} a{name}", **options)["input_ids"]) for name in names)


def unknown_ids(tokenizer: Any) -> list[int]:
    """What a tokenizer makes of text that it does not know; its compiled part may name a token that it does not."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    name = getattr(model, "unk_token", None)
    inner = getattr(model, "unk_id", None) if name is None else model.token_to_id(name)  # type: ignore[union-attr]
    return sorted({int(number) for number in (tokenizer.unk_token_id, inner) if number is not None})


def disarmed(text: str, special: Sequence[str]) -> str:
    """A text in which the names of special tokens are broken up, by a space behind their first character."""
    for word in special:
        while word and word in text:
            text = text.replace(word, f"{word[0]} {word[1:]}" if len(word) > 1 else "\N{REPLACEMENT CHARACTER}")
    return text


def refuse_unknown(share: float, *, name: str) -> None:
    """Refuse text of which a tokenizer knows too little.

    Raises:
        UserError: If no known token stands for more than `MOST_UNKNOWN` of the characters.
    """
    if share > MOST_UNKNOWN:
        raise UserError(
            f"The tokenizer of model {name!r} does not know {share:.0%} of the characters of this text; give text of "
            "the kind that the model was trained on, or another model."
        )


def vocabulary_table(tokenizer: Any, texts: Sequence[str], *, rows: int | None) -> pd.DataFrame:
    """What every token reads like: ``token``, ``bytes`` and whether it is ``special``.

    For tokenizers written in Python, whose files do not say it. Of several ways to read an entry of the vocabulary that
    one is taken whose pieces, put together, come nearest to texts that the tokenizer has read.

    Args:
        tokenizer: The tokenizer.
        texts: Some texts of the corpus.
        rows: Rows of the embedding; tokens beyond it are none.
    """
    count = min(len(tokenizer), rows or len(tokenizer))
    entries = tokenizer.convert_ids_to_tokens(list(range(count)))
    beginnings = [text[:_BEGINNING] for text in (*texts, PLAIN[-1])]
    read = [tokenizer.tokenize(text) for text in beginnings]
    reader = max(_readers(tokenizer), key=lambda reader: _likeness(reader, read, beginnings))
    special = {*tokenizer.all_special_ids}
    return pd.DataFrame(
        {
            "token": np.arange(count, dtype=np.int32),
            "bytes": [
                _whole(entry) if number in special or not isinstance(entry, str) else reader(entry)
                for number, entry in enumerate(entries)
            ],
            "special": [number in special for number in range(count)],
        }
    )


def _whole(entry: Any) -> bytes:
    return str(entry).encode("utf-8", "replace")


def _readers(tokenizer: Any) -> Iterator[Reader]:
    """Ways to read an entry; of those that do equally well the first is taken."""

    def text(*entries: str) -> str:
        try:
            return str(tokenizer.convert_tokens_to_string(list(entries)))
        except Exception:  # an entry that the tokenizer's own code cannot read alone
            return "".join(entries)

    anchor = next(iter(tokenizer.tokenize("the")), "a")

    def behind_another(entry: str) -> bytes:
        both, one = text(anchor, entry), text(anchor)
        return _whole(both[len(one) :] if both.startswith(one) else text(entry))

    yield lambda entry: _whole(text(entry))
    yield behind_another
    yield lambda entry: _whole(entry.replace("▁", " ").replace("</w>", " "))
    # A character for each byte, as in the vocabularies of models that read bytes.
    yield lambda entry: bytes([ord(entry)]) if len(entry) == 1 and ord(entry) < 256 else _whole(entry)


def _likeness(reader: Reader, read: Sequence[Sequence[str]], texts: Sequence[str]) -> float:
    ratios = []
    for entries, text in zip(read, texts, strict=True):
        together = b"".join(map(reader, entries)).decode("utf-8", "replace").strip()
        ratios.append(SequenceMatcher(None, together, text.strip(), autojunk=False).ratio())
    return sum(ratios)
