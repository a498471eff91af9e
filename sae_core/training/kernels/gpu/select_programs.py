"""Triton programs that choose the active features on a GPU; what they mean in PyTorch is each `sparse_code`.

Keys are preactivations, bfloat16 or float32, read as integers of the same size: positive ones are ordered as the
numbers are, and as no other becomes a coefficient, all others count as 0. Every program writes only what belongs to it
or adds up integers, so a result does not depend on their order. A row of keys is read some times over; at such times it
lies in the cache of the program's multiprocessor.
"""

from __future__ import annotations

import triton
import triton.language as tl

DIGIT = 256
"""Keys are counted by digits of eight bits, highest first."""

LARGEST = tl.constexpr(2**31 - 2)
"""Largest key; the one bit pattern above it, a NaN, counts as this, so that there is a number that no key reaches."""


@triton.jit
def _load_keys(keys_N, first, width, BLOCK: tl.constexpr):
    """The features first … first + BLOCK of a row and their keys."""
    feature_T = first + tl.arange(0, BLOCK)
    key_T = tl.load(keys_N + feature_T, mask=feature_T < width, other=0).to(tl.int32)
    return feature_T, tl.minimum(tl.maximum(key_T, 0), LARGEST)


@triton.jit
def _count_reaching(keys_N, width, bound, BLOCK: tl.constexpr):
    """How many keys of a row are at least as large as a bound, which is positive."""
    count = 0
    for first in range(0, width, BLOCK):
        _, key_T = _load_keys(keys_N, first, width, BLOCK)
        count += tl.sum((key_T >= bound).to(tl.int32), axis=0)
    return count


@triton.jit
def _lower_bound(keys_N, width, k, TOP: tl.constexpr, BLOCK: tl.constexpr, GROUPS: tl.constexpr):
    """A number below TOP that at least k keys reach: the k-th largest of the largest keys of groups; 0 if none does.

    Group g holds the features g, g + GROUPS, g + 2·GROUPS …, so that a maximum runs within a thread.
    """
    maximum_G = tl.zeros([GROUPS], tl.int32)
    for first in range(0, width, BLOCK):
        feature_MG = first + tl.arange(0, BLOCK // GROUPS)[:, None] * GROUPS + tl.arange(0, GROUPS)[None, :]
        key_MG = tl.load(keys_N + feature_MG, mask=feature_MG < width, other=0).to(tl.int32)
        maximum_G = tl.maximum(maximum_G, tl.max(key_MG, axis=0))
    low, high = 0, TOP
    while high - low > 1:
        middle = low + (high - low) // 2
        enough = tl.sum((maximum_G >= middle).to(tl.int32), axis=0) >= k
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    return low


@triton.jit
def _kth_largest(keys_N, width, k, TOP: tl.constexpr, BLOCK: tl.constexpr, GROUPS: tl.constexpr):
    """The largest number that at least k keys of a row reach, and how many exceed it; 0 if fewer than k are positive.

    No key reaches TOP. The number is seldom far above the lower bound, so steps upwards, each twice as large as the
    last, find it sooner than halving would.
    """
    low = _lower_bound(keys_N, width, k, TOP, BLOCK, GROUPS)
    step = 1
    high = low + 1
    reached = _count_reaching(keys_N, width, high, BLOCK)
    while reached >= k:
        low = high
        step = step * 2
        high = tl.minimum(low + tl.minimum(step, TOP - low), TOP)
        reached = _count_reaching(keys_N, width, high, BLOCK)
    while high - low > 1:
        middle = low + (high - low) // 2
        count = _count_reaching(keys_N, width, middle, BLOCK)
        low = tl.where(count >= k, middle, low)
        high = tl.where(count >= k, high, middle)
        reached = tl.where(count >= k, reached, count)
    return low, reached


@triton.jit
def _collect(keys_N, row, width, bound, spare, features_E, values_E, rows_E, HALF: tl.constexpr, SCAN: tl.constexpr):
    """Write a row's entries above a bound and the first `spare` of those equal to it; how many there are.

    They are written in the order of their features. HALF says that keys are the upper halves of float32 numbers.
    """
    larger, equal = 0, 0
    for first in range(0, width, SCAN):
        feature_T, key_T = _load_keys(keys_N, first, width, SCAN)
        larger_T = (key_T > bound).to(tl.int32)
        equal_T = ((key_T == bound) & (key_T > 0)).to(tl.int32)
        # Both counts in one sum: a block has fewer than 2^16 features.
        counts_T = tl.cumsum(larger_T * 65536 + equal_T, axis=0)
        larger_before_T = larger + (counts_T >> 16) - larger_T
        equal_before_T = equal + (counts_T & 65535) - equal_T
        place_T = larger_before_T + tl.minimum(equal_before_T, spare)
        kept_T = (larger_T > 0) | ((equal_T > 0) & (equal_before_T < spare))
        if HALF:
            key_T = key_T << 16
        tl.store(features_E + place_T, feature_T.to(features_E.dtype.element_ty), mask=kept_T)
        tl.store(values_E + place_T, key_T.to(tl.float32, bitcast=True), mask=kept_T)
        tl.store(rows_E + place_T, row + tl.zeros_like(place_T), mask=kept_T)
        larger += tl.sum(larger_T, axis=0)
        equal += tl.sum(equal_T, axis=0)
    return larger + tl.minimum(equal, spare)


@triton.jit
def select_topk(
    keys_CN, first_row, features_E, values_E, rows_E, counts_B, width, k,
    HALF: tl.constexpr, TOP: tl.constexpr, BLOCK: tl.constexpr, SCAN: tl.constexpr, GROUPS: tl.constexpr,
    PLACES: tl.constexpr,
):  # fmt: skip
    """The k largest positive keys of a row of a chunk, one program a row.

    Activation b has the places b·k … b·k + counts[b]; the places behind them get the feature `width`, which none is.
    """
    keys_N = keys_CN + tl.program_id(0).to(tl.int64) * width
    row = first_row + tl.program_id(0)
    start = row.to(tl.int64) * k
    bound, larger = _kth_largest(keys_N, width, k, TOP, BLOCK, GROUPS)
    kept = _collect(
        keys_N, row, width, bound, k - larger, features_E + start, values_E + start, rows_E + start, HALF, SCAN
    )
    tl.store(counts_B + row, kept)
    place_K = tl.arange(0, PLACES)
    empty_K = (place_K >= kept) & (place_K < k)
    none_K = (width + tl.zeros_like(place_K)).to(features_E.dtype.element_ty)
    tl.store(features_E + start + place_K, none_K, mask=empty_K)


@triton.jit
def count_digits(
    keys_BN, above_1, counts_D, width, SHIFT: tl.constexpr, FIRST: tl.constexpr, BLOCK: tl.constexpr,
    DIGIT: tl.constexpr,
):  # fmt: skip
    """How many positive keys whose higher digits are `above` have each digit, one program a row; FIRST has none."""
    keys_N = keys_BN + tl.program_id(0).to(tl.int64) * width
    count_D = tl.zeros([DIGIT], tl.int32)
    above = tl.load(above_1)
    for first in range(0, width, BLOCK):
        _, key_T = _load_keys(keys_N, first, width, BLOCK)
        there_T = key_T > 0
        if not FIRST:
            there_T = there_T & ((key_T >> (SHIFT + 8)) == above)
        count_D += tl.histogram((key_T >> SHIFT) & (DIGIT - 1), DIGIT, mask=there_T)
    tl.atomic_add(counts_D + tl.arange(0, DIGIT), count_D, mask=count_D > 0)


@triton.jit
def choose_digit(counts_D, above_1, wanted_1, DIGIT: tl.constexpr):
    """Append the digit of the key that is the `wanted`-th largest; then wanted counts from where this digit starts.

    If there are fewer keys, the digits become 0, which no positive key has all of.
    """
    digit_D = tl.arange(0, DIGIT)
    above, wanted = tl.load(above_1), tl.load(wanted_1)
    reached_D = tl.cumsum(tl.load(counts_D + digit_D), axis=0, reverse=True)
    digit = tl.maximum(tl.sum((reached_D >= wanted).to(tl.int32), axis=0) - 1, 0)
    tl.store(above_1, above * DIGIT + digit)
    tl.store(wanted_1, wanted - tl.sum(tl.where(digit_D == digit + 1, reached_D, 0), axis=0))


@triton.jit
def count_row(keys_BN, bound_1, larger_B, equal_B, width, BLOCK: tl.constexpr):
    """How many keys of a row are larger than and equal to a bound, one program a row."""
    row = tl.program_id(0)
    keys_N = keys_BN + row.to(tl.int64) * width
    bound = tl.load(bound_1)
    larger = _count_reaching(keys_N, width, bound + 1, BLOCK)
    tl.store(larger_B + row, larger)
    equal = 0
    for first in range(0, width, BLOCK):
        _, key_T = _load_keys(keys_N, first, width, BLOCK)
        equal += tl.sum(((key_T == bound) & (key_T > 0)).to(tl.int32), axis=0)
    tl.store(equal_B + row, equal)


@triton.jit
def collect_row(
    keys_BN, bound_1, spare_B, starts_B, features_E, values_E, rows_E, width,
    HALF: tl.constexpr, SCAN: tl.constexpr,
):  # fmt: skip
    """Write a row's entries above the bound, and `spare` of those equal to it, from its start on; one program a row."""
    row = tl.program_id(0)
    keys_N = keys_BN + row.to(tl.int64) * width
    start = tl.load(starts_B + row).to(tl.int64)
    _collect(
        keys_N, row, width, tl.load(bound_1), tl.load(spare_B + row),
        features_E + start, values_E + start, rows_E + start, HALF, SCAN,
    )  # fmt: skip
