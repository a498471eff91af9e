"""Loops that find the rule on tokens that best predicts where a feature fires. The tests have plain twins.

The best set of tokens has the largest F1 = 2·both / (fires + holds). The terms add up over disjoint cells, so
Dinkelbach's method (1967, *On nonlinear fractional programming*) finds the best set up to a maximal size exactly.
"""

from __future__ import annotations

import numpy as np

from sae_core.training.kernels.cpu.compiled import inlined, loop

NONE, TOKEN, FOLLOWS, CONTEXT, TOKEN_FOLLOWS, TOKEN_CONTEXT = range(6)
"""Kinds of rule: none; the token, the one before, or one of those before is among the words; token and another."""
MOST = 6
"""Largest number of tokens in a set, so that people can read the rule."""
REACH = 16
"""Number of tokens before a token that form its context."""
POSTINGS = 65_536
"""Tokens with more places than this are not combined with the tokens before them."""
SAMPLE = 1024
"""About this many places at most are sampled to choose the tokens before; all places measure the rule."""
LEAST_HITS = 2
_BETTER = 0.02
"""How much larger the F1 of a longer rule must be."""


@inlined
def _holds_one(words_K, token):
    """Whether a token is among the words, which end with −1."""
    for word in words_K:
        if word < 0:
            return False
        if word == token:
            return True
    return False


@inlined
def _reach_of(kind):
    """The number of earlier tokens that a rule reads; 0 if it reads only the token."""
    if kind == TOKEN:
        return 0
    return 1 if kind in (FOLLOWS, TOKEN_FOLLOWS) else REACH


@inlined
def _holds(kind, words_K, others_K, position, tokens_T, begins_T):
    """Whether a rule holds at a position."""
    if kind == TOKEN or kind >= TOKEN_FOLLOWS:
        if not _holds_one(words_K, tokens_T[position]):
            return False
        if kind == TOKEN:
            return True
    wanted_K = words_K if kind < TOKEN_FOLLOWS else others_K
    for place in range(max(begins_T[position], position - _reach_of(kind)), position):
        if _holds_one(wanted_K, tokens_T[place]):
            return True
    return False


@inlined
def _count(position, reach, tokens_T, begins_T, counts_V, stamps_V, stamp, seen_V, seen):
    """Count each token among the ``reach`` before a position once; a reach of 0 counts the token there."""
    first, end = (position, position + 1) if reach == 0 else (max(begins_T[position], position - reach), position)
    for place in range(first, end):
        token = tokens_T[place]
        if stamps_V[token] != stamp:
            stamps_V[token] = stamp
            if counts_V[token] == 0:
                seen_V[seen] = token
                seen += 1
            counts_V[token] += 1
    return seen


@inlined
def _best_set(hits_V, holds_V, seen_V, seen, fires, most, gains_K, chosen_K, words_K):
    """Put the set of at most ``most`` tokens with the largest F1 into words [K]; its F1 (0 and no words if none)."""
    rate = 0.0
    for place in range(len(words_K)):
        words_K[place] = -1
    while True:
        size = 0
        for number in range(seen):
            token = seen_V[number]
            # A sample may have missed some of the places where the rule holds.
            gain = 2.0 * hits_V[token] - rate * max(holds_V[token], hits_V[token])
            if hits_V[token] < LEAST_HITS or gain <= 0.0:
                continue
            place = size
            # Of equal tokens take the smaller number, so that the order of counting does not matter.
            while place > 0 and (
                gain > gains_K[place - 1] or (gain == gains_K[place - 1] and token < chosen_K[place - 1])
            ):
                place -= 1
            if place >= most:
                continue
            size = min(size + 1, most)
            for later in range(size - 1, place, -1):
                gains_K[later], chosen_K[later] = gains_K[later - 1], chosen_K[later - 1]
            gains_K[place], chosen_K[place] = gain, token
        both, holds = 0, 0
        for place in range(size):
            token = chosen_K[place]
            both, holds = both + hits_V[token], holds + max(holds_V[token], hits_V[token])
        better = 2.0 * both / (fires + holds)
        if better <= rate * (1.0 + 1e-12):
            return rate
        rate = better
        for place in range(len(words_K)):
            words_K[place] = chosen_K[place] if place < size else -1


@inlined
def _count_around(
    reach, words_K, places, tokens_T, begins_T, learned_T, pointers_V, postings_T, holds_V, stamps_V, stamp_1, met_V
):  # fmt: skip
    """Count the tokens before those positions, learned from, that hold one of the words; of many, those of a sample."""
    stride, ahead, met = 1 + places // SAMPLE, 0, 0
    for word in words_K:
        if word < 0:
            break
        for posting in range(pointers_V[word] + ahead, pointers_V[word + 1], stride):
            position = postings_T[posting]
            if learned_T[position]:
                stamp_1[0] += 1
                met = _count(position, reach, tokens_T, begins_T, holds_V, stamps_V, stamp_1[0], met_V, met)
        ahead = (ahead - (pointers_V[word + 1] - pointers_V[word])) % stride
    for number in range(met):
        holds_V[met_V[number]] *= stride
    return met


@inlined
def _fires(first, end, positions_E, learned_T):
    """Number of entries at positions that choose rules."""
    fires = 0
    for entry in range(first, end):
        fires += learned_T[positions_E[entry]]
    return fires


@inlined
def _keep(words_K, pointers_V, kept_K):
    """Copy words and return the number of their places."""
    places = 0
    for number in range(len(words_K)):
        kept_K[number] = words_K[number]
        if words_K[number] >= 0:
            places += pointers_V[words_K[number] + 1] - pointers_V[words_K[number]]
    return places


@inlined
def _write_rule(both, token_K, found_K, words_K, others_K):
    """Write a rule of the found words, or of tokens and the words found before them."""
    for number in range(len(words_K)):
        words_K[number] = token_K[number] if both else found_K[number]
        others_K[number] = found_K[number] if both else -1


@inlined
def _clear(counts_V, seen_V, seen):
    """Reset the counts of all seen tokens to 0."""
    for number in range(seen):
        counts_V[seen_V[number]] = 0


@loop("void(int64, int32[::1], int32[::1], uint8[::1], int64[::1], int64[::1])")
def count_contexts(reach, tokens_T, begins_T, learned_T, learned_V, held_V):
    """Positions that have each token among the ``reach`` before them (0: at them), learned from and held out.

    Args:
        reach: Tokens before.
        tokens_T: The corpus.
        begins_T: Where each position's document begins.
        learned_T: Whether a position is learned from.
        learned_V: Zeros; becomes the count of each token over positions that are learned from.
        held_V: Zeros; becomes the count over the others.
    """
    stamps_V, seen_V = np.zeros(len(held_V), np.int64), np.empty(len(held_V), np.int32)
    for position in range(len(tokens_T)):
        counts_V = learned_V if learned_T[position] else held_V
        # What was seen is of no use here, and there is room for one look only.
        _count(position, reach, tokens_T, begins_T, counts_V, stamps_V, position + 1, seen_V, 0)


@loop(
    "void(int64, int64[::1], int32[::1], int32[::1], int32[::1], uint8[::1], int64[:, ::1], int64[::1],"
    " int32[::1], int64[::1], float64[::1], int32[:, ::1], int32[:, ::1])"
)
def choose_rules(
    least_fires, pointers_F, positions_E, tokens_T, begins_T, learned_T, holds_3V, pointers_V, postings_T,
    kinds_F, scores_F, words_FK, others_FK,
):  # fmt: skip
    """The rule with the largest F1 over the positions that are learned from.

    Args:
        least_fires: A feature that fires less often on what is learned from gets no rule.
        pointers_F: Where each feature's entries begin, and at the end their number [F + 1].
        positions_E: Position of each entry.
        tokens_T: The corpus.
        begins_T: Where each position's document begins.
        learned_T: Whether a position is learned from.
        holds_3V: Positions learned from with each token there, just before, and in the context before.
        pointers_V: Where each token's places begin among the postings [V + 1].
        postings_T: Positions, token by token.
        kinds_F: Becomes the kind of each rule.
        scores_F: Becomes its F1.
        words_FK: Becomes its words, −1 after the last.
        others_FK: Becomes the words of its second part, −1 after the last.
    """
    vocabulary, most = holds_3V.shape[1], words_FK.shape[1]
    hits_V, around_V = np.zeros(vocabulary, np.int64), np.zeros(vocabulary, np.int64)
    stamps_V, stamp_1 = np.zeros(vocabulary, np.int64), np.zeros(1, np.int64)
    seen_V, met_V = np.empty(vocabulary, np.int32), np.empty(vocabulary, np.int32)
    gains_K, chosen_K = np.empty(most), np.empty(most, np.int32)
    trial_K, token_K = np.empty(most, np.int32), np.empty(most, np.int32)
    for feature in range(len(kinds_F)):
        places, fires = 0, _fires(pointers_F[feature], pointers_F[feature + 1], positions_E, learned_T)
        if fires < least_fires:
            continue
        for kind in range(TOKEN, TOKEN_CONTEXT + 1):
            both = kind >= TOKEN_FOLLOWS
            if both and (places == 0 or places > POSTINGS):
                break
            reach = _reach_of(kind)
            seen, met, holds_V = 0, 0, around_V
            for entry in range(pointers_F[feature], pointers_F[feature + 1]):
                position = positions_E[entry]
                if learned_T[position] and (not both or _holds_one(token_K, tokens_T[position])):
                    stamp_1[0] += 1
                    seen = _count(position, reach, tokens_T, begins_T, hits_V, stamps_V, stamp_1[0], seen_V, seen)
            if both:
                met = _count_around(
                    reach, token_K, places, tokens_T, begins_T, learned_T, pointers_V, postings_T,
                    around_V, stamps_V, stamp_1, met_V,
                )  # fmt: skip
            else:
                holds_V = holds_3V[kind - 1]
            # Contexts overlap, so they do not add up as the others do.
            size = 1 if reach == REACH else most
            score = _best_set(hits_V, holds_V, seen_V, seen, fires, size, gains_K, chosen_K, trial_K)
            if score > scores_F[feature] + both * _BETTER:
                kinds_F[feature], scores_F[feature] = kind, score
                _write_rule(both, token_K, trial_K, words_FK[feature], others_FK[feature])
            if kind == TOKEN:
                places = _keep(trial_K, pointers_V, token_K)
            _clear(hits_V, seen_V, seen)
            _clear(around_V, met_V, met)


@loop(
    "void(int64[::1], int32[::1], int32[::1], int32[::1], uint8[::1], int64[:, ::1], int64[::1],"
    " int32[::1], int64[::1], int32[:, ::1], int32[:, ::1], int64[:, ::1])"
)
def measure_rules(
    pointers_F, positions_E, tokens_T, begins_T, learned_T, holds_3V, pointers_V, postings_T,
    kinds_F, words_FK, others_FK, counts_F3,
):  # fmt: skip
    """How often the feature fires, its rule holds, and both, over the positions held out.

    Arrays are as in `choose_rules`, but ``holds`` counts positions held out, and the rules are given; ``counts``, zeros
    at first, becomes the three numbers.
    """
    for feature in range(len(kinds_F)):
        kind, words_K, others_K = kinds_F[feature], words_FK[feature], others_FK[feature]
        for entry in range(pointers_F[feature], pointers_F[feature + 1]):
            position = positions_E[entry]
            if not learned_T[position]:
                counts_F3[feature, 0] += 1
                if kind != NONE and _holds(kind, words_K, others_K, position, tokens_T, begins_T):
                    counts_F3[feature, 2] += 1
        for word in words_K:
            if word < 0:
                break
            if kind < TOKEN_FOLLOWS:
                counts_F3[feature, 1] += holds_3V[kind - 1, word]
                continue
            for posting in range(pointers_V[word], pointers_V[word + 1]):
                position = postings_T[posting]
                if not learned_T[position] and _holds(kind, words_K, others_K, position, tokens_T, begins_T):
                    counts_F3[feature, 1] += 1
