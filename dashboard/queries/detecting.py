"""What the page on concepts reads besides the figures: each detector's ROC curve, and the contexts of its features."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dashboard.queries.cached import optional_table
from dashboard.queries.tables import corpus, index
from sae_core.browse.examples import Example, top_examples
from sae_core.run import DETECTORS, Run


def detectors(run: Run) -> pd.DataFrame | None:
    """ROC curves, one row a detector; None for runs that were evaluated before they were kept."""
    return optional_table(run.evaluation_table(DETECTORS))


def contexts(run: Run, ensemble: str, feature: int, *, count: int = 3) -> Sequence[Example]:
    """Where in the indexed corpus a feature is strongest; nothing without an index."""
    entries, text = index(run, ensemble), corpus(run)
    if entries is None or text is None:
        return []
    return top_examples(entries, text, feature, count=count)
