"""Which passages a run works on: read until there is enough, held out by document, spread over the documents.

Of each document the passages are taken in order, and documents by turns: first the first passage of each, then the
second ones. So a few long documents do not take the place of all others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.activations.origins.language_model.cutting import Passage
from sae_core.activations.origins.text.documents import Document, iter_documents, no_text
from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Progress, Tick
from sae_core.foundation.settings.run_settings import RunSettings

if TYPE_CHECKING:
    from sae_core.activations.origins.language_model.reading import LanguageModel

HELD_OUT_PERCENT = 10
CHARS_PER_TOKEN = 4.5
"""Characters to gather for a token: English has 3.5 to 4, the rest is margin and what the context cuts off."""
TYPICAL_TOKENS = 160
"""A shorter context than this cuts off so much, where texts are not cut, that more characters are gathered at once."""
LEAST_DOCUMENTS = 16
"""At least so many documents are read, if there are as many: a longer one counts for no more than its share."""
_CHARS_PER_TOKEN_AT_MOST = 16
_CUTS_TRIED = 8
"""Passages that are cut to fill what is left of a number of tokens, at most."""


def characters(settings: RunSettings) -> int:
    """Characters of text that are gathered at first for a run."""
    data, share = settings.data, HELD_OUT_PERCENT / 100
    wanted = max(data.train_tokens / (1 - share), data.evaluation_tokens / share)
    cut_off = max(1.0, TYPICAL_TOKENS / settings.model.context) if settings.text.cut == "first" else 1.0
    return int(wanted * CHARS_PER_TOKEN * cut_off)


def is_held_out(text: str) -> bool:
    """Whether a document is kept for evaluation: one in ten by a hash, so that copies of a text are on the same side.

    Args:
        text: All of the document's text.
    """
    return int.from_bytes(hashlib.sha1(text.encode()).digest()[:4], "big") % 100 < HELD_OUT_PERCENT


class Chosen(NamedTuple):
    """What a run works on.

    Attributes:
        table: One row a passage, those for training first: text, tokens, held_out, metadata (JSON), document and
            passage (both counted from 1; a document's number is its place in the source).
        ids: The tokens of each.
        facts: What came of it, beside what the table says: ``held_out_by`` (document, last_document or last_part),
            ``cut_tokens`` (behind the context and left out) and ``repeated_passages`` (kept for evaluation although
            they also stand in the training text, as there are no others).
    """

    table: pd.DataFrame
    ids: list[NDArray[np.int32]]
    facts: dict[str, Any]


@dataclass(slots=True)
class _Candidate:
    """A document, and the passages of its first ``cut`` characters."""

    number: int
    document: Document
    cut: int = 0
    passages: list[Passage] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(len(passage.ids) for passage in self.passages)


class _Place(NamedTuple):
    """One passage of a candidate, counted from 0."""

    candidate: _Candidate
    passage: int
    content: Passage


class _Side:
    """The documents for training, or those for evaluation, until they have enough tokens."""

    def __init__(self, settings: RunSettings, model: LanguageModel, wanted: int) -> None:
        self._whole, self._model, self.wanted = settings.text.cut == "first", model, wanted
        self.candidates: list[_Candidate] = []
        self.last: _Candidate | None = None
        self.is_full = False

    def add(self, candidate: _Candidate) -> None:
        self.last = candidate
        if not self.is_full:
            self.candidates.append(candidate)

    def cut(self, reach: int) -> None:
        """Cut the first ``reach`` characters of each document, unless there is enough."""
        if not self.is_full:
            self.cut_all(self.candidates, reach)
            self.is_full = sum(each.tokens for each in self.candidates) >= self.wanted

    def cut_all(self, candidates: Sequence[_Candidate], reach: int) -> None:
        """Cut the first ``reach`` characters of documents, as far as that is not done."""
        chosen = [each for each in candidates if each.cut < min(reach, len(each.document.text))]
        if self._whole:
            texts = [each.document.text for each in chosen]
            for each, ids in zip(chosen, self._model.token_ids(texts), strict=True):
                each.cut = len(each.document.text)
                each.passages = [Passage(each.document.text, ids)] if len(ids) else []
            return
        beginnings = [each.document.text[:reach] for each in chosen]
        for each, passages in zip(chosen, self._model.passages(beginnings), strict=True):
            each.cut = min(reach, len(each.document.text))
            # The last passage of a part ends anywhere.
            each.passages = passages if each.cut == len(each.document.text) else passages[:-1]


def choose_passages(settings: RunSettings, model: LanguageModel, progress: Progress) -> Chosen:
    """Read text until there is enough for training and evaluation, and choose the passages of both.

    Raises:
        UserError: If the text cannot be read, or there is too little to keep some for evaluation.
    """
    data = settings.data
    train, held_out = (_Side(settings, model, wanted) for wanted in (data.train_tokens, data.evaluation_tokens))
    chars, longest, counted = characters(settings), 0, 0
    number = 0
    with closing(iter_documents(settings.text)) as source:
        while True:
            reach = max(chars // LEAST_DOCUMENTS, _CHARS_PER_TOKEN_AT_MOST * model.context)
            ended = True
            for document in source:
                number += 1
                longest = max(longest, len(document.text))
                (held_out if is_held_out(document.text) else train).add(_Candidate(number, document))
                counted += min(len(document.text), reach)
                if number % 1000 == 0:
                    progress(Tick("gather text", counted, max(chars, counted), "characters"))
                if counted >= chars:
                    ended = False
                    break
            progress(Tick("gather text", counted, max(chars, counted), "characters"))
            train.cut(reach)
            held_out.cut(reach)
            if (train.is_full and held_out.is_full) or (ended and reach >= longest):
                break
            chars *= 2
    if not number:
        raise no_text(settings.text)
    sides, held_out_by = _sides(settings, train, held_out)
    return _choose(settings, model, sides, held_out_by)


def _sides(settings: RunSettings, train: _Side, held_out: _Side) -> tuple[list[list[_Place]], str]:
    """The passages for training and for evaluation, and by what they are told apart."""
    for side in (train, held_out):
        side.candidates = [each for each in side.candidates if each.passages]
    if train.candidates and held_out.candidates:
        return [_by_turns(train.candidates), _by_turns(held_out.candidates)], "document"
    some = train if train.candidates else held_out
    documents = list(some.candidates)
    if some.last is not None and (not documents or some.last is not documents[-1]):
        some.cut_all([some.last], len(some.last.document.text))
        documents += [some.last] if some.last.passages and some.last not in documents else []
    if len(documents) > 1:
        one, rest = (documents[-1], documents[:-1]) if some is train else (documents[0], documents[1:])
        return [_by_turns(rest), _by_turns([one])], "last_document"
    places = _by_turns(documents)
    if len(places) < 2:
        hint = "" if settings.text.cut == "passages" else ", or set text.cut to passages if it is long"
        raise UserError(
            f"The text holds {len(documents)} usable documents; at least two are needed, one of them for evaluation, "
            f"or one of at least two passages{hint}."
        )
    return list(_divided(places, train.wanted, held_out.wanted)), "last_part"


def _divided(places: list[_Place], train: int, held_out: int) -> tuple[list[_Place], list[_Place]]:
    """The passages of one document, the last ones for evaluation: a tenth if there is not enough for both."""
    tokens = np.array([len(place.content.ids) for place in places])
    enough = tokens.sum() >= train + held_out
    wanted = held_out if enough else tokens.sum() * HELD_OUT_PERCENT / 100
    kept = int(np.searchsorted(tokens[::-1].cumsum(), wanted)) + 1
    kept = min(max(1, kept), len(places) - 1)
    return places[:-kept], places[-kept:]


def _by_turns(candidates: Sequence[_Candidate]) -> list[_Place]:
    """The first passage of each document, then the second ones, and so on."""
    places = [_Place(each, number, passage) for each in candidates for number, passage in enumerate(each.passages)]
    return sorted(places, key=lambda place: (place.passage, place.candidate.number))


def _choose(settings: RunSettings, model: LanguageModel, sides: list[list[_Place]], held_out_by: str) -> Chosen:
    data = settings.data
    take = _whole_ones if settings.text.cut == "first" else _exactly
    train = take(sides[0], data.train_tokens, model)
    # By tokens, as that is what the model reads: texts may differ behind the context, or in case alone.
    known = {place.content.ids.tobytes() for place in train}
    others = [place for place in sides[1] if place.content.ids.tobytes() not in known] or sides[1]
    repeated = len(others) * (others[0].content.ids.tobytes() in known)
    held_out = take(others, data.evaluation_tokens, model)
    order = [*train, *held_out]
    table = pd.DataFrame(
        {
            "text": [place.content.text for place in order],
            "tokens": [len(place.content.ids) for place in order],
            "held_out": np.arange(len(order)) >= len(train),
            "metadata": [json.dumps(place.candidate.document.metadata, ensure_ascii=False) for place in order],
            "document": [place.candidate.number for place in order],
            "passage": [place.passage + 1 for place in order],
        }
    )
    cut_tokens = 0
    if settings.text.cut == "first":
        longest = table[table["tokens"] == table["tokens"].max()]  # only these can go on
        cut_tokens = sum(model.count_tokens(longest["text"].tolist())) - int(longest["tokens"].sum())
    facts = {"held_out_by": held_out_by, "cut_tokens": cut_tokens, "repeated_passages": min(repeated, len(held_out))}
    return Chosen(table, [place.content.ids for place in order], facts)


def _whole_ones(places: Sequence[_Place], limit: int, _model: LanguageModel) -> list[_Place]:
    """The first texts that hold at most ``limit`` tokens together; at least one."""
    tokens = np.array([len(place.content.ids) for place in places])
    return list(places[: max(1, int(np.searchsorted(tokens.cumsum(), limit, side="right")))])


def _exactly(places: Sequence[_Place], limit: int, model: LanguageModel) -> list[_Place]:
    """The first passages that hold ``limit`` tokens together, the last of them cut to fit; in the documents' order."""
    chosen: list[_Place] = []
    left, tries = limit, 0
    for place in places:
        if left <= 0 or tries == _CUTS_TRIED:
            break
        if len(place.content.ids) > left:
            tries += 1
            beginning = next(iter(model.passages([place.content.text], room=left)[0]), None)
            if beginning is None or len(beginning.ids) > left:
                continue
            place = place._replace(content=beginning)
        chosen.append(place)
        left -= len(place.content.ids)
    return sorted(chosen, key=lambda place: (place.candidate.number, place.passage))
