"""Make a small run on rows with texts, and look at its features: python examples/features_of_a_run.py [RUN]"""

import sys
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

import sae_core as sc

SMALL = {"origin.kind": "arrays", "sae.width": 64, "sae.k": 4, "training.methods": ["bagged"], "training.members": 2}


def make_run(folder: Path) -> sc.Run:
    """A run on paragraphs of Python's manual, each as 32 numbers that stand for its words."""
    paragraphs = [(topic, part) for topic, text in topics.items() for part in text.split("\n\n") if len(part) > 80]
    rows = pd.DataFrame(paragraphs, columns=["group", "text"])
    counts = TfidfVectorizer(min_df=3).fit_transform(rows["text"])
    np.save(folder / "acts.npy", TruncatedSVD(32, random_state=0).fit_transform(counts).astype(np.float32))
    rows.to_csv(folder / "rows.csv", index=False)
    files = {"origin.files": [str(folder / "acts.npy")], "origin.rows": str(folder / "rows.csv")}
    run = sc.Run.create(folder / "run", sc.load_settings(overrides={**SMALL, **files, "training.tokens": 40_000}))
    run.train(progress=False)
    run.prepare(progress=False)
    return run


def main(run: sc.Run) -> None:
    """Show the feature that fires most often, and what the other member has of it."""
    feature = run["bagged"].feature(int(run["bagged"].features["count"].idxmax()))
    print(feature, feature.suggestion, feature.examples(3), feature.matches(), feature.together(3), sep="\n")


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        main(sc.Run.open(sys.argv[1]) if sys.argv[1:] else make_run(Path(made)))
