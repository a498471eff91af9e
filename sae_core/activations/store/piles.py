"""A shuffle for caches larger than memory: rows are dealt once to piles on disk, and piles are shuffled in memory.

The shuffle of Rao (1961) and Sandelius (1962). Each row goes to a pile drawn at random. A pass takes the piles in
random order, a few at a time, and draws from those in random order. So each pass by itself is a uniformly random
permutation of all rows, although piles are read from beginning to end; what passes share is only which rows lie in a
pile together.
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_core.activations.store.cache import META, TENSOR, ActivationCache
from sae_core.activations.store.checksums import Verified
from sae_core.activations.store.left_out import MARK
from sae_core.foundation.files.mapped_tensors import writing_tensors
from sae_core.foundation.files.whole_files import read_json, read_object, write_json
from sae_core.foundation.machine.host_memory import free_host_memory
from sae_core.foundation.methods import has_stages
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings

PILE_BYTES = 256 * 2**20
MAX_PILES = 200
"""All piles are open at once while rows are dealt, and systems allow a process some hundred open files."""
DEALT_AT_ONCE = 64 * 2**20
"""Bytes of rows that are read and dealt together."""
_CODES = {"float32": "<f4", "float16": "<f2", "bfloat16": "BF16"}


def deal(
    cache: ActivationCache, folder: Path, *, seed: int, pile_bytes: int | None = None, progress: Progress = silent
) -> ActivationCache:
    """A copy of a cache in which each shard is a pile; the one in ``folder``, if it is of the same rows and seed.

    It needs as much disk as the cache and is written in one pass, from the start again if that is interrupted.

    Args:
        cache: The activations.
        folder: Where the copy lies.
        seed: Decides which row goes to which pile.
        pile_bytes: Size of a pile, by default `PILE_BYTES`; more where there would be more than `MAX_PILES`.
        progress: Told the rows dealt.

    Raises:
        UserError: If a copy that is there is damaged.
    """
    pile_bytes = pile_bytes or PILE_BYTES
    contents = f"dealt {cache.fingerprint} {seed} {pile_bytes}"
    if (folder / META).exists():
        there = read_object(folder / META)
        if there.get("contents") == contents and all((folder / shard["file"]).exists() for shard in there["shards"]):
            return ActivationCache.open(folder, progress=progress)
    (folder / META).unlink(missing_ok=True)  # its shards are about to be replaced
    row_bytes = cache.d_in * cache.stored(0, 1).itemsize
    piles = min(MAX_PILES, -(-cache.rows * row_bytes // pile_bytes))
    step = max(1, DEALT_AT_ONCE // row_bytes)

    def pile_of(first: int) -> NDArray[np.int64]:
        """The piles of rows ``first`` to ``first + step``."""
        size = min(step, cache.rows - first)
        return np.random.default_rng([seed, first]).integers(piles, size=size)

    sizes = np.zeros(piles, np.int64)
    for first in range(0, cache.rows, step):
        sizes += np.bincount(pile_of(first), minlength=piles)
    paths = [folder / f"shard_{number:05d}.safetensors" for number in range(piles)]
    with ExitStack() as stack:
        layouts = [{TENSOR: (_CODES[cache.dtype], (int(size), cache.d_in))} for size in sizes]
        writers = [
            stack.enter_context(writing_tensors(path, layout)) for path, layout in zip(paths, layouts, strict=True)
        ]
        filled = np.zeros(piles, np.int64)
        for first in range(0, cache.rows, step):
            number_R = pile_of(first)
            stored_RD = cache.stored(first, first + len(number_R))[np.argsort(number_R, kind="stable")]
            counts = np.bincount(number_R, minlength=piles)
            for pile, rows_RD in enumerate(np.split(stored_RD, counts.cumsum()[:-1])):
                writers[pile].write(TENSOR, int(filled[pile]) * cache.d_in, rows_RD)
            filled += counts
            progress(Tick("shuffle activations on disk", first + len(number_R), cache.rows))
    verified = Verified(folder)
    shards = [
        {"file": path.name, "rows": int(size), "checksum": verified.record(path.name)}
        for path, size in zip(paths, sizes, strict=True)
    ]
    fingerprint = hashlib.sha256("".join(str(shard["checksum"]) for shard in shards).encode()).hexdigest()[:16]
    verified.save()
    meta: dict[str, Any] = {**read_json(cache.folder / META), "contents": contents, "shards": shards}
    meta.pop("arrays", None)  # whose rows are in the shards now
    kept = meta.pop(MARK, {})  # the others were not dealt
    meta |= {key: kept[key] for key in ("sum", "sum_of_squares") if key in kept}
    meta |= {"rows": cache.rows, "fingerprint": fingerprint, "piles": [shard["rows"] for shard in shards]}
    write_json(folder / META, meta)
    return ActivationCache.open(folder)


def choose_shuffle(run: Run, cache: ActivationCache) -> str:
    """How batches are drawn from a new cache: in ``memory``, or from piles on ``disk``."""
    disk = shutil.disk_usage(run.path).free
    return shuffle_of(run.settings, rows=cache.rows, d_in=cache.d_in, memory=free_host_memory(), disk=disk)


def shuffle_of(settings: RunSettings, *, rows: int, d_in: int, memory: int | None, disk: int | None) -> str:
    """The same, by bytes that are free in memory and on the disk; None means unknown, and enough."""
    data, training = settings.data, settings.training
    if data.shuffle != "auto":
        return data.shuffle
    # Boosting may keep residuals in float32 and draws them in the same order.
    residuals = has_stages(settings) and training.residuals != "recomputed"
    drawn = rows * d_in * (4 if residuals or data.dtype == "float32" else 2)
    room = disk is None or disk > drawn
    return "disk" if memory is not None and drawn > memory and room else "memory"
