"""What the page of pinned features shows of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboard.shared.reads.tables import corpus, index
from sae_core.analysis.index.examples import Example, histogram, top_examples
from sae_core.foundation.run import Run

EXAMPLES, WINDOW = 5, 8
"""Examples of a feature, and tokens on either side of their peaks: columns are narrow."""


@dataclass(frozen=True, slots=True)
class PinView:
    """A feature in brief.

    Attributes:
        top: Where it fires most.
        edges: Bin edges of its histogram.
        counts: Tokens in each bin.
        peak: Its largest activation.
    """

    top: Sequence[Example]
    edges: Sequence[float]
    counts: Sequence[int]
    peak: float


def pin_view(run: Run, ensemble: str, feature: int) -> PinView | None:
    """A feature in brief; None where there is no index or no corpus."""
    entries, text = index(run, ensemble), corpus(run)
    if entries is None or text is None:
        return None
    _, values = entries.feature(feature)
    edges, counts = histogram(values)
    top = top_examples(entries, text, feature, count=EXAMPLES, window=WINDOW)
    return PinView(top, edges.tolist(), counts.tolist(), float(values.max(initial=0.0)))
