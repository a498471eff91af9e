"""Loops that choose the active features, as each architecture's `activate` does it in PyTorch.

A loop that takes the number of a part writes only what belongs to the part, so a result depends neither on the number
of threads nor on their order.

Keys are bfloat16 numbers read as int16: positive ones are ordered as the numbers are. They only choose the features
whose preactivation is then computed in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from sae_core.training.kernels.cpu.compiled import inlined, loop


class Code(NamedTuple):
    """A sparse code of B activations: the entries of activation b lie at starts[b] … stops[b].

    Attributes:
        starts_B: First entry of each activation.
        stops_B: The entry after its last.
        features_E: Feature of each entry.
        values_E: Its coefficient; 0 only for an entry that is there because it is near its threshold.
        near_E: For a learnt threshold, whether an entry is within half a bandwidth of its threshold; else nothing.
    """

    starts_B: NDArray[np.int64]
    stops_B: NDArray[np.int64]
    features_E: NDArray[np.int32]
    values_E: NDArray[np.float32]
    near_E: NDArray[np.bool_] = np.empty(0, np.bool_)


CODE = types.NamedTuple(
    (types.int64[::1], types.int64[::1], types.int32[::1], types.float32[::1], types.boolean[::1]), Code
)
"""The type of a code in compiled loops."""

GROUPED = 8
"""Features in a group of which only the largest key is looked at first."""


def group_size(width: int, k: int) -> int:
    """How many features are grouped: so many that groups are still several times as many as the k that are wanted."""
    return max(1, min(GROUPED, width // (4 * k)))


@intrinsic
def _float_of(typing_context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def _bits_of(typing_context: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@inlined
def _bfloat16(number):
    """The bits of a number rounded to bfloat16, to nearest even."""
    bits = _bits_of(number)
    return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@inlined
def _number(key):
    """The number that a bfloat16's bits stand for."""
    return _float_of(np.uint32(np.uint32(np.uint16(key)) << np.uint32(16)))


@loop("void(int64, int64, float32[:, ::1], uint16[:, ::1], float32[::1], float32[::1])")
def round_rows(part, parts, table_RD, rounded_RK, norms_R, slips_R):
    """Round rows to bfloat16; their norms, and the norms of what rounding took away."""
    rows, columns = table_RD.shape
    for row in range(part * rows // parts, (part + 1) * rows // parts):
        norm = slip = np.float32(0)
        for column in range(columns):
            number = table_RD[row, column]
            bits = _bfloat16(number)
            rounded_RK[row, column] = bits
            lost = number - _number(bits)
            norm += number * number
            slip += lost * lost
        norms_R[row] = np.sqrt(norm)
        slips_R[row] = np.sqrt(slip)


@inlined
def _group_maxima(keys_N, groups, grouped, maxima_G):
    """Largest key of each group: group g holds the features g, g + groups, …; the last few are their own groups."""
    for group in range(groups):
        maxima_G[group] = keys_N[group]
    for member in range(1, grouped):
        slice_G = keys_N[member * groups : (member + 1) * groups]
        for group in range(groups):
            maxima_G[group] = slice_G[group] if slice_G[group] > maxima_G[group] else maxima_G[group]
    rest = len(keys_N) - groups * grouped
    for place in range(rest):
        maxima_G[groups + place] = keys_N[groups * grouped + place]
    return groups + rest


@inlined
def _kth_largest(keys_G, count, k):
    """The largest number that at least k of the positive keys reach; 0 if fewer than k are positive."""
    low, high = np.int64(0), np.int64(1) << np.int64(8 * keys_G.itemsize - 1)
    while high - low > 1:
        middle = (low + high) >> 1
        bound = keys_G.dtype.type(middle)
        reached = np.int32(0)
        for place in range(count):
            reached = np.int32(reached + np.int32(keys_G[place] >= bound))
        if reached >= k:
            low = middle
        else:
            high = middle
    return low


@inlined
def _candidates(keys_N, slack, k, grouped, maxima_G, found_N):
    """Collect the features that may be among the k largest, given that keys are off by at most slack.

    At least k numbers are, before rounding to bfloat16, ≥ lowest·(1 − 2⁻⁸), so exactly ≥ that − slack; whatever is to
    reach that has a key of at least that − 2·slack. What is not positive is of no interest.

    Returns:
        How many were found, and the key that at least k of them reach (0 if fewer than k have a positive one).
    """
    width = len(keys_N)
    groups = width // grouped
    count = _group_maxima(keys_N, groups, grouped, maxima_G)
    lowest_key = _kth_largest(maxima_G, count, k)
    lowest = _number(lowest_key)
    bound = max(lowest - lowest / np.float32(256) - slack - slack, -slack)
    key = np.int16(_bits_of(bound) >> np.uint32(16))
    found = 0
    for group in range(count):
        if bound > 0 and maxima_G[group] < key:
            continue
        for member in range(grouped if group < groups else 1):
            feature = member * groups + group if group < groups else groups * grouped + group - groups
            if _number(keys_N[feature]) >= bound:
                found_N[found] = feature
                found += 1
    return found, lowest_key


@inlined
def _preactivations(x_D, W_enc_ND, b_enc_N, found_N, picks_N, count, exact_N):
    """exact[pick] = preactivation of the feature found[pick], for count picks; three more places are written to.

    Always four at a time, as a sum in another order would make a result depend on a feature's place in the list.
    """
    spare = len(found_N) - 1
    found_N[spare] = 0
    for place in range(count, count + 3):
        picks_N[place] = spare
    for place in range(0, count, 4):
        pick_0, pick_1, pick_2, pick_3 = picks_N[place], picks_N[place + 1], picks_N[place + 2], picks_N[place + 3]
        row_0, row_1, row_2, row_3 = found_N[pick_0], found_N[pick_1], found_N[pick_2], found_N[pick_3]
        sum_0 = sum_1 = sum_2 = sum_3 = np.float32(0)
        for column in range(len(x_D)):
            sum_0 += x_D[column] * W_enc_ND[row_0, column]
            sum_1 += x_D[column] * W_enc_ND[row_1, column]
            sum_2 += x_D[column] * W_enc_ND[row_2, column]
            sum_3 += x_D[column] * W_enc_ND[row_3, column]
        exact_N[pick_0], exact_N[pick_1] = sum_0 + b_enc_N[row_0], sum_1 + b_enc_N[row_1]
        exact_N[pick_2], exact_N[pick_3] = sum_2 + b_enc_N[row_2], sum_3 + b_enc_N[row_3]


@inlined
def _keep_largest(found_N, exact_N, exact_bits_N, count, k, features_E, values_E, place):
    """Write down the k largest of count numbers, as far as they are positive, from a place on; where that ends."""
    bound = _kth_largest(exact_bits_N, count, k)
    spare = k  # of several numbers at the bound itself, the first ones are taken
    for entry in range(count):
        spare -= int(exact_bits_N[entry] > bound)
    for entry in range(count):
        above, at_bound = exact_bits_N[entry] > bound, exact_bits_N[entry] == bound
        if above or (at_bound and bound > 0 and spare > 0):
            spare -= int(at_bound)
            features_E[place], values_E[place] = found_N[entry], exact_N[entry]
            place += 1
    return place


@loop(
    "void(int64, int64, int16[:, ::1], int64, float32[:, ::1], float32[::1], float32[:, ::1], float32[::1], int64,"
    " int64, int64[::1], int32[::1], float32[::1])"
)
def select_topk(
    part, parts, keys_CN, first, centred_BD, slacks_B, W_enc_ND, b_enc_N, k, grouped, stops_B, features_E, values_E
):
    """The k largest preactivations of the activations first, first + 1, …, as far as they are positive.

    Keys only choose whose preactivation is computed in float32. Activation b has room for k entries from k·b on.
    """
    rows, width = keys_CN.shape
    maxima_G = np.empty(width, np.int16)
    found_N, picks_N = np.empty(width + 1, np.int32), np.empty(width + 3, np.int32)
    exact_N = np.empty(width + 1, np.float32)
    exact_bits_N = exact_N.view(np.int32)  # positive float32 numbers are ordered as their bits are
    for row in range(part * rows // parts, (part + 1) * rows // parts):
        token, keys_N = first + row, keys_CN[row]
        x_D, slack = centred_BD[token], slacks_B[token]
        found, lowest_key = _candidates(keys_N, slack, k, grouped, maxima_G, found_N)
        count = 0
        for place in range(found):
            exact_N[place], picks_N[count] = 0, place
            count += int(keys_N[found_N[place]] >= lowest_key)
        _preactivations(x_D, W_enc_ND, b_enc_N, found_N, picks_N, count, exact_N)
        # k are known exactly now, so another one has to reach the least of them, not only what keys promised.
        least = _float_of(np.uint32(_kth_largest(exact_bits_N, found, k))) - slack
        count = 0
        for place in range(found):
            key = keys_N[found_N[place]]
            picks_N[count] = place
            count += int(key < lowest_key and _number(key) + abs(_number(key)) / np.float32(128) >= least)
        _preactivations(x_D, W_enc_ND, b_enc_N, found_N, picks_N, count, exact_N)
        stops_B[token] = _keep_largest(found_N, exact_N, exact_bits_N, found, k, features_E, values_E, token * k)


@inlined
def _reaches(key, bound):
    """Whether what a key was rounded from may be as large as a bound."""
    number = _number(key)
    return number + abs(number) / np.float32(128) >= bound


@loop("void(int64, int64, int16[:, ::1], int64, float32[::1], int64, int32[:, ::1])")
def count_maxima(part, parts, keys_CN, first, slacks_B, grouped, counts_PK):
    """Count the largest keys of groups, each lowered by what it may be off: a row of counts per part."""
    rows, width = keys_CN.shape
    groups = width // grouped
    maxima_G = np.empty(width, np.int16)
    for row in range(part * rows // parts, (part + 1) * rows // parts):
        slack = slacks_B[first + row]
        count = _group_maxima(keys_CN[row], groups, grouped, maxima_G)
        for group in range(count):
            number = _number(maxima_G[group])
            least = number - number / np.float32(256) - slack
            if least > 0:
                counts_PK[part, _bits_of(least) >> np.uint32(16)] += 1


@loop("void(int64, int64, int16[:, ::1], int64, float32[::1], float32[::1], int64[::1])")
def count_reaching(part, parts, keys_CN, first, lowest_B, bounds_N, counts_C):
    """How many keys of each activation may reach lowest + bound, the one its own, the other the feature's."""
    rows, width = keys_CN.shape
    for row in range(part * rows // parts, (part + 1) * rows // parts):
        keys_N, lowest, count = keys_CN[row], lowest_B[first + row], np.int32(0)
        for feature in range(width):
            count = np.int32(count + np.int32(_reaches(keys_N[feature], lowest + bounds_N[feature])))
        counts_C[row] = count


@loop("void(int64, int64, int16[:, ::1], int64, float32[::1], float32[::1], int64[::1], int32[::1], int16[::1])")
def collect_reaching(part, parts, keys_CN, first, lowest_B, bounds_N, starts_B, features_E, keys_E):
    """Write down what `count_reaching` counts, from starts on."""
    rows, width = keys_CN.shape
    found_N = np.empty(width + 1, np.int32)
    for row in range(part * rows // parts, (part + 1) * rows // parts):
        keys_N, lowest, found = keys_CN[row], lowest_B[first + row], 0
        for feature in range(width):  # without a branch, which nobody could predict
            found_N[found] = feature
            found += int(_reaches(keys_N[feature], lowest + bounds_N[feature]))
        start = starts_B[first + row]
        for place in range(found):
            features_E[start + place], keys_E[start + place] = found_N[place], keys_N[found_N[place]]


@loop(
    "void(int64, int64, int64[::1], int64[::1], int32[::1], int16[::1], float32[::1], float32[::1], float32[:, ::1],"
    " float32[:, ::1], float32[::1], float32[::1])"
)
def score_entries(
    part, parts, starts_B, stops_B, features_E, keys_E, lowest_B, bounds_N, centred_BD, W_enc_ND, b_enc_N, values_E
):
    """Drop entries that cannot reach lowest + bound after all; preactivations of the others, 0 for those dropped."""
    rows, width = len(starts_B), len(b_enc_N)
    found_N, picks_N = np.empty(width + 1, np.int32), np.empty(width + 3, np.int32)
    exact_N = np.empty(width + 1, np.float32)
    for row in range(part * rows // parts, (part + 1) * rows // parts):
        start, count = starts_B[row], 0
        for entry in range(start, stops_B[row]):
            found_N[count], picks_N[count] = features_E[entry], count
            values_E[entry] = 0
            count += int(_reaches(keys_E[entry], lowest_B[row] + bounds_N[features_E[entry]]))
        _preactivations(centred_BD[row], W_enc_ND, b_enc_N, found_N, picks_N, count, exact_N)
        for place in range(count):
            features_E[start + place], values_E[start + place] = found_N[place], exact_N[place]
        stops_B[row] = start + count


@loop((CODE, types.float32, types.int64))
def keep_above(code, bound, spare):
    """Keep the entries above a bound that is not negative, and the first few at it."""
    features_E, values_E = code.features_E, code.values_E
    for row in range(len(code.starts_B)):
        place = code.starts_B[row]
        for entry in range(code.starts_B[row], code.stops_B[row]):
            at_bound = bound > 0 and values_E[entry] == bound and spare > 0
            if values_E[entry] > bound or at_bound:
                spare -= int(at_bound)
                features_E[place], values_E[place] = features_E[entry], values_E[entry]
                place += 1
        code.stops_B[row] = place


@loop((CODE, types.float32[::1], types.float32))
def keep_open(code, thresholds_N, reach):
    """Keep the entries above their threshold, and as zeros those less than `reach` below it; say which are near it."""
    features_E, values_E = code.features_E, code.values_E
    for row in range(len(code.starts_B)):
        place = code.starts_B[row]
        for entry in range(code.starts_B[row], code.stops_B[row]):
            value, threshold = values_E[entry], thresholds_N[features_E[entry]]
            is_open = value > threshold and value > 0
            near = abs(value - threshold) < reach
            if is_open or near:
                features_E[place], code.near_E[place] = features_E[entry], near
                values_E[place] = value if is_open else np.float32(0)
                place += 1
        code.stops_B[row] = place
