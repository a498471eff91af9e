"""Gather what a run works on, and open the activations for training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sae_core.activations.stages import ACTIVATIONS, CORPUS
from sae_core.activations.store.cache import ActivationCache
from sae_core.activations.store.left_out import without_left_out
from sae_core.activations.store.piles import deal
from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Progress, silent
from sae_core.foundation.run import Run


def harvest(run: Run, *, progress: Progress = silent) -> None:
    """Write the corpus and both activation caches of a run, as its origin gathers them.

    What is finished is skipped; what was interrupted goes on, with the same result bit by bit.

    Raises:
        UserError: If the activations cannot be had, are too few, or one of them is not finite.
    """
    harvest_together([run], progress=progress)


def harvest_together(runs: Sequence[Run], *, progress: Progress = silent) -> None:
    """`harvest` for runs in which `Origin.shared_by` is equal: their origin gathers for all of them at once.

    Each run gets the same files, bit by bit, as it would by itself.

    Raises:
        UserError: As `harvest`.
    """
    if not all(CORPUS.is_finished(run) and ACTIVATIONS.is_finished(run) for run in runs):
        runs[0].settings.origin.gather(runs, progress)


def train_cache(run: Run, *, progress: Progress = silent) -> ActivationCache:
    """Activations of the training documents, in corpus order: row p is position p of the indexed corpus.

    It has the rows that ``data.leave_out`` and ``data.largest_norm`` leave out, too; `learned_cache` lacks them.
    With ``data.storage = "stream"`` only those of the indexed corpus are kept.

    Raises:
        UserError: If it is missing, unfinished or damaged.
    """
    return _open_cache(run, "train", progress)


def learned_cache(run: Run, *, progress: Progress = silent) -> ActivationCache:
    """`train_cache` without the rows that are left out of training.

    Raises:
        UserError: If it is missing, unfinished or damaged.
    """
    return without_left_out(train_cache(run, progress=progress))


def train_source(run: Run, *, device: str = "cpu", progress: Progress = silent) -> Any:
    """The activations to train on, a `training.source.Source`: the cache, or with ``data.storage`` stream the origin's.

    Args:
        run: The run.
        device: Where a model runs, if one has to.
        progress: Told the shards that are checked and the rows that are shuffled on disk, as far as they have to be.

    Raises:
        UserError: If the cache is missing, unfinished or damaged.
    """
    if run.settings.data.storage == "stream":
        return run.settings.origin.stream(run, lambda: learned_cache(run, progress=progress), device)
    cache = learned_cache(run, progress=progress)
    # As it was decided when the cache was written: trainings of one run, interrupted or not, share their order.
    if ACTIVATIONS.facts(run).get("shuffle") == "disk":
        return deal(cache, run.dealt, seed=run.settings.training.seed, progress=progress)
    return cache


def evaluation_cache(run: Run) -> ActivationCache:
    """Activations of held-out documents, without the rows that are left out.

    Raises:
        UserError: If it is missing, unfinished or damaged.
    """
    return without_left_out(_open_cache(run, "evaluation", silent))


def _open_cache(run: Run, name: str, progress: Progress) -> ActivationCache:
    cache = ActivationCache.open(run.activations / name, progress=progress)
    wanted = CORPUS.facts(run).get("d_in", cache.d_in)
    if cache.d_in != wanted:
        raise UserError(
            f"The activations in {cache.folder} have dimension {cache.d_in}, those of this run {wanted}; delete that "
            "folder and run train again."
        )
    return cache
