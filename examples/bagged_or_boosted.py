"""Compare bagging with boosting and with one SAE on handwritten digits: python examples/bagged_or_boosted.py"""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import sae_core as sc


def main() -> None:
    """Train three ensembles on pixels, and let their features tell the digits."""
    pixels, digits = load_digits(return_X_y=True)
    train, held_out, _, labels = train_test_split(pixels, digits, test_size=0.4, random_state=0, stratify=digits)
    settings = {"members": 4, "width": 64, "k": 4, "tokens": 50_000, "batch_size": 128, "learning_rate": 3e-3}
    print(f"{'':12}explained  per dim.     L0   dead  accuracy with 5 features")
    for method in ("single", "bagged", "boosted"):
        ensemble = sc.train(train, method=method, progress=False, **settings)
        found = sc.evaluate(ensemble, held_out, labels=labels, progress=False)
        low, high = found.detection_interval or (float("nan"), float("nan"))
        print(
            f"{method:12}{found.explained_variance:9.3f} {found.explained_variance_per_dimension:9.3f} {found.l0:6.1f} "
            f"{found.dead_share:6.1%}  {found.detection_accuracy:.3f} ({low:.3f} to {high:.3f})"
        )
    best = found.detection.query("m == 1").nlargest(3, "accuracy")
    print(
        "Boosted features that tell a digit best:",
        best[["label", "features", "accuracy"]].to_string(index=False),
        sep="\n",
    )


if __name__ == "__main__":
    main()
