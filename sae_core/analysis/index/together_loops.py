"""Loops that count how often features fire on the same tokens. `examples.co_active` is the plain twin."""

from __future__ import annotations

from numba.types import Array, int32, int64, void

from sae_core.training.kernels.cpu.compiled import loop

# Numba compiles for read-only maps of a file only if the signature says so.
_POINTERS, _NUMBERS = Array(int64, 1, "C", readonly=True), Array(int32, 1, "C", readonly=True)


@loop(void(int64, int64, _POINTERS, _NUMBERS, int64[::1], int64[::1], int32[::1]))
def spread_entries(first, end, pointers_F, positions_E, read_F, write_T, features_E):
    """Write the feature of each entry of the tokens first to end to the next place of its token.

    ``read`` is each feature's next entry, and ``write`` each token's next place; both start at 0 in the given arrays.
    """
    for feature in range(len(pointers_F) - 1):
        entry = read_F[feature]
        while entry < pointers_F[feature + 1] and positions_E[entry] < end:
            place = write_T[positions_E[entry] - first]
            features_E[place] = feature
            write_T[positions_E[entry] - first] = place + 1
            entry += 1
        read_F[feature] = entry


@loop(void(int64, int64, int64, *(_POINTERS, _NUMBERS) * 2, *(int32[:, ::1],) * 4))
def find_companions(
    part, parts, start, pointers_F, positions_E, pointers_T, features_E, counts_PF, seen_PF, best_BK, together_BK
):
    """Find the features that fire most often with each feature of a block, by the cosine of firing patterns.

    Ties are sorted by number. ``counts`` holds zeros before and after; ``best`` holds −1 if there are no more.
    """
    counts_F, seen_F = counts_PF[part], seen_PF[part]
    kept = best_BK.shape[1]
    for row in range(part, len(best_BK), parts):
        feature, seen = start + row, 0
        for entry in range(pointers_F[feature], pointers_F[feature + 1]):
            token = positions_E[entry]
            for place in range(pointers_T[token], pointers_T[token + 1]):
                other = features_E[place]
                if counts_F[other] == 0:
                    seen_F[seen] = other
                    seen += 1
                counts_F[other] += 1
        fires, filled = float(pointers_F[feature + 1] - pointers_F[feature]), 0
        for number in range(seen):
            other = seen_F[number]
            both = counts_F[other]
            counts_F[other] = 0
            if other == feature:
                continue
            cosine = both / (float(pointers_F[other + 1] - pointers_F[other]) * fires) ** 0.5
            place = filled
            while place > 0:
                rival = best_BK[row, place - 1]
                size = float(pointers_F[rival + 1] - pointers_F[rival])
                rivals = together_BK[row, place - 1] / (size * fires) ** 0.5
                if rivals > cosine or (rivals == cosine and rival < other):
                    break
                if place < kept:
                    best_BK[row, place] = best_BK[row, place - 1]
                    together_BK[row, place] = together_BK[row, place - 1]
                place -= 1
            if place < kept:
                best_BK[row, place] = other
                together_BK[row, place] = both
                filled = min(filled + 1, kept)
