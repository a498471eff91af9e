"""Sparse codes of a batch by every kernel, chosen by keys and exact in float32.

The same codes as `SAE.sparse_code` and `SAE.activate` give, up to preactivations that differ by float32 rounding alone.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sae_core.sae import SAE, Kernel
from sae_core.training.kernels.cpu import select_loops, team
from sae_core.training.kernels.cpu.screen import Screen
from sae_core.training.kernels.cpu.select_loops import Code
from sae_core.training.kernels.workspace import Workspace

DENSEST = 0.3
"""Largest share of features that may have to be looked at for a code to count as sparse; at 0.35 both steps take as
long (512 dimensions, 8192 features), at 0.01 the fast one a tenth."""

_KEYS = 2**15
"""Number of keys that are not negative."""


def encode(sae: SAE, screen: Screen, workspace: Workspace) -> Code | None:
    """The code of a screened batch, or nothing if it is not sparse; in training a batch's threshold is updated.

    Raises:
        TypeError: If no compiled code is declared to compute what this SAE does.
    """
    match sae.kernel:
        case Kernel.TOP_OF_ROW:
            return _topk(sae, screen, workspace)
        case Kernel.TOP_OF_BATCH if sae.training:
            return _batch_topk(sae, screen, workspace)
        case Kernel.TOP_OF_BATCH:
            return _thresholded(torch.zeros_like(sae.b_enc) + sae.threshold.clamp_min(0.0), screen, workspace)
        case Kernel.ABOVE_THRESHOLD:
            reach = sae.bandwidth / 2 if sae.training else 0.0
            return _thresholded(sae.threshold, screen, workspace, reach=reach)
        case Kernel.POSITIVE:
            return _thresholded(torch.zeros_like(sae.b_enc), screen, workspace)
    raise TypeError(f"No compiled code is declared for {type(sae).__name__}.")


def _topk(sae: SAE, screen: Screen, workspace: Workspace) -> Code:
    batch, k = len(screen.x_BD), sae.k
    starts_B, stops_B = np.arange(0, batch * k, k), np.empty(batch, np.int64)
    features_E = workspace.take("features", batch * k, dtype=torch.int32).numpy()
    values_E = workspace.take("values", batch * k).numpy()
    for first, keys_CN in screen.chunks():
        team.run(
            select_loops.select_topk,
            *(keys_CN, first, screen.x_BD.numpy(), screen.slacks_B, screen.W_ND.numpy(), screen.b_N.numpy(), k),
            *(select_loops.group_size(sae.width, k), stops_B, features_E, values_E),
        )
    return Code(starts_B, stops_B, features_E, values_E)


def _batch_topk(sae: SAE, screen: Screen, workspace: Workspace) -> Code:
    """The B·k largest preactivations of the batch.

    Every chunk raises a lower bound on the least of them: the B·k-th largest so far, each lowered by its slack.
    """
    batch, wanted, grouped = len(screen.x_BD), len(screen.x_BD) * sae.k, select_loops.group_size(sae.width, sae.k)
    counts_PK = workspace.take("counts of keys", team.count_parts(), _KEYS, dtype=torch.int32).zero_().numpy()
    collected = _Collected(batch, workspace)
    lowest_B, no_bounds_N = -screen.slacks_B, np.zeros(sae.width, np.float32)
    for first, keys_CN in screen.chunks():
        team.run(select_loops.count_maxima, keys_CN, first, screen.slacks_B, grouped, counts_PK)
        reached_K = counts_PK.sum(axis=0)[::-1].cumsum()
        key = max(0, _KEYS - 1 - int(np.searchsorted(reached_K, wanted)))
        least = np.array([key << 16], np.uint32).view(np.float32)
        lowest_B = least - screen.slacks_B
        collected.add(keys_CN, first, lowest_B, no_bounds_N)
    code = collected.score(screen, lowest_B, no_bounds_N)
    values_E = code.values_E
    bound, spare = np.float32(0), 0
    if len(values_E) > wanted:
        bound = max(bound, np.partition(values_E, len(values_E) - wanted)[len(values_E) - wanted])
        spare = wanted - int((values_E > bound).sum())
    smallest = values_E[values_E >= bound] if bound > 0 else values_E[values_E > 0]
    select_loops.keep_above(code, bound, spare)
    sae.update_threshold(torch.from_numpy(smallest) if len(smallest) else torch.zeros(1))
    return code


def _thresholded(
    thresholds_N: torch.Tensor, screen: Screen, workspace: Workspace, *, reach: float = 0.0
) -> Code | None:
    """Entries above their threshold, and those within ``reach`` of it."""
    bounds_N = (thresholds_N - reach).numpy()
    collected = _Collected(len(screen.x_BD), workspace)
    for first, keys_CN in screen.chunks():
        collected.add(keys_CN, first, -screen.slacks_B, bounds_N)
        if collected.used > DENSEST * (first + len(keys_CN)) * len(thresholds_N):
            return None
    code = collected.score(screen, -screen.slacks_B, bounds_N)
    code = code._replace(near_E=workspace.take("near", collected.used, dtype=torch.bool).numpy())
    select_loops.keep_open(code, thresholds_N.numpy(), np.float32(reach))
    return code


class _Collected:
    """Entries whose keys reach a bound, chunk by chunk.

    Attributes:
        used: How many there are.
    """

    def __init__(self, batch: int, workspace: Workspace) -> None:
        self.used = 0
        self._workspace = workspace
        self._starts_B, self._stops_B = np.zeros(batch, np.int64), np.zeros(batch, np.int64)

    def add(
        self, keys_CN: NDArray[np.int16], first: int, lowest_B: NDArray[np.float32], bounds_N: NDArray[np.float32]
    ) -> None:
        """Collect the entries of a chunk that may reach lowest + bound."""
        counts_C = np.empty(len(keys_CN), np.int64)
        team.run(select_loops.count_reaching, keys_CN, first, lowest_B, bounds_N, counts_C)
        chunk = slice(first, first + len(keys_CN))
        self._stops_B[chunk] = self.used + counts_C.cumsum()
        self._starts_B[chunk] = self._stops_B[chunk] - counts_C
        used, self.used = self.used, int(self._stops_B[chunk.stop - 1])
        features_E = self._workspace.extend("features", used, self.used, dtype=torch.int32).numpy()
        keys_E = self._workspace.extend("keys of entries", used, self.used, dtype=torch.int16).numpy()
        team.run(select_loops.collect_reaching, keys_CN, first, lowest_B, bounds_N, self._starts_B, features_E, keys_E)

    def score(self, screen: Screen, lowest_B: NDArray[np.float32], bounds_N: NDArray[np.float32]) -> Code:
        """The entries, less those that do not reach a bound that has risen, with their exact preactivations."""
        features_E = self._workspace.take("features", self.used, dtype=torch.int32).numpy()
        keys_E = self._workspace.take("keys of entries", self.used, dtype=torch.int16).numpy()
        values_E = self._workspace.take("values", self.used).numpy()
        team.run(
            select_loops.score_entries,
            *(self._starts_B, self._stops_B, features_E, keys_E, lowest_B, bounds_N),
            *(screen.x_BD.numpy(), screen.W_ND.numpy(), screen.b_N.numpy(), values_E),
        )
        return Code(self._starts_B, self._stops_B, features_E, values_E)
