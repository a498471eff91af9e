"""Members are SAELens folders, and SAELens folders become members: python examples/exchange_with_saelens.py"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors import safe_open

import sae_core as sc


def main(folder: Path) -> None:
    """Train two SAEs apart, and join them to an ensemble from what lies on disk."""
    acts = np.random.default_rng(0).laplace(size=(5000, 16)).astype(np.float32)
    options = {"method": "single", "width": 64, "k": 4, "tokens": 20_000, "batch_size": 200, "progress": False}
    for seed in range(2):
        sc.train(acts[:4000], seed=seed, **options).save(folder / f"seed_{seed}")
    member = folder / "seed_0" / "member_00"  # sae_lens.SAE.load_from_disk(member) opens it
    with safe_open(member / "sae_weights.safetensors", "numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    print(json.loads((member / "cfg.json").read_text())["architecture"], shapes)
    # Any folder in SAELens' format is read as an ensemble of one.
    saes = [sae for seed in range(2) for sae in sc.load(folder / f"seed_{seed}" / "member_00").saes()]
    joined = sc.Ensemble(saes, wiring="parallel")
    for name, ensemble in (("one", sc.Ensemble(saes[:1], wiring="parallel")), ("both", joined)):
        print(f"{name:5}{sc.evaluate(ensemble.eval(), acts[4000:], progress=False).explained_variance:.3f}")


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        main(Path(made))
