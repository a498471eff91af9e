"""Seconds and peak memory of what is measured on dictionaries: matching, nearest atoms, de-duplication, connectivity.

    python benchmarks/dictionary.py                               # matchings of 2,048 to 16,384 atoms
    python benchmarks/dictionary.py --atoms 131072 --dimension 2304   # all figures of one dictionary (an hour, 2 cores)

Every point is measured once, in a fresh process, so that its peak memory is its own: all that the process holds, the
dictionaries included. Matchings are compared with SciPy's dense solver up to `DENSE` atoms.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES, DIMENSION, DENSE = (2048, 4096, 8192, 16_384), 768, 8192
KINDS = ("random", "shared", "clustered")
"""Random atoms; the same atoms in another order with noise of many sizes, as retrains are; atoms in 50 clusters."""
TOKENS, ACTIVE = 10_000, 1024
"""What connectivity is measured on: tokens, and features that fire on each, more or less often (Zipf)."""
ROWS = 8192
"""Atoms of a large dictionary that are compared with all of another one."""


def atoms(kind: str, count: int, d: int) -> tuple[Any, Any]:
    """Two dictionaries."""
    import torch

    chance = torch.Generator().manual_seed(0)
    one, other = (torch.randn(count, d, generator=chance) for _ in range(2))
    if kind == "shared":
        noise = 4 * torch.rand(count, 1, generator=chance) ** 2
        other.mul_(noise).add_(one[torch.randperm(count, generator=chance)])
    if kind == "clustered":
        centres = 2 * torch.randn(50, d, generator=chance)
        one += centres[torch.arange(count) % 50]
        other += centres[torch.arange(count) % 43]
    return one, other


def match(kind: str, count: int, d: int) -> dict[str, Any]:
    """Best and one-to-one matches of two dictionaries, by candidates."""
    from sae_core.analysis.similarity import assignment
    from sae_core.analysis.similarity import cosines as similarity

    similarity.largest_assignment = lambda *given: assignment.largest_assignment(*given, dense_cells=0)
    similarity.match_atoms(*atoms("random", 64, 8))  # compiles
    one, other = atoms(kind, count, d)
    seconds, found = timed(lambda: similarity.match_atoms(one, other))
    return {**seconds, "mean": float(found.cosine.double().mean())}


def match_densely(kind: str, count: int, d: int) -> dict[str, Any]:
    """The same with all cosines in SciPy's solver."""
    import torch
    from scipy.optimize import linear_sum_assignment
    from torch.nn.functional import normalize

    one, other = (normalize(part) for part in atoms(kind, count, d))
    seconds, found = timed(lambda: linear_sum_assignment((one @ other.T).numpy(), maximize=True))
    rows, columns = (torch.from_numpy(side) for side in found)
    return {**seconds, "mean": float((one[rows] * other[columns]).sum(dim=1).double().mean())}


def nearest(kind: str, count: int, d: int) -> dict[str, Any]:
    """Nearest atoms and de-duplication of a dictionary in which a quarter of the atoms are near copies of another."""
    import torch

    from sae_core.analysis.atoms.dictionary import deduplicated
    from sae_core.analysis.similarity.cosines import nearest_in

    some = torch.randn(count, d, generator=torch.Generator().manual_seed(0))
    some[-(count // 4) :].mul_(0.5).add_(some[: count // 4])
    seconds, cosine = timed(lambda: nearest_in(some))
    again, kept = timed(lambda: deduplicated(some, nearest_N=cosine))
    return {**seconds, "deduplicate": again["seconds"], "diverse": int((cosine < 0.7).sum()), "kept": kept}


def rows(kind: str, count: int, d: int) -> dict[str, Any]:
    """Best matches of some atoms of one dictionary with all of another; all of them take as much memory."""
    from sae_core.analysis.similarity.cosines import best_matches

    one, other = atoms("random", count, d)
    seconds, _ = timed(lambda: best_matches(one[:ROWS], other))
    return seconds


def connect(kind: str, count: int, d: int) -> dict[str, Any]:
    """Connectivity of a dictionary."""
    import numpy as np
    from scipy import sparse

    from sae_core.analysis.atoms.dictionary import connectivity

    chance = np.random.default_rng(0)
    features = (count ** chance.random((TOKENS, ACTIVE)) - 1).astype(np.int32)
    pointers = np.arange(TOKENS + 1) * ACTIVE
    firing = sparse.csr_array((np.ones(features.size, bool), features.ravel(), pointers), shape=(TOKENS, count))
    firing.sum_duplicates()
    seconds, value = timed(lambda: connectivity(firing))
    return {**seconds, "connectivity": value}


def timed(do: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """(seconds and, of all threads together, seconds of a core; result)."""
    began, worked = time.perf_counter(), time.process_time()
    result = do()
    passed = {"seconds": time.perf_counter() - began, "core_seconds": time.process_time() - worked}
    return {name: round(value, 2) for name, value in passed.items()}, result


MEASURES = {measure.__name__: measure for measure in (match, match_densely, nearest, rows, connect)}


def measured(measure: str, kind: str, count: int, d: int) -> dict[str, Any]:
    """One point, in a process of its own."""
    command = [sys.executable, __file__, "--worker", json.dumps([measure, kind, count, d])]
    answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    row = {"measure": measure, "kind": kind, "atoms": count, "dimension": d, **answer}
    print(row, file=sys.stderr, flush=True)
    return row


def work(measure: str, kind: str, count: int, d: int) -> dict[str, Any]:
    """Be one point."""
    answer = MEASURES[measure](kind, count, d)
    # Linux counts in KiB.
    return {**answer, "megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)}


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--atoms", type=int, help="Measure all figures of a dictionary of so many atoms instead.")
    parser.add_argument("--dimension", type=int, default=DIMENSION, help="Dimension of the atoms.")
    parser.add_argument("--json", type=Path, help="Where the points go.")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(*json.loads(options.worker))))
        return
    if options.atoms:
        points = [measured(name, "random", options.atoms, options.dimension) for name in ("nearest", "rows", "connect")]
    else:
        points = [measured("match", kind, count, options.dimension) for kind in KINDS for count in SIZES]
        points += [measured("match_densely", kind, n, options.dimension) for kind in KINDS for n in SIZES if n <= DENSE]
    if options.json:
        options.json.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
