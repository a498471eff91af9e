"""The activation index: every activation of every feature over the indexed corpus, by feature; build and read it.

The index is a sparse matrix tokens × features in CSC order, in one safetensors file, memory-mapped: ``pointers``
int64 [F + 1], ``positions`` int32 [E] (ascending within a feature) and ``values`` float32 [E]. One slice has all
activations of a feature.

One pass of the encoders stores all entries, and a second step places them by feature. Several processes share the pass:
each stores the entries of a range of the corpus, and the first one places them all.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from sae_core.analysis.index.kept_entries import KeptEntries, kept_blocks
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tables import MappedTable
from sae_core.foundation.files.mapped_tensors import mapping_new_tensors
from sae_core.foundation.files.whole_files import naming_faults_of
from sae_core.foundation.numbering import require_feature
from sae_core.foundation.progress import Progress, Tick, silent

if TYPE_CHECKING:
    from torch import Tensor

    from sae_core.ensembles.ensemble import Ensemble
    from sae_core.training.processes import Processes

    Read = Callable[[int, int], Tensor]
    """Activations [stop − start, D] of rows start to stop."""

BLOCK = 8192
"""Largest number of tokens to encode at a time; if a wide member allows fewer, a block is cut into equal pieces."""

Positions = NDArray[np.int32]
Values = NDArray[np.float32]
NONE_LEFT_OUT: NDArray[np.int64] = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class ActivationIndex(MappedTable):
    """The open index.

    Attributes:
        tokens: Number of indexed tokens, T.
        pointers: [F + 1]; feature f owns entries pointers[f] to pointers[f + 1].
        positions: [E], the row of each entry in the indexed corpus.
        values: [E], the coefficient of each entry, α folded in.
    """

    FORMAT: ClassVar[str] = "sae-ensemble-index-1"
    TITLE: ClassVar[str] = "an activation index"

    tokens: int
    pointers: NDArray[np.int64]
    positions: Positions
    values: Values

    def check(self) -> None:
        """Check that the pointers are those of the entries."""
        if self.pointers.ndim != 1 or self.pointers[0] != 0 or np.any(np.diff(self.pointers) < 0):
            raise ValueError("the pointers do not ascend")
        if self.positions.shape != (self.pointers[-1],) or self.values.shape != (self.pointers[-1],):
            raise ValueError("the pointers do not fit the entries")

    @property
    def features(self) -> int:
        """Number of indexed features, F: those of all members, in the ensemble's numbering."""
        return len(self.pointers) - 1

    @property
    def entries(self) -> int:
        """Number of stored activations, E."""
        return len(self.positions)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of tokens on which each feature is active [F]."""
        return np.diff(self.pointers)

    def count(self, feature: int) -> int:
        """Number of tokens on which a feature is active."""
        return len(self.feature(feature)[0])

    def feature(self, feature: int) -> tuple[Positions, Values]:
        """(positions, ascending; values) of all activations of a feature, as views of the file without copies.

        Raises:
            UserError: If there is no such feature.
        """
        require_feature(feature, self.features)
        own = slice(int(self.pointers[feature]), int(self.pointers[feature + 1]))
        return self.positions[own], self.values[own]


def build_index(
    ensemble: Ensemble,
    read: Read,
    tokens: int,
    path: Path,
    *,
    left_out: NDArray[np.int64] = NONE_LEFT_OUT,
    progress: Progress = silent,
) -> None:
    """Encode the first ``tokens`` activations once and write the index of all coefficients that are not zero.

    The size of the corpus does not change the memory that is needed: a temporary folder beside ``path`` holds the
    entries.

    Args:
        ensemble: The ensemble whose coefficients (as `Ensemble.encode` returns them) are indexed.
        read: Returns the activations of rows.
        tokens: Number of rows to index, T.
        path: The index file.
        left_out: Rows on which no feature fires, whatever their activations are.
        progress: Told the number of tokens done.

    Raises:
        UserError: If there are more tokens than the format can number, or an activation is not finite.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_faults_of(path), tempfile.TemporaryDirectory(prefix=".index-", dir=path.parent) as folder:
        kept = Path(folder) / "entries"
        _keep(ensemble, read, range(tokens), kept, left_out, progress)
        write_placed(path, [kept], features=ensemble.offsets[-1], tokens=tokens)


def build_index_together(
    ensemble: Ensemble,
    read: Read,
    tokens: int,
    path: Path,
    *,
    shards: Path,
    processes: Processes,
    left_out: NDArray[np.int64] = NONE_LEFT_OUT,
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
        left_out: As for `build_index`.
        progress: Told the number of tokens done of this process's part.

    Raises:
        UserError: As `build_index`, in the process that sees the fault.
        ElsewhereError: If another process has failed; no files stay behind.
    """
    processes.first(lambda: shutil.rmtree(shards, ignore_errors=True))
    if processes.size == 1:
        build_index(ensemble, read, tokens, path, left_out=left_out, progress=progress)
        return
    files = [shards / f"shard_{rank:05d}" for rank in range(processes.size)]
    own, (start, stop) = files[processes.rank], shard_bounds(tokens, processes.rank, processes.size)
    try:
        processes.together(lambda: _keep(ensemble, read, range(start, stop), own, left_out, progress))
        processes.first(lambda: write_placed(path, files, features=ensemble.offsets[-1], tokens=tokens))
    finally:
        own.unlink(missing_ok=True)
        with suppress(OSError):  # the last one finds it empty
            shards.rmdir()


def shard_bounds(tokens: int, rank: int, world: int) -> tuple[int, int]:
    """The range (start, stop) of tokens of one of ``world`` processes: whole blocks, about equally many per process."""
    blocks = -(-tokens // BLOCK)
    start, stop = (min(tokens, BLOCK * (blocks * number // world)) for number in (rank, rank + 1))
    return start, stop


def _keep(
    ensemble: Ensemble, read: Read, rows: range, kept: Path, left_out: NDArray[np.int64], progress: Progress
) -> None:
    """Encode rows and store the coefficients that are not zero in a file."""
    # Pages only read the index, and do not wait for torch.
    import torch

    from sae_core.training.kernels.frozen import CELLS, FrozenEncoder

    if rows.stop > np.iinfo(np.int32).max:
        raise UserError(f"{rows.stop:,} tokens are too many for one index; set data.index_tokens below 2³¹.")
    encode, widest = FrozenEncoder(), max(sae.width for sae in ensemble.saes())
    piece = min(BLOCK, 2 ** int(math.log2(max(1, CELLS // widest))))
    kept.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), naming_faults_of(kept), KeptEntries(kept) as entries:
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
                if len(left_out):
                    stays_E = ~np.isin(rows_E + start, left_out)
                    features_E, rows_E, values_E = features_E[stays_E], rows_E[stays_E], values_E[stays_E]
                entries.add(features_E, rows_E + start, values_E)
            progress(Tick(f"index {ensemble.method}", stop - rows.start, len(rows)))


def write_placed(path: Path, kept: Sequence[Path], *, features: int, tokens: int) -> None:
    """Write an index of stored entries.

    The entries are read twice: the first pass counts those of every feature, the second writes each entry after the
    earlier entries of its feature. Memory holds one block at a time, and a feature's entries stay in order.

    Args:
        path: The file.
        kept: Files of `KeptEntries`; a feature's entries in an earlier file come before those in a later file.
        features: Number of features, F.
        tokens: Number of indexed tokens, T.

    Raises:
        UserError: If a file of entries is cut off.
        OSError: If the disk has no room.
    """
    from sae_core.analysis.index.placing_loops import place_entries
    from sae_core.training.kernels.cpu import team

    pointers_F = np.zeros(features + 1, np.int64)
    for file in kept:
        for features_E, _, _ in kept_blocks(file):
            pointers_F[1:] += np.bincount(features_E, minlength=features)
    np.cumsum(pointers_F, out=pointers_F)
    entries, next_F, parts = (int(pointers_F[-1]),), pointers_F[:-1].copy(), team.count_parts()
    # The first feature of each part, with about equally many entries per part, and at the end F.
    bounds_P = np.searchsorted(pointers_F, np.arange(parts + 1) * pointers_F[-1] // parts).astype(np.int64)
    bounds_P[0], bounds_P[-1] = 0, features
    layout = ActivationIndex.layout(pointers=(features + 1,), positions=entries, values=entries)
    with mapping_new_tensors(path, layout, ActivationIndex.header(tokens=tokens)) as placed:
        placed["pointers"][:] = pointers_F
        for file in kept:
            for block in kept_blocks(file):
                team.run(place_entries, bounds_P, *block, next_F, placed["positions"], placed["values"])
