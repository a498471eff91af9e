"""Activations from a known dictionary in a run: written to its caches, or drawn anew in every pass."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sae_core.activations.origins.known.dictionary import (
    BLOCK_ROWS,
    KnownActivations,
    KnownDictionary,
    Part,
    load_dictionary,
    make_dictionary,
    save_dictionary,
)
from sae_core.activations.stages import ACTIVATIONS, CORPUS
from sae_core.activations.store.cache import SHARD_BYTES, ActivationCache, CacheWriter
from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.run import Run

SAMPLED_BLOCKS = 16
"""Blocks on which mean and scale of a stream are measured."""
_SHARD_BLOCKS = 16
"""A small cache is written in shards of so many blocks, so that little is lost when it is interrupted."""


def write_known(run: Run, *, progress: Progress = silent) -> None:
    """Write the dictionary of a run with this origin, and its activation caches.

    What is finished is skipped, and what was interrupted goes on, with the same result bit by bit. With
    ``data.storage`` stream only the rows for evaluation are kept.
    """
    settings = run.settings
    dictionary = run_dictionary(run)
    data = settings.data
    if not CORPUS.is_finished(run):
        facts = {"model": settings.origin.kind, "d_in": dictionary.d_in, "train_tokens": data.train_tokens, "tokens": 0}
        run.finish(CORPUS.key, {**facts, "evaluation_tokens": data.evaluation_tokens}, files=[run.truth])
    if ACTIVATIONS.is_finished(run):
        return
    started = time.perf_counter()
    rows: dict[Part, int] = {"train": data.train_tokens, "evaluation": data.evaluation_tokens}
    if data.storage == "stream":
        del rows["train"]
    caches: dict[Part, ActivationCache] = {}
    for part, wanted in rows.items():
        others = sum(cache.rows for cache in caches.values())
        caches[part] = _write_cache(run, dictionary, part, wanted, others, sum(rows.values()), progress)
    facts = {
        "seconds": time.perf_counter() - started,
        "tokens": sum(cache.rows for cache in caches.values()),
        "fingerprint": " ".join(cache.fingerprint for cache in caches.values()),
        "shuffle": "memory",  # rows are independent of each other, in whatever order
    }
    run.finish(ACTIVATIONS.key, facts, files=[file for cache in caches.values() for file in cache.files])


def run_dictionary(run: Run) -> KnownDictionary:
    """The dictionary of a run, drawn and kept the first time.

    Raises:
        UserError: If the run's activations do not come from one.
    """
    settings = run.settings
    settings.origin.require_truth(run)
    if not run.truth.exists():
        save_dictionary(make_dictionary(settings.truth, settings.truth_seed), run.truth)
    return load_dictionary(run.truth)


def known_activations(run: Run, part: Part) -> KnownActivations:
    """The activations of a run, with what they are made of."""
    return KnownActivations(run_dictionary(run), seed=run.settings.truth_seed, part=part)


def _write_cache(
    run: Run, dictionary: KnownDictionary, part: Part, rows: int, before: int, total: int, progress: Progress
) -> ActivationCache:
    settings = run.settings
    most = max(1, SHARD_BYTES // (dictionary.d_in * torch.float32.itemsize * BLOCK_ROWS))
    writer = CacheWriter(
        run.activations / part,
        d_in=dictionary.d_in,
        dtype=settings.data.dtype,
        contents=f"{part} {rows} {settings.truth_seed} {settings.truth.model_dump_json()}",
        shard_rows=min(most, _SHARD_BLOCKS) * BLOCK_ROWS,
    )
    known = KnownActivations(dictionary, seed=settings.truth_seed, part=part)
    for start in range(writer.rows, rows, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, rows)
        writer.append(known.read(start, stop))
        progress(Tick("draw activations", before + stop, total))
    return writer.finish()


class KnownStream:
    """A source for training that draws its activations when they are wanted and keeps none on disk.

    Args:
        known: The activations.
        rows: How many of them there are; then they come again, in batches in another order.
    """

    def __init__(self, known: KnownActivations, rows: int) -> None:
        self._known, self.rows, self.d_in = known, rows, known.dictionary.d_in
        sample_BD = known.read(0, min(rows, SAMPLED_BLOCKS * BLOCK_ROWS)).double()
        self.mean_D = sample_BD.mean(dim=0)
        self.scale = float((self.d_in / sample_BD.square().sum(dim=1).mean()).sqrt())

    def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
        """Endless float32 batches [batch_size, D]; a pass goes through all whole batches in an order of its own.

        Raises:
            UserError: If there are fewer rows than a batch has.
        """
        per_pass = self.rows // batch_size
        if not per_pass:
            raise UserError(
                f"data.train_tokens is {self.rows}, less than training.batch_size ({batch_size}); set it higher."
            )
        number, index = divmod(first_step, per_pass)
        while True:
            order = np.random.default_rng([seed, number]).permutation(per_pass)
            for place in order[index:]:
                yield self._known.read(int(place) * batch_size, (int(place) + 1) * batch_size)
            number, index = number + 1, 0
