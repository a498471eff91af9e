"""Label features of a run and write the labels as CSV: python examples/labels_to_csv.py [RUN]"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from features_of_a_run import make_run

import sae_core as sc


def main(run: sc.Run) -> None:
    """Give the five most frequent features the first words of their strongest example as labels."""
    ensemble = run["bagged"]
    for number in ensemble.features.nlargest(5, "count")["feature"]:
        feature = ensemble.feature(int(number))
        if not feature.label:
            words = feature.examples(1).texts()[0].split()
            feature.label = " ".join(words[:5])
            feature.note = f"fires on {feature.density:.1%} of the rows"
    print(run.labels_csv())


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        main(sc.Run.open(sys.argv[1]) if sys.argv[1:] else make_run(Path(made)))
