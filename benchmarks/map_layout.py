"""The atom map's computation, step by step: neighbours, layout and clusters of a synthetic dictionary.

    OMP_NUM_THREADS=2 python benchmarks/map_layout.py --members 8 --width 16384 --d 768 --json layout.json

Members share three fifths of their directions, with noise. Neighbours are timed on some blocks of rows and multiplied,
as all blocks cost the same; layout and clusters are computed in full. CPU seconds are those of all threads, and mean
more than wall seconds on a machine that does something else beside.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from sae_core.analysis.atoms import atom_map


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--width", type=int, default=16384)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--blocks", type=int, default=4, help="blocks of rows whose neighbours are timed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    atoms_MD = dictionary(options.members, options.width, options.d)
    count = len(atoms_MD)
    found: dict[str, Any] = {"atoms": count, "d": options.d, "threads": torch.get_num_threads()}

    rows = atom_map.rows_at_a_time(count)
    blocks = min(options.blocks, -(-count // rows))
    part = timed(lambda: atom_map.nearest(atoms_MD, atom_map.NEIGHBORS, first=0, last=blocks * rows))
    times = count / min(count, blocks * rows)
    found["neighbours"] = {key: round(times * value, 1) for key, value in part.items()}
    # Layout and clusters do not depend on which neighbours they are given as long as they are near each other.
    places, distances = near_in_order(atoms_MD)
    xy: list[np.ndarray] = []
    found["layout"] = timed(lambda: xy.append(atom_map.lay_out(atoms_MD, places, distances, seed=0)))
    found["clusters"] = timed(lambda: atom_map.cluster_map(xy[0]))
    found["memory GB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    for name, value in found.items():
        print(name, value)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


def dictionary(members: int, width: int, d: int) -> torch.Tensor:
    """Unit atoms [members · width, d]."""
    generator = torch.Generator().manual_seed(0)
    shared = 3 * width // 5
    common = torch.randn(shared, d, generator=generator)
    parts = []
    for _ in range(members):
        own = torch.randn(width - shared, d, generator=generator)
        parts.append(torch.cat([common + 0.7 * torch.randn(shared, d, generator=generator), own]))
    return normalize(torch.cat(parts))


def near_in_order(atoms_MD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Neighbours along one direction: each atom's number first, and cosine distances, ascending."""
    order_M = atoms_MD[:, 0].argsort()
    count, k = len(order_M), atom_map.NEIGHBORS
    offsets = [0, *(sign * step for step in range(1, k) for sign in (1, -1))][:k]
    places = torch.stack([order_M.roll(-offset) for offset in offsets], dim=1)
    places_MK = torch.empty_like(places)
    places_MK[order_M] = places
    cosine_MK = torch.stack([(atoms_MD * atoms_MD[places_MK[:, j]]).sum(dim=1) for j in range(k)], dim=1)
    cosine_MK[:, 0] = 1
    ascending = (1 - cosine_MK).sort(dim=1, stable=True)
    assert len(places_MK) == count
    return places_MK.gather(1, ascending.indices), ascending.values.clamp_min(0)


def timed(job: Callable[[], Any]) -> dict[str, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return {"wall s": round(time.perf_counter() - wall, 1), "CPU s": round(time.process_time() - cpu, 1)}


if __name__ == "__main__":
    main()
