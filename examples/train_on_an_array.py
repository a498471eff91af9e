"""Train an ensemble on an array, save it, load it and encode with it: python examples/train_on_an_array.py"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import sae_core as sc


def sparse_rows(rows: int, *, dimension: int = 32, atoms: int = 96, active: int = 4) -> np.ndarray:
    """Rows that are sums of a few of 96 directions, as the activations of a model are thought to be."""
    chance = np.random.default_rng(0)
    dictionary = chance.standard_normal((atoms, dimension)) / dimension**0.5
    coefs = chance.random((rows, atoms)) * (chance.random((rows, atoms)) < active / atoms)
    return (coefs @ dictionary).astype(np.float32)


def main() -> None:
    """Train on nine tenths of the rows, and measure on the others."""
    acts = sparse_rows(10_000)
    ensemble = sc.train(acts[:9000], method="bagged", members=3, width=128, k=4, tokens=60_000, batch_size=256)
    print(sc.evaluate(ensemble, acts[9000:]))
    with TemporaryDirectory() as folder:
        again = sc.load(ensemble.save(Path(folder) / "my-ensemble"))
    codes = again.encode(acts[9000:])
    print(f"{tuple(codes.shape)} codes, {int((codes != 0).sum()) / len(codes):.1f} features a row")


if __name__ == "__main__":
    main()
