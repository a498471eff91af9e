"""Which tokens of a text are left out: chosen ones, and those whose activation has an outlying norm, such as sinks.

A token that is left out stays in the corpus and in the caches, so a position still means its token, texts read as they
are, and the model sees them whole. It is treated as BOS is: SAEs neither learn from its activation nor are measured on
it, it keeps that activation where reconstructions are put back into the model, it does not count where a text is
pooled, and no feature fires on it in the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from sae_core.activations.origins.language_model.reading import ActivationBatch, LanguageModel
from sae_core.activations.stages import ACTIVATIONS
from sae_core.activations.store.cache import ActivationCache
from sae_core.activations.store.left_out import ROWS_AT_ONCE, leave_out, median_norm, norms
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The rule of one run.

    Attributes:
        ids: Ids of the chosen tokens.
        limit: The largest norm that is kept; None keeps all.
    """

    ids: tuple[int, ...] = ()
    limit: float | None = None

    @classmethod
    def of(cls, run: Run) -> LeftOut:
        """The rule by which a run's activations were gathered; a run without one leaves out nothing."""
        facts = ACTIVATIONS.facts(run).get("left_out") or {}
        return cls(tuple(facts.get("ids", ())), facts.get("limit"))

    def __bool__(self) -> bool:
        return bool(self.ids) or self.limit is not None

    def rows(self, tokens_T: NDArray[np.integer], acts_TD: Tensor) -> NDArray[np.bool_]:
        """Whether each token is left out [T]."""
        left_T: NDArray[np.bool_] = np.isin(tokens_T, self.ids)
        if self.limit is not None:
            left_T |= norms(acts_TD) > self.limit
        return left_T

    def batch(self, batch: ActivationBatch) -> ActivationBatch:
        """The batch without the tokens that are left out."""
        if not self:
            return batch
        kept_T = ~self.rows(batch.tokens_T.numpy(), batch.acts_TD)
        return ActivationBatch(batch.acts_PTD[:, kept_T], batch.tokens_T[kept_T], batch.document_T[kept_T], kept_T)


EVERY_TOKEN = LeftOut()


def chosen_ids(tokenizer: Any, tokens: Sequence[str | int]) -> tuple[int, ...]:
    """The ids of chosen tokens: an id, the token as the vocabulary spells it (``Ġthe``), or what it reads like.

    Raises:
        UserError: If the vocabulary has no such token.
    """
    if not tokens:
        return ()
    spelled = {str(token): int(number) for token, number in tokenizer.get_vocab().items()}
    read: dict[str, list[int]] = {}
    if any(isinstance(token, str) for token in tokens):
        for number in spelled.values():
            read.setdefault(tokenizer.decode([number]), []).append(number)
    found: set[int] = set()
    numbers = set(spelled.values())
    for token in tokens:
        own = {token} & numbers if isinstance(token, int) else {*read.get(token, ())}
        if isinstance(token, str) and token in spelled:
            own.add(spelled[token])
        if not own:
            raise UserError(f"data.leave_out names {token!r}, and the model's vocabulary has no such token.")
        found |= own
    return tuple(sorted(found))


def mark_left_out(
    run: Run, model: LanguageModel, ids: tuple[int, ...], caches: Sequence[tuple[ActivationCache, pd.DataFrame]]
) -> dict[str, Any]:
    """Mark the rows that are left out in the caches of a run, ``train`` and ``evaluation``.

    Args:
        run: The run.
        model: Its model, which tokenizes.
        ids: Those of the chosen tokens.
        caches: Both caches, with the passages that they hold.

    Returns:
        The fact ``left_out`` of the activations, if the settings leave out anything: ``ids``, ``limit`` (the largest
        norm that is kept) and for each cache the ``rows`` left out and their share of the ``energy``.
    """
    times, (train, _) = run.settings.data.largest_norm, caches[0]
    rule = LeftOut(ids, None if times is None else times * median_norm(train))
    if not rule:
        return {}
    counted = {}
    for name, (cache, table) in zip(("train", "evaluation"), caches, strict=True):
        tokens_T = np.concatenate([np.empty(0, np.int32), *model.token_ids(table["text"].tolist())])
        if len(tokens_T) != cache.rows:
            raise UserError(f"The model's tokenizer has changed since {run.corpus.path} was written; use a new folder.")
        blocks = range(0, cache.rows, ROWS_AT_ONCE)
        left = [
            rule.rows(tokens_T[at : at + ROWS_AT_ONCE], cache.read(at, min(at + ROWS_AT_ONCE, cache.rows)))
            for at in blocks
        ]
        counted[name] = leave_out(cache, np.concatenate(left))
    return {"left_out": {"ids": list(ids), "limit": rule.limit, **counted}}
