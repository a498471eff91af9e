"""Store a detector's result on the test texts compactly: its ROC curve, and the texts it classified correctly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

POINTS = 50
"""Largest number of points to keep of a ROC curve."""
COLUMNS = ("roc_false_positive_rate", "roc_detection_rate", "right")
"""The columns that `details` returns."""
UNITS = "units"
"""A further column: the number of each test text's module or document, int64 as bytes."""
KEY = ("task", "concept", "method", "m", "variant")
"""The columns that identify a detector."""


def details(decision: Floats, positive: Bools) -> dict[str, list[float] | bytes]:
    """Return the `COLUMNS` of one detector.

    Args:
        decision: Decision values of the test texts; > 0 means positive.
        positive: Whether each text is positive.
    """
    false, found = roc_points(decision, positive)
    rates = ([round(float(rate), 5) for rate in rates] for rates in (false, found))
    return dict(zip(COLUMNS, (*rates, pack((decision > 0) == positive)), strict=True))


def roc_points(decision: Floats, positive: Bools, *, limit: int = POINTS) -> tuple[Floats, Floats]:
    """A ROC curve (scikit-learn's) as (false-positive rates, detection rates), both ascending from 0 to 1.

    Points on a straight line between their neighbours are left out. If more than ``limit`` points remain, the points
    that lie most evenly along the curve are kept. Every point is one of the curve's; none is interpolated.

    Args:
        decision: Decision values of the texts; a higher value means more likely positive.
        positive: Whether each text is positive; both kinds must occur.
        limit: Largest number of points to keep, at least two.
    """
    from sklearn.metrics import roc_curve  # imported here, so that reading curves does not wait for scikit-learn

    false, found, _ = roc_curve(positive, decision, drop_intermediate=True)
    if len(false) > limit:
        # The position of each point along the curve; both rates rise from 0 to 1.
        along = false + found
        near = np.searchsorted(along, np.linspace(0.0, 2.0, limit)[1:-1])
        kept = np.unique([0, *near, len(along) - 1])
        false, found = false[kept], found[kept]
    return false, found


def pack(right: Bools) -> bytes:
    """Pack whether each text is classified correctly: the number of texts (4 bytes, little-endian), then bits."""
    return len(right).to_bytes(4, "little") + np.packbits(right).tobytes()


def unpack(packed: bytes) -> Bools:
    """The inverse of `pack`."""
    count = int.from_bytes(packed[:4], "little")
    bits: Bools = np.unpackbits(np.frombuffer(packed, dtype=np.uint8, offset=4), count=count).astype(np.bool_)
    return bits
