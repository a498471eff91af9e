"""The features that fire on the same tokens as a feature, its companions: find them for all features, and look them up.

For a single feature, `examples.co_active` reads the positions of the whole index, which takes most of a second at 200
million activations. All features together take about E·L₀ additions, for E activations and L₀ active features per
token: a minute or two at that size.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.foundation.files.mapped_tables import MappedTable
from sae_core.foundation.files.mapped_tensors import writing_tensors
from sae_core.foundation.numbering import require_feature
from sae_core.foundation.progress import Progress, Tick, silent

KEPT = 20
"""Number of companions to keep per feature."""
_BLOCK = 1024
_ENTRIES = 32_000_000


@dataclass(frozen=True, slots=True)
class Together(MappedTable):
    """The open table.

    Attributes:
        tokens: Number of indexed tokens, T.
        counts: [F], the number of tokens on which each feature fires.
        companions: [F, K], the features that fire most often with a feature, by the cosine of the two firing patterns;
            −1 if there are no more.
        together: [F, K], the number of tokens on which both fire.
    """

    FORMAT: ClassVar[str] = "sae-ensemble-together-1"
    TITLE: ClassVar[str] = "a table of companions"

    tokens: int
    counts: NDArray[np.int64]
    companions: NDArray[np.int32]
    together: NDArray[np.int32]

    def check(self) -> None:
        """Check that each feature has a row."""
        if self.companions.shape != self.together.shape or len(self.companions) != len(self.counts):
            raise ValueError("its arrays do not fit each other")

    def of(self, feature: int, count: int = 10) -> pd.DataFrame:
        """The first ``count`` companions of a feature (at most `KEPT`), in the form of `co_active`.

        Raises:
            UserError: If there is no such feature.
        """
        require_feature(feature, len(self.counts))
        there = self.companions[feature] >= 0
        best = self.companions[feature][there][:count].astype(np.int64)
        both = self.together[feature][there][:count].astype(np.int64)
        share = both / max(int(self.counts[feature]), 1)
        lift = share * self.tokens / self.counts[best]
        return pd.DataFrame({"feature": best, "together": both, "share": share, "lift": lift})


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
    # Pages only read the table, and need neither torch nor compiled code.
    from sae_core.analysis.index.together_loops import find_companions
    from sae_core.training.kernels.cpu import team

    features = index.features
    layout = Together.layout(counts=(features,), companions=(features, kept), together=(features, kept))
    parts = team.count_parts()
    counts_PF, seen_PF = (np.zeros((parts, max(features, 1)), np.int32) for _ in range(2))
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".together-", dir=path.parent) as scratch,
        writing_tensors(path, layout, Together.header(tokens=index.tokens)) as writer,
    ):
        pointers_T, features_E = _by_token(index, Path(scratch) / "features", entries_at_a_time)
        writer.write("counts", 0, index.counts)
        for start in range(0, features, _BLOCK):
            shape = (min(_BLOCK, features - start), kept)
            best_BK, together_BK = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
            team.run(
                find_companions,
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
    from sae_core.analysis.index.together_loops import spread_entries

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
            spread_entries(first, end, index.pointers, index.positions, read_F, write_T, features_E)
            file.write(features_E.data)
            first = end
    if not index.entries:
        return pointers_T, np.empty(0, np.int32)
    return pointers_T, np.memmap(scratch, np.int32, mode="r")
