"""What text was asked for and what was got, in words: for the command line and the pages. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_core.foundation.settings.run_settings import RunSettings

_PARTS = (("train", "training"), ("index", "indexed"), ("evaluation", "held-out"))


def asked_and_got(settings: RunSettings, facts: Mapping[str, Any]) -> str:
    """One line: the tokens asked for and got, and of how many passages and documents they are.

    Args:
        settings: The run's.
        facts: What was recorded of its corpus; empty if there is none yet.
    """
    if "train_tokens" not in facts:
        return ""
    asked, parts = settings.data, []
    for key, name in _PARTS:
        got = facts.get(f"{key}_tokens")
        if got is not None:
            parts.append(f"{got:,} of {getattr(asked, f'{key}_tokens'):,} {name} tokens{_made_of(key, facts)}")
    most = facts.get("context", settings.model.context)  # a model may take less than was asked for
    how = f"in passages of at most {most} tokens"
    if settings.text.cut == "first":
        how = f"at most the first {most} tokens of each document"
    text = f"Text, {how}: {', '.join(parts)}."
    if facts.get("cut_tokens"):
        text += (
            f" {facts['cut_tokens']:,} tokens behind the first {most} of a document were cut off (text.cut is first)."
        )
    return text + _held_out(facts)


def what_is_short(settings: RunSettings, facts: Mapping[str, Any]) -> str:
    """A sentence with the remedy where the text has fewer tokens than were asked for; empty where it has enough.

    Args:
        settings: The run's.
        facts: What was recorded of its corpus.
    """
    asked, short, enough = settings.data, [], []
    for key, name in (_PARTS[0], _PARTS[2]):
        wanted, got = getattr(asked, f"{key}_tokens"), facts.get(f"{key}_tokens")
        # With whole texts the last one that fits leaves a gap, which is no lack of text.
        gap = settings.model.context if settings.text.cut == "first" else 0
        if got is not None and wanted - got > gap:
            short.append(f"{got:,} of the {wanted:,} {name} tokens asked for")
            enough.append(f"data.{key}_tokens")
    if not short:
        return ""
    remedies = ["give more text"]
    if settings.text.max_documents is not None:
        remedies.append("raise text.max_documents")
    if facts.get("cut_tokens"):
        remedies.append("set text.cut to passages")
    return f"The text gives {' and '.join(short)}; {', '.join(remedies)}, or lower {' and '.join(enough)}."


def what_was_read(read: Mapping[str, Any]) -> str:
    """What of the texts of a task was read, where it is not all of them; else empty.

    Args:
        read: What was recorded of it; older runs have nothing.
    """
    if not read:
        return ""
    most, asked, cut = read["tokens_per_text"], read["tokens_per_text_asked"], read["cut_texts"]
    said = ""
    if cut or most < asked:
        less = f", not {asked:,}, which is beyond the run's context" if most < asked else ""
        said = f"At most the first {most:,} tokens of a text are read (special ones included{less}): "
        said += (
            f"{cut:,} of {_counted(read['texts'], 'text')} {'is' if cut == 1 else 'are'} longer, and "
            f"{read['dropped_share']:.1%} of all tokens are cut off."
            if cut
            else "no text is longer."
        )
    if read["unknown_share"]:
        said += f"{' ' * bool(said)}The tokenizer does not know {read['unknown_share']:.2%} of the characters."
    return said


def _made_of(key: str, facts: Mapping[str, Any]) -> str:
    """``(48 passages of 11 documents)``, as far as it is known."""
    prefix = "" if key == "index" else f"{key}_"
    passages, documents = facts.get(f"{prefix}passages"), facts.get(f"{prefix}documents")
    if documents is None:
        return ""
    of_passages = "" if passages is None else f"{_counted(passages, 'passage')} of "
    return f" ({of_passages}{_counted(documents, 'document')})"


def _held_out(facts: Mapping[str, Any]) -> str:
    text = {
        "last_document": " No document is held out by its hash; one is held out instead.",
        "last_part": " There is one document; its last part is held out, which is text of the same kind.",
    }.get(facts.get("held_out_by", ""), "")
    repeated = facts.get("repeated_passages")
    if repeated:
        text += f" {_counted(repeated, 'held-out passage')} also stand{'s' * (repeated == 1)} in the training text."
    return text


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
