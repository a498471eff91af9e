"""Texts as ids for a language model: cut to its context, with BOS in front where it belongs, padded side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_core.activations.origins.language_model.model.unread import lost_characters
from sae_core.activations.origins.language_model.model.vocabulary import disarmed, splits_special, unknown_ids
from sae_core.foundation.errors import UserError

TEXTS_PER_CALL = 1024
_MOST_CHARS = 4_000_000
"""Characters that are looked at to say which share of them the tokenizer does not know: some seconds."""
_CHARS_PER_TOKEN = 16
"""So many characters for each token of the context are looked at, where a tokenizer does not say what it cut off."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """One text: all ids, which of them are ordinary tokens and no special ones, and where these stand if asked for."""

    ids: NDArray[np.int32]
    ordinary: NDArray[np.bool_]
    spans: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))


class TextTokenizer:
    """A model's tokenizer.

    Attributes:
        context: Tokens a text is cut to, special ones included.
        lacks_front: Whether BOS belongs in front of a text, but the model has no row for it in its embedding.

    Args:
        tokenizer: As transformers made it.
        causal: Whether the model predicts the next token; else it is an encoder.
        context: Tokens a text is cut to, special ones included.
        rows: Rows of the model's embedding, if it is a table.
        name: What the model is called in messages.
    """

    def __init__(self, tokenizer: Any, *, causal: bool, context: int, rows: int | None = None, name: str = "") -> None:
        self._tokenizer, self.context, self._rows, self._name = tokenizer, context, rows, name
        self._splits = splits_special(tokenizer, name=name)
        self._special = () if self._splits else tuple(tokenizer.all_special_tokens)
        self._front = _missing_front(tokenizer, causal)
        self.lacks_front = bool(self._front and rows is not None and self._front[0] >= rows)
        if self.lacks_front:
            self._front = []

    @property
    def says_places(self) -> bool:
        """Whether the tokenizer says where its tokens stand in a text; those in Python do not."""
        return bool(self._tokenizer.is_fast)

    def encode(
        self, texts: Sequence[str], context: int | None = None, *, spans: bool = False, whole: bool = False
    ) -> Iterator[TokenizedText]:
        """Tokenize; many texts at once, as fast tokenizers use all cores.

        Args:
            texts: The texts.
            context: Tokens a text is cut to, if fewer.
            spans: Whether to say where each token stands; only fast tokenizers can.
            whole: Whether a text is read to its end, however long it is.

        Raises:
            UserError: If the tokenizer makes a token that the model has no row for in its embedding.
        """
        length = min(context or self.context, self.context)
        for first in range(0, len(texts), TEXTS_PER_CALL):
            encoded = self._tokenizer(
                [disarmed(text, self._special) for text in texts[first : first + TEXTS_PER_CALL]],
                truncation=not whole,
                max_length=None if whole else length - len(self._front),
                verbose=False,
                return_special_tokens_mask=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                return_offsets_mapping=spans,
                # Otherwise a text that speaks of "<bos>" would contain the special token itself.
                **({"split_special_tokens": True} if self._splits else {}),
            )
            for row, (ids, special) in enumerate(
                zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
            ):
                self._check(ids)
                ordinary = 1 - np.array([1] * len(self._front) + special, np.int8)
                places = [(0, 0)] * len(self._front) + encoded["offset_mapping"][row] if spans else []
                yield TokenizedText(
                    np.array(self._front + ids, np.int32),
                    ordinary.astype(np.bool_),
                    np.array(places, np.int64).reshape(-1, 2),
                )

    def unknown_share(self, texts: Sequence[str], context: int | None = None) -> float:
        """Share of the characters, white space left out, that the tokenizer does not know.

        It has an unknown token for them, or none at all. What is cut off does not count. Of very many texts some are
        looked at, taken evenly.
        """
        length = min(context or self.context, self.context)
        step = 1 + sum(map(len, texts)) // _MOST_CHARS
        unknown, lost, total = unknown_ids(self._tokenizer), 0, 0
        seen = [disarmed(text, self._special) for text in texts[::step]]
        if not self.says_places:
            seen = [text[: _CHARS_PER_TOKEN * length] for text in seen]
        read = self.encode(seen, length, spans=self.says_places, whole=not self.says_places)
        for text, encoded in zip(seen, read, strict=True):
            known = encoded.ordinary & ~np.isin(encoded.ids, unknown)
            ids, spans = encoded.ids[known], encoded.spans[known] if self.says_places else None
            if spans is not None and len(encoded.ids) >= length:  # what is behind the last token was cut off
                text = text[: int(encoded.spans[encoded.ordinary].max(initial=0))]
            own = lost_characters(self._tokenizer, text, ids, spans)
            lost, total = lost + own[0], total + own[1]
        return lost / max(total, 1)

    def _check(self, ids: Sequence[int]) -> None:
        highest = max(ids, default=0)
        if self._rows is not None and highest >= self._rows:
            word = self._tokenizer.convert_ids_to_tokens(int(highest))
            raise UserError(
                f"The tokenizer of model {self._name!r} makes token {highest} ({word!r}), and the model's embedding "
                f"has {self._rows} rows; give the tokenizer that belongs to the model."
            )

    def pad(self, texts: Sequence[TokenizedText]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(ids [B, L] padded on the right, which of them are not padding)."""
        lengths = np.array([len(text.ids) for text in texts])
        present_BL = np.arange(lengths.max()) < lengths[:, None]
        padding = self._tokenizer.pad_token_id or 0
        # It is masked: where the model has no row for it, any other token does as well.
        ids_BL = np.full(present_BL.shape, 0 if self._rows is not None and padding >= self._rows else padding, np.int64)
        ids_BL[present_BL] = np.concatenate([text.ids for text in texts])
        return ids_BL, present_BL


def _missing_front(tokenizer: Any, causal: bool) -> list[int]:
    """The id to put in front where a causal model's tokenizer does not, as TransformerLens and SAELens do.

    Without it the first word of every text takes the place of the attention sink, with an outlying activation.
    """
    bos = tokenizer.bos_token_id
    if not causal or bos is None or bos in tokenizer("a")["input_ids"][:1]:
        return []
    return [int(bos)]
