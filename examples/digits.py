"""Handwritten digits: SAEs on the hidden layer of a small network, browsed as images.

python examples/digits.py runs/digits

The digits come with scikit-learn. A network of one hidden layer learns to tell them apart; its hidden activations are
the rows of an array, the images lie in a folder, and a table names image and digit of each row.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings
from sae_core.runs.pipeline import run_everything

SETTINGS = {
    "sae.width": 128,
    "sae.k": 8,
    "sae.dead_after_tokens": 10_000,
    "training.members": 3,
    "training.tokens": 60_000,
    "training.batch_size": 128,
    "training.learning_rate": 3e-3,
    "training.methods": ["single", "bagged", "boosted"],
}


def write_data(folder: Path) -> None:
    """Write acts.npy, rows.csv and the images."""
    digits = load_digits()
    network = MLPClassifier((64,), max_iter=60, random_state=0).fit(digits.data, digits.target)
    hidden = np.maximum(digits.data @ network.coefs_[0] + network.intercepts_[0], 0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    np.save(folder / "acts.npy", hidden.astype(np.float32))
    names = [f"{number:04d}.png" for number in range(len(digits.images))]
    for name, image in zip(names, digits.images, strict=True):
        Image.fromarray((255 - image * 255 / 16).astype(np.uint8)).resize((64, 64)).save(folder / "images" / name)
    pd.DataFrame({"image": names, "digit": digits.target}).to_csv(folder / "rows.csv", index=False)


def main(path: Path, **settings: object) -> Run:
    """Make the data beside the run, and the run with everything that the dashboard shows."""
    data = path.with_name(f"{path.name}-data")
    write_data(data)
    origin = {
        "origin.kind": "arrays",
        "origin.files": [str(data / "acts.npy")],
        "origin.rows": str(data / "rows.csv"),
        "origin.images": str(data / "images"),
    }
    run = Run.create(path, load_settings(overrides={**SETTINGS, **origin, **settings}))
    run_everything(run)
    return run


if __name__ == "__main__":
    run = main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/digits"))
    suggested = pd.read_parquet(run.ensemble("bagged").suggestions)
    # How well the suggested label foretells where the feature fires, on rows that did not choose it.
    suggested["F1"] = 2 / (1 / suggested["precision"] + 1 / suggested["recall"])
    suggested = suggested.sort_values("F1", ascending=False)
    print(suggested[["feature", "suggestion", "precision", "recall", "F1"]].head(10).to_string(index=False))
    print(f"To look at it: sae-ensemble dashboard {run.path}")
