"""What a detector did on the test texts, compactly: its ROC curve, and which texts it called rightly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

POINTS = 50
"""Points that are kept of a ROC curve, at most."""
COLUMNS = ("roc_false_positive_rate", "roc_detection_rate", "right")
"""What `details` gives of a detector."""
UNITS = "units"
"""Beside them: the numbers of the modules or documents that the test texts belong to, int64 as bytes."""
KEY = ("task", "concept", "method", "m", "variant")
"""What names a detector."""


def details(decision: Floats, positive: Bools) -> dict[str, list[float] | bytes]:
    """The `COLUMNS` of one detector.

    Args:
        decision: Decision values of the test texts; > 0 means positive.
        positive: Which of them are positive.
    """
    false, found = roc_points(decision, positive)
    rates = ([round(float(rate), 5) for rate in rates] for rates in (false, found))
    return dict(zip(COLUMNS, (*rates, pack((decision > 0) == positive)), strict=True))


def roc_points(decision: Floats, positive: Bools, *, limit: int = POINTS) -> tuple[Floats, Floats]:
    """A ROC curve (scikit-learn's) as (false-positive rates, detection rates), both ascending from 0 to 1.

    Points on a straight line between their neighbours are left out. Of what remains above ``limit`` those are kept that
    lie most evenly along the curve, so that every point is one of the curve's and nothing is interpolated.

    Args:
        decision: Decision values of the texts; higher means rather positive.
        positive: Which of them are positive; both kinds must occur.
        limit: How many points to keep at most, two or more.
    """
    from sklearn.metrics import roc_curve  # here, as who only reads curves is not to wait for it

    false, found, _ = roc_curve(positive, decision, drop_intermediate=True)
    if len(false) > limit:
        # How far along the curve each point lies; both rates rise from 0 to 1.
        along = false + found
        near = np.searchsorted(along, np.linspace(0.0, 2.0, limit)[1:-1])
        kept = np.unique([0, *near, len(along) - 1])
        false, found = false[kept], found[kept]
    return false, found


def pack(right: Bools) -> bytes:
    """Which texts were called rightly, a bit each, behind the number of texts (4 bytes, little-endian)."""
    return len(right).to_bytes(4, "little") + np.packbits(right).tobytes()


def unpack(packed: bytes) -> Bools:
    """The inverse of `pack`."""
    count = int.from_bytes(packed[:4], "little")
    bits: Bools = np.unpackbits(np.frombuffer(packed, dtype=np.uint8, offset=4), count=count).astype(np.bool_)
    return bits
