"""Build the activation index: one pass of the encoders stores all entries, and a second step sorts them by feature.

Several processes share the pass: each stores the entries of a range of the corpus, and the first one sorts them all.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sae_core.analysis.index.placing import KeptEntries, write_placed
from sae_core.analysis.index.reading import FORMAT
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import naming_faults_of
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.training.kernels.frozen import CELLS, FrozenEncoder
from sae_core.training.processes import Processes

BLOCK = 8192
"""Largest number of tokens to encode at a time; if a wide member allows fewer, a block is cut into equal pieces."""

Read = Callable[[int, int], Tensor]
"""Activations [stop − start, D] of rows start to stop."""


def build_index(ensemble: Ensemble, read: Read, tokens: int, path: Path, *, progress: Progress = silent) -> None:
    """Encode the first ``tokens`` activations once and write the index of all coefficients that are not zero.

    The size of the corpus does not change the memory that is needed: a temporary folder beside ``path`` holds the
    entries.

    Args:
        ensemble: The ensemble whose coefficients (as `Ensemble.encode` returns them) are indexed.
        read: Returns the activations of rows.
        tokens: Number of rows to index, T.
        path: The index file.
        progress: Told the number of tokens done.

    Raises:
        UserError: If there are more tokens than the format can number, or an activation is not finite.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_faults_of(path), tempfile.TemporaryDirectory(prefix=".index-", dir=path.parent) as folder:
        kept = Path(folder) / "entries"
        _keep(ensemble, read, range(tokens), kept, progress)
        _place([kept], ensemble, tokens, path)


def build_index_together(
    ensemble: Ensemble,
    read: Read,
    tokens: int,
    path: Path,
    *,
    shards: Path,
    processes: Processes,
    progress: Progress = silent,
) -> None:
    """Run `build_index` in several processes, each of which calls this function; the file is the same, to the byte.

    Args:
        ensemble: The ensemble whose coefficients are indexed; the same in all processes.
        read: Returns the activations of rows; each process reads only its part.
        tokens: Number of rows to index, T.
        path: The index file.
        shards: A folder that all processes see, for their entries alone. Remains of an indexing that was killed are
            removed first, and the folder is removed at the end.
        processes: The processes that index together.
        progress: Told the number of tokens done of this process's part.

    Raises:
        UserError: As `build_index`, in the process that sees the fault.
        ElsewhereError: If another process has failed; no files stay behind.
    """
    processes.first(lambda: shutil.rmtree(shards, ignore_errors=True))
    if processes.size == 1:
        build_index(ensemble, read, tokens, path, progress=progress)
        return
    files = [shards / f"shard_{rank:05d}" for rank in range(processes.size)]
    own, (start, stop) = files[processes.rank], shard_bounds(tokens, processes.rank, processes.size)
    try:
        processes.together(lambda: _keep(ensemble, read, range(start, stop), own, progress))
        processes.first(lambda: _place(files, ensemble, tokens, path))
    finally:
        own.unlink(missing_ok=True)
        with suppress(OSError):  # the last one finds it empty
            shards.rmdir()


def shard_bounds(tokens: int, rank: int, world: int) -> tuple[int, int]:
    """The range (start, stop) of tokens of one of ``world`` processes: whole blocks, about equally many per process."""
    blocks = -(-tokens // BLOCK)
    start, stop = (min(tokens, BLOCK * (blocks * number // world)) for number in (rank, rank + 1))
    return start, stop


@torch.no_grad()
def _keep(ensemble: Ensemble, read: Read, rows: range, kept: Path, progress: Progress) -> None:
    """Encode rows and store the coefficients that are not zero in a file."""
    if rows.stop > np.iinfo(np.int32).max:
        raise UserError(f"{rows.stop:,} tokens are too many for one index; set data.index_tokens below 2³¹.")
    encode, piece = (
        FrozenEncoder(),
        min(BLOCK, 2 ** int(math.log2(max(1, CELLS // max(sae.width for sae in ensemble.saes()))))),
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    with naming_faults_of(kept), KeptEntries(kept) as entries:
        for start in range(rows.start, rows.stop, piece):
            stop = min(start + piece, rows.stop)
            acts_BD = read(start, stop)
            if not acts_BD.isfinite().all():
                raise UserError(
                    f"An activation of tokens {start} to {stop} is not finite; gather the activations anew."
                )
            acts_BD = acts_BD.to(ensemble.device, torch.float32)
            # TopK codes never become dense, and nothing is decoded that no later member needs.
            for step in ensemble.walk(acts_BD, encode.code_and_recon, decode=False):
                features_E, rows_E, values_E = (column_E.cpu().numpy() for column_E in step.entries())
                entries.add(features_E, rows_E + start, values_E)
            progress(Tick(f"index {ensemble.method}", stop - rows.start, len(rows)))


def _place(kept: Sequence[Path], ensemble: Ensemble, tokens: int, path: Path) -> None:
    write_placed(path, kept, ensemble.offsets[-1], {"format": FORMAT, "tokens": str(tokens)})
