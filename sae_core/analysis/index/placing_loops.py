"""The loop that sorts entries by feature. The tests have a plain twin in numpy.

Each part writes only the entries of its own features, in the order of the entries, so the result depends neither on the
number of threads nor on their order.
"""

from __future__ import annotations

from numba.core.types import Array, float32, int32, int64, void

from sae_core.training.kernels.cpu.compiled import loop

_NUMBERS, _VALUES = (Array(kind, 1, "C", readonly=True) for kind in (int32, float32))


@loop(
    void(int64, int64, int64[::1], _NUMBERS, _NUMBERS, _VALUES, int64[::1], int32[::1], float32[::1]),
)
def place_entries(
    part, parts, bounds_P, features_E, positions_E, values_E, next_F, sorted_positions_E, sorted_values_E
):
    """Write each entry to the next place of its feature; part p has the features bounds[p] to bounds[p + 1]."""
    first, end = bounds_P[part], bounds_P[part + 1]
    for entry in range(len(features_E)):
        feature = features_E[entry]
        if first <= feature < end:
            place = next_F[feature]
            next_F[feature] = place + 1
            sorted_positions_E[place], sorted_values_E[place] = positions_E[entry], values_E[entry]
