"""Activations straight from the model, chunk by chunk, for corpora that are too large to be cached on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.activations.origins.language_model.left_out import EVERY_TOKEN, LeftOut
from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Tick

if TYPE_CHECKING:
    from sae_core.activations.origins.language_model.reading import LanguageModel

SHUFFLE_BYTES = 256 * 2**20
"""Memory of the activations (float32) among which a batch is drawn."""


class _Stopped(Exception):
    """Ends the model's work on a chunk that nobody wants any more."""


class StreamedBatches:
    """The batches of a stream, with what a thread needs that makes them in advance.

    Attributes:
        ahead: Batches of a chunk: with as many kept ready, a chunk is read while the one before it is used.
    """

    def __init__(self, batches: Iterator[Tensor], *, ahead: int, stopped: threading.Event) -> None:
        self._batches, self.ahead, self._stopped = batches, ahead, stopped

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        return next(self._batches)

    def stop(self) -> None:
        """End the reading of a chunk after the forward pass in progress; there are no batches after that."""
        self._stopped.set()


class StreamedActivations:
    """Activations of texts, made anew in every pass.

    Each pass goes through the texts in another order. Their tokens are cut into chunks of about `SHUFFLE_BYTES`, and
    within a chunk the order is random, so a batch mixes hundreds of texts. Any batch can be the first one.

    Args:
        texts: The texts.
        tokens: Number of ordinary tokens of each.
        load: Loads the language model; called when the first batch is wanted.
        mean_D: Mean activation [D], measured on a part.
        scale: √(D / E‖a‖²), measured on a part.
        left_out: Which tokens are left out. Another of the same chunk is drawn twice in the place of each of them, so
            that batches are where they would be.
        shuffle_bytes: Size of a chunk.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokens: NDArray[np.int64],
        load: Callable[[], LanguageModel],
        *,
        mean_D: Tensor,
        scale: float,
        left_out: LeftOut = EVERY_TOKEN,
        shuffle_bytes: int = SHUFFLE_BYTES,
    ) -> None:
        self.texts, self.tokens, self._load = texts, tokens, load
        self.mean_D, self.scale, self._left_out = mean_D, scale, left_out
        self.rows, self.d_in = int(tokens.sum()), len(mean_D)
        self._chunk_rows = max(1, shuffle_bytes // (4 * self.d_in))
        self._model: LanguageModel | None = None

    def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> StreamedBatches:
        """Endless float32 batches [batch_size, D]; the rows that do not fill a batch are left out of a pass.

        Raises:
            UserError: When the first one is wanted, if the texts have fewer tokens than a batch; later if an activation
                is not a number.
        """
        # Whole batches, so that a chunk never hands on a remainder.
        per_chunk = max(1, min(self._chunk_rows, self.rows) // batch_size)
        stopped = threading.Event()
        batches = self._batches(batch_size, per_chunk, seed, first_step, stopped)
        return StreamedBatches(batches, ahead=per_chunk, stopped=stopped)

    def _batches(
        self, batch_size: int, per_chunk: int, seed: int, first_step: int, stopped: threading.Event
    ) -> Iterator[Tensor]:
        per_pass = self.rows // batch_size
        if not per_pass:
            raise UserError(
                f"The text holds {self.rows} tokens, fewer than training.batch_size ({batch_size}); give more text or "
                "a smaller batch."
            )
        number, index = divmod(first_step, per_pass)
        while True:
            order = np.random.default_rng([seed, number]).permutation(len(self.texts))
            ends = self.tokens[order].cumsum()
            for chunk in range(index // per_chunk, -(-per_pass // per_chunk)):
                first, last = chunk * per_chunk, min((chunk + 1) * per_chunk, per_pass)
                acts_RD, kept_R = self._read(order, ends, first * batch_size, last * batch_size, stopped)
                places = np.random.default_rng([seed, number, chunk]).permutation(len(acts_RD))
                if not kept_R.all():
                    places = np.resize(places[kept_R[places]], len(places))
                for step in range(max(first, index), last):
                    start = (step - first) * batch_size
                    yield acts_RD[torch.from_numpy(places[start : start + batch_size])]
            number, index = number + 1, 0

    def _read(
        self, order: NDArray[np.int64], ends: NDArray[np.int64], start: int, stop: int, stopped: threading.Event
    ) -> tuple[Tensor, NDArray[np.bool_]]:
        """Rows ``start`` to ``stop`` of the pass that takes the texts in ``order``, and which of them are learned from.

        The texts' tokens end at ``ends``.
        """

        def check(_: Tick) -> None:
            if stopped.is_set():
                raise _Stopped

        if self._model is None:
            self._model = self._load()
        first, last = np.searchsorted(ends, [start, stop - 1], side="right")
        texts = [self.texts[number] for number in order[first : last + 1]]
        batches = list(self._model.activations(texts, progress=check))
        acts_RD, tokens_R = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("acts_TD", "tokens_T"))
        del batches
        before = int(ends[first] - self.tokens[order[first]])
        if len(acts_RD) != int(ends[last]) - before:
            raise UserError("The model's tokenizer has changed since the corpus was gathered; use a new run folder.")
        if not acts_RD.isfinite().all():
            raise UserError("The model gave an activation that is not a number; choose another layer or model.")
        own = slice(start - before, stop - before)
        kept_R = ~self._left_out.rows(tokens_R[own].numpy(), acts_RD[own])
        if not kept_R.any():
            raise UserError("data.leave_out and data.largest_norm leave out all tokens of a chunk; name fewer tokens.")
        return acts_RD[own], kept_R
