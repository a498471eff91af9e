"""Find the features that fire on the same tokens, for all features at once and exactly.

For a single feature, `examples.co_active` reads the positions of the whole index, which takes most of a second at 200
million activations. All features together take about E·L₀ additions, for E activations and L₀ active features per
token: a minute or two at that size.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sae_core.analysis.index import together_loops
from sae_core.analysis.index.reading import ActivationIndex
from sae_core.analysis.index.together import FORMAT, KEPT
from sae_core.foundation.files.mapped_tensors import writing_tensors
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.training.kernels.cpu import team

_BLOCK = 1024
_ENTRIES = 32_000_000


def write_together(
    index: ActivationIndex,
    path: Path,
    *,
    kept: int = KEPT,
    entries_at_a_time: int = _ENTRIES,
    progress: Progress = silent,
) -> None:
    """Find the companions of every feature and write them.

    During the work, a copy of the entries by token, 4 bytes each, lies beside ``path``.

    Args:
        index: The ensemble's activations.
        path: The file.
        kept: Number of companions to keep per feature.
        entries_at_a_time: Number of entries in memory while the index is sorted by token.
        progress: Told the number of features done.
    """
    features = index.features
    layout = {
        "counts": (np.int64, (features,)),
        "companions": (np.int32, (features, kept)),
        "together": (np.int32, (features, kept)),
    }
    parts = team.count_parts()
    counts_PF, seen_PF = (np.zeros((parts, max(features, 1)), np.int32) for _ in range(2))
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".together-", dir=path.parent) as scratch,
        writing_tensors(path, layout, {"format": FORMAT, "tokens": str(index.tokens)}) as writer,
    ):
        pointers_T, features_E = _by_token(index, Path(scratch) / "features", entries_at_a_time)
        writer.write("counts", 0, index.counts)
        for start in range(0, features, _BLOCK):
            shape = (min(_BLOCK, features - start), kept)
            best_BK, together_BK = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
            team.run(
                together_loops.find_companions,
                *(start, index.pointers, index.positions, pointers_T, features_E),
                *(counts_PF, seen_PF, best_BK, together_BK),
            )
            writer.write("companions", start * kept, best_BK)
            writer.write("together", start * kept, together_BK)
            progress(Tick("features that fire together", start + shape[0], features, unit="features"))
        del features_E  # close the map before its file is removed


def _by_token(
    index: ActivationIndex, scratch: Path, entries_at_a_time: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Sort entries by token: (start of each token's entries [T + 1], feature of each entry, mapped in ``scratch``)."""
    pointers_T = np.zeros(index.tokens + 1, np.int64)
    for start in range(0, index.entries, entries_at_a_time):
        block_E = index.positions[start : start + entries_at_a_time]
        pointers_T[1:] += np.bincount(block_E, minlength=index.tokens)
    np.cumsum(pointers_T, out=pointers_T)
    read_F, first = index.pointers[:-1].copy(), 0
    with scratch.open("wb") as file:
        while first < index.tokens:
            most = pointers_T[first] + entries_at_a_time
            end = max(first + 1, int(np.searchsorted(pointers_T, most, side="right")) - 1)
            features_E = np.empty(int(pointers_T[end] - pointers_T[first]), np.int32)
            write_T = pointers_T[first:end] - pointers_T[first]
            together_loops.spread_entries(first, end, index.pointers, index.positions, read_F, write_T, features_E)
            file.write(features_E.data)
            first = end
    if not index.entries:
        return pointers_T, np.empty(0, np.int32)
    return pointers_T, np.memmap(scratch, np.int32, mode="r")
