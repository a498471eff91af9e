"""A table of six features of two members, small enough to say by hand which ones a filter leaves."""

from __future__ import annotations

import numpy as np
import pandas as pd


def six_features() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "feature": range(6),
            "member": [0, 0, 0, 1, 1, 1],
            "density": [0.2, 0.01, 0.0, 0.05, 0.01, 0.0001],
            "dead": [False, False, True, False, False, False],
            "stability": [1.0, 0.0, 0.0, 1.0, 0.5, np.nan],
            "peak": [1.0, 5.0, 0.0, 2.0, 3.0, 4.0],
            "family_size": [2, 1, 1, 3, 1, 1],
            "cluster": [0, 0, -1, 1, 1, -1],
            "top_token": [" the", " array", "", " The", "[", " shape"],
            "label": ["", "of arrays", "", "article", "", ""],
            "note": ["", "of numpy", "", "", "", ""],
        }
    )
