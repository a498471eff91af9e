"""Builds the activation index: one pass of the encoders, an external sort by feature; by one process or by several.

Where there are several, each indexes a range of the corpus into a shard of its own, and the first merges the shards.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_core.analysis.index.external_sort import EntrySorter, StoredRun, write_merged
from sae_core.analysis.index.reading import FORMAT
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import map_tensors, tensor_places
from sae_core.foundation.files.whole_files import naming_faults_of
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.training.kernels.frozen import CELLS, FrozenEncoder
from sae_core.training.processes import Processes

SHARD_FORMAT = "sae-ensemble-index-shard-1"
ENTRIES_IN_MEMORY = 4_000_000
"""Entries that are held at a time; sorting and merging take some 24 bytes for each."""
BLOCK = 8192
"""Most tokens that are encoded at a time; where a wide member allows fewer, a block is cut into equal pieces."""

Read = Callable[[int, int], Tensor]
"""Activations [stop − start, D] of rows start to stop."""


def build_index(
    ensemble: Ensemble,
    read: Read,
    tokens: int,
    path: Path,
    *,
    entries_in_memory: int = ENTRIES_IN_MEMORY,
    progress: Progress = silent,
) -> None:
    """Encode the first ``tokens`` activations once and write the index of all that is not zero.

    Memory is bounded whatever the corpus: entries are sorted by feature in runs that fit, kept in a temporary folder
    beside ``path``, and merged a range of features at a time.

    Args:
        ensemble: Whose coefficients are indexed, as `Ensemble.encode` gives them.
        read: Gives the activations of rows.
        tokens: Rows to index, T.
        path: The index file.
        entries_in_memory: Entries held at a time; a feature with more of them than this is held whole.
        progress: Told the tokens done.

    Raises:
        UserError: If there are more tokens than the format can number, or one of their activations is not finite.
    """
    metadata = {"format": FORMAT, "tokens": str(tokens)}
    _index(ensemble, read, range(tokens), path, metadata, entries_in_memory, progress)


def build_index_together(
    ensemble: Ensemble,
    read: Read,
    tokens: int,
    path: Path,
    *,
    shards: Path,
    processes: Processes,
    entries_in_memory: int = ENTRIES_IN_MEMORY,
    progress: Progress = silent,
) -> None:
    """`build_index` in several processes, each of which calls this: the same file, to the byte.

    Each encodes its part of the tokens into a shard; then the first one merges them, in as bounded a memory.

    Args:
        ensemble: Whose coefficients are indexed; the same for all.
        read: Gives the activations of rows; each process asks for those of its part only.
        tokens: Rows to index, T.
        path: The index file.
        shards: A folder that all see, for nothing but the shards; what lies there from an indexing that was killed is
            removed, and at the end the folder.
        processes: Those that index together.
        entries_in_memory: Entries that each holds at a time; a feature with more of them than this is held whole.
        progress: Told the tokens of this process's part.

    Raises:
        UserError: As `build_index`, in the process that sees the fault.
        ElsewhereError: If another one has failed; no shard stays behind then.
    """
    processes.first(lambda: shutil.rmtree(shards, ignore_errors=True))
    if processes.size == 1:
        build_index(ensemble, read, tokens, path, entries_in_memory=entries_in_memory, progress=progress)
        return
    files = [shards / f"shard_{rank:05d}.safetensors" for rank in range(processes.size)]
    own, (start, stop) = files[processes.rank], shard_bounds(tokens, processes.rank, processes.size)
    options: dict[str, Any] = {"entries_in_memory": entries_in_memory}
    try:
        processes.together(lambda: build_index_shard(ensemble, read, start, stop, own, progress=progress, **options))
        processes.first(lambda: merge_index_shards(files, path, **options))
    finally:
        own.unlink(missing_ok=True)
        with suppress(OSError):  # the last one finds it empty
            shards.rmdir()


def build_index_shard(
    ensemble: Ensemble,
    read: Read,
    start: int,
    stop: int,
    path: Path,
    *,
    entries_in_memory: int = ENTRIES_IN_MEMORY,
    progress: Progress = silent,
) -> None:
    """Do one process's part of `build_index`: the tokens start to stop, into a shard for `merge_index_shards`.

    Args:
        ensemble: Whose coefficients are indexed.
        read: Gives the activations of rows, numbered as in the whole corpus.
        start: The first row of the shard; for one of several equal parts, as `shard_bounds` says.
        stop: The row after its last.
        path: The shard's file.
        entries_in_memory: Entries held at a time; a feature with more of them than this is held whole.
        progress: Told the tokens done.

    Raises:
        UserError: If there are more tokens than the format can number, or one of their activations is not finite.
    """
    metadata = {"format": SHARD_FORMAT, "start": str(start), "stop": str(stop)}
    _index(ensemble, read, range(start, stop), path, metadata, entries_in_memory, progress)


def merge_index_shards(shards: Sequence[Path], path: Path, *, entries_in_memory: int = ENTRIES_IN_MEMORY) -> None:
    """Merge shards into the index that one process would have built; to the byte if they start where a block does.

    Args:
        shards: Files of `build_index_shard`, in any order, that together cover tokens 0 to T.
        path: The index file.
        entries_in_memory: Entries held at a time; a feature with more of them than this is held whole.

    Raises:
        UserError: If a shard is missing, damaged, of another ensemble, or one of the corpus is not there.
    """
    if not shards:
        raise UserError("There are no shards to merge; index the parts of the corpus first.")
    # Where there are more processes than blocks of tokens, shards of no tokens start where the next one does.
    opened = sorted((_Shard.open(shard) for shard in shards), key=lambda shard: (shard.start, shard.stop))
    tokens = 0
    for shard in opened:
        if shard.features != opened[0].features:
            raise UserError(
                f"{shard.path} has {shard.features} features and {opened[0].path} has {opened[0].features}; index both"
                " parts with the same ensemble."
            )
        if shard.start != tokens:
            raise UserError(f"{shard.path} begins at token {shard.start} and not at {tokens}; index that part too.")
        tokens = shard.stop
    metadata = {"format": FORMAT, "tokens": str(tokens)}
    runs = [shard.run for shard in opened]
    write_merged(path, runs, opened[0].features, entries_in_memory, metadata)


def shard_bounds(tokens: int, rank: int, world: int) -> tuple[int, int]:
    """(start, stop) of the tokens that one of ``world`` processes indexes: whole blocks, about as many for each."""
    blocks = -(-tokens // BLOCK)
    start, stop = (min(tokens, BLOCK * (blocks * number // world)) for number in (rank, rank + 1))
    return start, stop


@dataclass(frozen=True, slots=True)
class _Shard:
    """An open shard: its features, the tokens start to stop that it covers, and its entries."""

    path: Path
    features: int
    start: int
    stop: int
    run: StoredRun

    @classmethod
    def open(cls, path: Path) -> _Shard:
        arrays, metadata = map_tensors(path)
        places = tensor_places(path)
        try:
            if metadata["format"] != SHARD_FORMAT:
                raise ValueError(f"format {metadata['format']!r} instead of {SHARD_FORMAT!r}")
            run = StoredRun(path, places["pointers"], places["positions"], places["values"])
            return cls(path, len(arrays["pointers"]) - 1, int(metadata["start"]), int(metadata["stop"]), run)
        except (KeyError, ValueError) as error:
            raise UserError(f"{path} is not a shard of an index ({error}); delete it and index again.") from None


def _index(
    ensemble: Ensemble,
    read: Read,
    rows: range,
    path: Path,
    metadata: dict[str, str],
    entries_in_memory: int,
    progress: Progress,
) -> None:
    """Encode rows, sort what is not zero, write it."""
    if rows.stop > np.iinfo(np.int32).max:
        raise UserError(f"{rows.stop:,} tokens are too many for one index; set data.index_tokens below 2³¹.")
    path.parent.mkdir(parents=True, exist_ok=True)
    encode, features = FrozenEncoder(), ensemble.offsets[-1]
    with naming_faults_of(path), tempfile.TemporaryDirectory(prefix=".index-", dir=path.parent) as folder:
        sorter = EntrySorter(Path(folder), features, entries_in_memory)
        piece = min(BLOCK, 2 ** int(math.log2(max(1, CELLS // max(ensemble.widths)))))
        for start in range(rows.start, rows.stop, piece):
            stop = min(start + piece, rows.stop)
            acts_BD = read(start, stop)
            if not acts_BD.isfinite().all():
                raise UserError(
                    f"An activation of tokens {start} to {stop} is not finite; gather the activations anew."
                )
            for entries in sparse_codes(ensemble, acts_BD, encode):
                features_E, rows_E, values_E = (column_E.cpu().numpy() for column_E in entries)
                sorter.add(features_E, rows_E + start, values_E)
            progress(Tick(f"index {ensemble.method}", stop - rows.start, len(rows)))
        write_merged(path, sorter.finish(), features, entries_in_memory, metadata)


@torch.no_grad()
def sparse_codes(ensemble: Ensemble, acts_BD: Tensor, encode: FrozenEncoder) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The entries of `Ensemble.encode(acts_BD)` that are not zero, member by member.

    TopK codes never become dense, and nothing is decoded that no later member needs.

    Yields:
        For each member (features int64 [E], in the ensemble's numbering; rows int64 [E], ascending; values [E]).
    """
    input_BD = acts_BD.to(ensemble[0].W_dec.device, torch.float32)
    for number, (weight, member) in enumerate(zip(ensemble.weights, ensemble, strict=True)):
        code = encode(member, input_BD)
        values_E = weight * code.values_E
        active_E = values_E != 0
        yield code.features_E[active_E] + ensemble.offsets[number], code.rows_E[active_E], values_E[active_E]
        if ensemble.wiring == "residual" and number + 1 < len(ensemble):
            input_BD = input_BD - weight * member.decode_sparse(code)
