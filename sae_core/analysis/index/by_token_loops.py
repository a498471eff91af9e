"""The loop that finds the best features of each token. The tests have a slow plain twin."""

from __future__ import annotations

from numba.types import Array, float32, float64, int32, int64, void

from sae_core.training.kernels.cpu.compiled import inlined, loop

# Numba compiles for read-only maps of a file only if the signature says so.
_POINTERS, _NUMBERS, _VALUES = (Array(kind, 1, "C", readonly=True) for kind in (int64, int32, float32))


@inlined
def _worse(score, feature, than_score, than_feature):
    """Whether one feature is worse than another for a token; of equal features the later one is worse."""
    return score < than_score or (score == than_score and feature > than_feature)


@inlined
def _sink(place, size, scores_K, features_K, share_K, fires_K):
    """Sink an entry of a heap, which has its worst entry on top, to its place."""
    while True:
        worst = place
        for child in (2 * place + 1, 2 * place + 2):
            if child < size and _worse(scores_K[child], features_K[child], scores_K[worst], features_K[worst]):
                worst = child
        if worst == place:
            return
        scores_K[place], scores_K[worst] = scores_K[worst], scores_K[place]
        features_K[place], features_K[worst] = features_K[worst], features_K[place]
        share_K[place], share_K[worst] = share_K[worst], share_K[place]
        fires_K[place], fires_K[worst] = fires_K[worst], fires_K[place]
        place = worst


@loop(
    void(
        int64, int64, _POINTERS, _NUMBERS, _VALUES, _NUMBERS, int64[::1], float64[::1], int64[::1], int64[::1],
        int64[::1], float64[:, ::1], int32[:, ::1], float32[:, ::1], float32[:, ::1],
    )
)  # fmt: skip
def keep_best(
    start, stop, pointers_F, positions_E, values_E, token_T, occurrences_V, mass_V, count_V, seen_V,
    filled_V, scores_VK, features_VK, share_VK, fires_VK,
):  # fmt: skip
    """Add features to the heaps of the tokens on which they fire.

    Features must come in ascending order, over all calls.

    Args:
        start: The first feature.
        stop: The end of the range of features, exclusive.
        pointers_F: The start of each feature's entries, and at the end the number of entries [F + 1].
        positions_E: Position of each entry.
        values_E: Activation of each entry.
        token_T: The token at each position.
        occurrences_V: Number of occurrences of each token.
        mass_V: Zeros, before and after.
        count_V: Zeros, before and after.
        seen_V: Room for the tokens of a feature.
        filled_V: Number of features in each token's heap.
        scores_VK: Scores of the features: one heap per token.
        features_VK: The features.
        share_VK: The share of each feature's activation that falls on the token.
        fires_VK: The share of the token's occurrences on which each feature fires.
    """
    kept = scores_VK.shape[1]
    for feature in range(start, stop):
        seen, total = 0, 0.0
        for entry in range(pointers_F[feature], pointers_F[feature + 1]):
            token, value = token_T[positions_E[entry]], float(values_E[entry])
            if count_V[token] == 0:
                seen_V[seen] = token
                seen += 1
            count_V[token] += 1
            mass_V[token] += value
            total += value
        for number in range(seen):
            token = seen_V[number]
            share, fires = mass_V[token] / total, count_V[token] / occurrences_V[token]
            mass_V[token], count_V[token] = 0.0, 0
            score = 2 * share * fires / (share + fires)
            place = filled_V[token]
            if place == kept:
                # A later feature must be better than the worst one to enter.
                if score <= scores_VK[token, 0]:
                    continue
                place = 0
            scores_VK[token, place], features_VK[token, place] = score, feature
            share_VK[token, place], fires_VK[token, place] = share, fires
            if filled_V[token] < kept:
                filled_V[token] += 1
                if filled_V[token] < kept:
                    continue
                # The list is full for the first time, so make it a heap.
                for top in range(kept // 2 - 1, -1, -1):
                    _sink(top, kept, scores_VK[token], features_VK[token], share_VK[token], fires_VK[token])
            else:
                _sink(0, kept, scores_VK[token], features_VK[token], share_VK[token], fires_VK[token])
