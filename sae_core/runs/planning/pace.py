"""How fast this machine runs loops: by one that counts features on the same tokens, on one thread and on all.

Stages after training are counted in units whose seconds are constants, those of one core of an AMD EPYC with
AVX512-BF16 beside other programs. Another machine, or the same when it is less busy, is taken to need for all of them
longer or shorter by one factor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import config

from sae_core.analysis.index import together_loops
from sae_core.training.kernels.cpu import team

REFERENCE = 0.152
"""Seconds of the loop where the constants were measured."""
_TOKENS, _ACTIVE, _FEATURES = 2**16, 16, 2048
COMPILED = {
    "tokens": ("sae_core.analysis.index", "by_token_loops", 0.6),
    "families": ("sae_core.analysis.similarity", "firing_loops", 2.0),
    "map": ("pynndescent", "*", 28.0),
    "suggest": ("sae_core.analysis.suggestions", "suggest_loops", 5.0),
}
"""Package, module and seconds of what a stage has to compile the first time in an environment; UMAP is most of it, and
the loop that is measured here is compiled by then."""


class Pace(NamedTuple):
    """How many times longer than where constants were measured loops take.

    Attributes:
        one: On one thread.
        all: On all threads that torch uses, for the same work.
    """

    one: float
    all: float


AS_MEASURED = Pace(1.0, 1.0)
"""That of the machine where the constants were measured."""


def mean_pace(found: Sequence[Pace]) -> Pace:
    """The mean of several, as what else a machine does comes and goes."""
    return Pace(*(sum(column) / len(found) for column in zip(*found, strict=True)))


def measure_pace() -> Pace:
    """Count which of 2,048 random features fire together on 65,536 tokens."""
    features_E = np.random.default_rng(0).integers(0, _FEATURES, _TOKENS * _ACTIVE, dtype=np.int32)
    positions_E = np.argsort(features_E, kind="stable").astype(np.int32) // _ACTIVE
    pointers_F = np.concatenate([[0], np.cumsum(np.bincount(features_E, minlength=_FEATURES))]).astype(np.int64)
    pointers_T = np.arange(0, _TOKENS * _ACTIVE + 1, _ACTIVE, dtype=np.int64)
    for array in (features_E, positions_E, pointers_F, pointers_T):
        array.flags.writeable = False

    def count(run: Callable[..., None], parts: int) -> float:
        counts_PF, seen_PF = (np.zeros((parts, _FEATURES), np.int32) for _ in range(2))
        best_BK, together_BK = np.full((_FEATURES, 1), -1, np.int32), np.zeros((_FEATURES, 1), np.int32)
        began = time.perf_counter()
        run(0, pointers_F, positions_E, pointers_T, features_E, counts_PF, seen_PF, best_BK, together_BK)
        return time.perf_counter() - began

    def alone(*arguments: object) -> None:
        together_loops.find_companions(0, 1, *arguments)

    def together(*arguments: object) -> None:
        team.run(together_loops.find_companions, *arguments)

    _ = together_loops.find_companions.compiled
    count(alone, 1)  # fills the caches
    one = count(alone, 1)
    parts = team.count_parts()
    every = count(together, parts) if parts > 1 else one
    return Pace(one / REFERENCE, every / REFERENCE)


def seconds_to_compile() -> dict[str, float]:
    """Seconds by stage for what has not been compiled yet, or was not kept, in this environment."""
    return {stage: seconds for stage, (package, module, seconds) in COMPILED.items() if not _is_kept(package, module)}


def _is_kept(package: str, module: str) -> bool:
    """Whether Numba has kept something of a module of a package."""
    spec, pattern = find_spec(package), f"{module}.*.nbi"
    if spec is None or spec.origin is None:
        return False
    if config.CACHE_DIR:
        return any(Path(config.CACHE_DIR).glob(f"{package.split('.')[-1]}_*/{pattern}"))
    return any((Path(spec.origin).parent / "__pycache__").glob(pattern))
