"""Vibration of machines with faults: SAEs on windows of a sensor's series, browsed as stretches of the series.

python examples/vibration.py runs/vibration

Twelve machines are simulated. Each turns at its own speed, and its sensor hears the shaft, a gear and noise. A worn
outer race gives short knocks that ring at 3.2 kHz; an imbalance makes the shaft louder; a loose mount adds its half
speed. Faults come and go. A row of the array is the logarithmic spectrum of one window of 256 samples at 10 kHz; the
table has the machine, the time, the window itself and what was wrong. SAEs see none of these but the spectrum.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings
from sae_core.runs.pipeline import run_everything

RATE, WINDOW = 10_000, 256
FAULTS = ("none", "outer race", "imbalance", "loose mount")
SETTINGS = {
    "sae.width": 96,
    "sae.k": 6,
    "sae.dead_after_tokens": 20_000,
    "training.members": 3,
    "training.tokens": 100_000,
    "training.batch_size": 128,
    "training.learning_rate": 3e-3,
    "training.methods": ["single", "bagged", "boosted"],
}


def simulate(machine: int, windows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The series of one machine [windows, WINDOW] and the fault in each window [windows]."""
    chance = np.random.default_rng(machine)
    time = np.arange(windows * WINDOW) / RATE
    turns = chance.uniform(24, 31)  # a second
    phase = 2 * np.pi * turns * time + 0.3 * np.cumsum(chance.normal(0, 0.02, len(time)))
    fault = np.repeat(chance.choice(len(FAULTS), -(-windows // 24), p=[0.4, 0.2, 0.2, 0.2]), 24)[:windows]
    there = [np.repeat(fault == number, WINDOW) for number in range(len(FAULTS))]
    shaft = np.where(there[2], 2.2, 0.7) * np.sin(phase)
    gear = 0.35 * np.sin(17 * phase) + 0.15 * np.sin(34 * phase)
    loose = there[3] * (0.9 * np.sin(phase / 2) + 0.4 * np.sin(1.5 * phase))
    knocks = np.zeros(len(time))
    knocks[(np.diff(np.floor(3.58 * phase / (2 * np.pi)), prepend=0) > 0) & there[1]] = 1
    ringing = np.exp(-np.arange(60) / 14) * np.sin(2 * np.pi * 3200 * np.arange(60) / RATE)
    heard = shaft + gear + loose + 2.5 * np.convolve(knocks, ringing)[: len(time)] + chance.normal(0, 0.25, len(time))
    return heard.reshape(windows, WINDOW).astype(np.float32), fault


def write_data(folder: Path, *, machines: int = 12, windows: int = 240) -> None:
    """Write acts.npy and rows.parquet."""
    series, faults = zip(*(simulate(machine, windows) for machine in range(machines)), strict=True)
    every = np.concatenate(series)
    spectrum = np.abs(np.fft.rfft(every * np.hanning(WINDOW), axis=1))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "acts.npy", np.log1p(spectrum).astype(np.float32))
    table = pa.table(
        {
            "machine": np.repeat([f"M{machine:02d}" for machine in range(machines)], windows),
            "time": np.tile(np.arange(windows) * WINDOW / RATE, machines),
            "vibration": list(every),
            "fault": np.array(FAULTS)[np.concatenate(faults)],
        }
    )
    pq.write_table(table, folder / "rows.parquet")


def main(path: Path, *, windows: int = 240, **settings: object) -> Run:
    """Make the data beside the run, and the run with everything that the dashboard shows."""
    data = path.with_name(f"{path.name}-data")
    write_data(data, windows=windows)
    origin = {
        "origin.kind": "arrays",
        "origin.files": [str(data / "acts.npy")],
        "origin.rows": str(data / "rows.parquet"),
        "origin.group": "machine",
        "origin.signal": "vibration",
    }
    run = Run.create(path, load_settings(overrides={**SETTINGS, **origin, **settings}))
    run_everything(run)
    return run


if __name__ == "__main__":
    run = main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/vibration"))
    suggested = pd.read_parquet(run.ensemble("bagged").suggestions)
    # How well the suggested label foretells where the feature fires, on rows that did not choose it.
    suggested["F1"] = 2 / (1 / suggested["precision"] + 1 / suggested["recall"])
    suggested = suggested.sort_values("F1", ascending=False)
    shown = suggested[~suggested["suggestion"].str.contains("none") & (suggested["suggestion"] != "")]
    print(shown[["feature", "suggestion", "precision", "recall", "F1"]].head(10).to_string(index=False))
    print(f"To look at it: sae-ensemble dashboard {run.path}")
