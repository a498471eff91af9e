"""Measure how time and memory of a training step and of the index grow with members J, features n and tokens.

Every point is measured in a fresh process, so that its peak memory is its own; seconds are medians.

    python benchmarks/growth.py --json benchmarks/growth.json --plot benchmarks/growth.svg
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainers import Case, ours
from training_step import resident_bytes

BATCH, D_IN, K = 2048, 192, 16
BASE = {"members": 1, "width": 2048, "tokens": 16_384}
GROWING: dict[tuple[str, str], tuple[int, ...]] = {
    ("step", "members"): (1, 2, 4, 8),
    ("step", "width"): (1024, 2048, 4096, 8192, 16_384),
    ("index", "members"): (1, 2, 4, 8),
    ("index", "width"): (1024, 2048, 4096, 8192, 16_384),
    ("index", "tokens"): (8192, 16_384, 32_768, 65_536),
}
"""What is measured, what grows, and through which values; everything else stays at its base."""
REPEATS = {"step": 5, "index": 1}
ROUNDS = 3
"""How often all points are measured, one after another; a point is the median of its rounds."""


def step(members: int, width: int, tokens: int) -> Callable[[], Any]:
    """One training step of every member on a batch."""
    import torch

    x_BD = torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(0))
    train = ours(Case("cpu", BATCH, D_IN, width, K), members, kernels="auto")
    return lambda: train(x_BD)


def index(members: int, width: int, tokens: int) -> Callable[[], Any]:
    """The index of an ensemble; the activations are made as they are read, so that they take no memory."""
    import torch

    from sae_core.analysis.index.activation_index import build_index
    from sae_core.ensembles.ensemble import Ensemble
    from sae_core.sae import TopKSAE

    acts_BD = torch.randn(8192, D_IN, generator=torch.Generator().manual_seed(0))
    saes = [TopKSAE(D_IN, width, k=K, seed=seed).eval() for seed in range(members)]
    ensemble = Ensemble(saes, wiring="parallel").eval()
    folder = tempfile.TemporaryDirectory()

    def build() -> None:
        read = lambda start, stop: acts_BD.roll(start, dims=1)[: stop - start]  # noqa: E731
        build_index(ensemble, read, tokens, Path(folder.name) / "index")

    return build


def work(kind: str, size: dict[str, int]) -> dict[str, float]:
    """Be one point: median seconds, and the memory above what the process had before it made anything."""
    make = {"step": step, "index": index}[kind]
    make(members=1, width=64, tokens=100)()  # imports and compiles
    before = resident_bytes()
    do, seconds = make(**size), []
    do()
    for _ in range(REPEATS[kind]):
        began = time.perf_counter()
        do()
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {"seconds": statistics.median(seconds), "megabytes": peak / 1e6}


def measure() -> list[dict[str, Any]]:
    """All points; one that lies on several lines is measured once a round."""
    points = [
        {"kind": kind, "growing": growing, **BASE, growing: value}
        for (kind, growing), values in GROWING.items()
        for value in values
    ]
    keys = [json.dumps([point["kind"], {name: point[name] for name in BASE}]) for point in points]
    seen: dict[str, list[dict[str, float]]] = {key: [] for key in keys}
    for _ in range(ROUNDS):
        for key, answers in seen.items():
            command = [sys.executable, __file__, "--worker", key]
            answers.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    return [
        {**point, **{name: statistics.median(answer[name] for answer in seen[key]) for name in COLORS}}
        for point, key in zip(points, keys, strict=True)
    ]


PANEL, GAP, MARGIN = 170, 62, 56
COLORS = {"seconds": "#1f5fa8", "megabytes": "#b3541e"}


def plot(rows: list[dict[str, Any]]) -> str:
    """The points as an SVG: a column for each line of `GROWING`, seconds above, megabytes below, all logarithmic."""
    width, height = MARGIN + len(GROWING) * (PANEL + GAP), 2 * MARGIN + 2 * PANEL + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"'
        f' font-size="11"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for column, (kind, growing) in enumerate(GROWING):
        line = [row for row in rows if (row["kind"], row["growing"]) == (kind, growing)]
        left = MARGIN + column * (PANEL + GAP)
        parts.append(f'<text x="{left}" y="{MARGIN - 14}" font-weight="bold">{kind} by {growing}</text>')
        for number, unit in enumerate(COLORS):
            top = MARGIN + number * (PANEL + GAP)
            parts.append(panel([row[growing] for row in line], [row[unit] for row in line], unit, left, top))
    return "\n".join([*parts, "</svg>\n"])


def panel(xs: list[float], ys: list[float], unit: str, left: int, top: int) -> str:
    """One panel with its axes; the dashed line is what grows in proportion, from the first point on."""
    bounds = [(min(values) / 1.3, max(values) * 1.3) for values in (xs, [*ys, ys[0] * xs[-1] / xs[0]])]

    def place(x: float, y: float) -> tuple[float, float]:
        shares = (math.log(v / low) / math.log(high / low) for v, (low, high) in zip((x, y), bounds, strict=True))
        across, up = shares
        return left + PANEL * across, top + PANEL * (1 - up)

    points = [place(x, y) for x, y in zip(xs, ys, strict=True)]
    (x0, y0), (x1, y1) = points[0], place(xs[-1], ys[0] * xs[-1] / xs[0])
    color = COLORS[unit]
    parts = [
        f'<rect x="{left}" y="{top}" width="{PANEL}" height="{PANEL}" fill="none" stroke="#999"/>',
        f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="#999" stroke-dasharray="4 3"/>',
        f'<polyline fill="none" stroke="{color}" stroke-width="2" points="'
        + " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        + '"/>',
        f'<text x="{left + 4}" y="{top + 13}" fill="{color}">{unit}</text>',
    ]
    for (x, y), value, figure in zip(points, xs, ys, strict=True):
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>',
            f'<text x="{x:.1f}" y="{y - 7:.1f}" text-anchor="middle" fill="{color}">{figure:.3g}</text>',
            f'<text x="{x:.1f}" y="{top + PANEL + 14}" text-anchor="middle">{short(value)}</text>',
        ]
    return "\n".join(parts)


def short(value: float) -> str:
    """16384 as 16k."""
    return f"{value // 1024:g}k" if value >= 1024 else f"{value:g}"


def main() -> None:
    """Read the options, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, default=Path("growth.json"), help="Where the points go.")
    parser.add_argument("--plot", type=Path, default=Path("growth.svg"), help="Where the plot goes.")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(*json.loads(options.worker))))
        return
    rows = measure()
    for row in rows:
        size = f"{row['growing']} {row[row['growing']]}"
        print(f"{row['kind']:<6} {size}: {row['seconds']:.3f} s, {row['megabytes']:.0f} MB")
    options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    options.plot.write_text(plot(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
