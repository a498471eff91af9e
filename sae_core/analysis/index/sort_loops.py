"""Loops that sort entries by feature and merge what is sorted; their plain twins in numpy are in the tests.

Each that takes the number of a part writes only what belongs to the features of that part, and these in the order of
the entries, so a result depends neither on the number of threads nor on their order.
"""

from __future__ import annotations

from sae_core.training.kernels.cpu.compiled import loop


@loop("void(int64, int64, int32[::1], int64[::1])")
def count_entries(part, parts, features_E, counts_F):
    """How many entries each feature has."""
    features = len(counts_F)
    first, end = part * features // parts, (part + 1) * features // parts
    for feature in range(first, end):
        counts_F[feature] = 0
    for entry in range(len(features_E)):
        if first <= features_E[entry] < end:
            counts_F[features_E[entry]] += 1


@loop("void(int64, int64, int64[::1], int32[::1], int32[::1], float32[::1], int64[::1], int32[::1], float32[::1])")
def place_entries(
    part, parts, bounds_P, features_E, positions_E, values_E, next_F, sorted_positions_E, sorted_values_E
):
    """Put entries where their feature's next one belongs; part p has the features bounds[p] to bounds[p + 1]."""
    first, end = bounds_P[part], bounds_P[part + 1]
    for entry in range(len(features_E)):
        feature = features_E[entry]
        if first <= feature < end:
            place = next_F[feature]
            next_F[feature] = place + 1
            sorted_positions_E[place], sorted_values_E[place] = positions_E[entry], values_E[entry]


@loop("void(int64, int64, int64[::1], int64[::1], int32[::1], float32[::1], int64[::1], int32[::1], float32[::1])")
def append_entries(
    part, parts, bounds_P, pointers_F, positions_E, values_E, next_F, merged_positions_E, merged_values_E
):
    """Put sorted entries behind those that their features already have; pointers[f] is where those of f start."""
    start = pointers_F[0]
    for feature in range(bounds_P[part], bounds_P[part + 1]):
        place = next_F[feature]
        for entry in range(pointers_F[feature] - start, pointers_F[feature + 1] - start):
            merged_positions_E[place], merged_values_E[place] = positions_E[entry], values_E[entry]
            place += 1
        next_F[feature] = place
