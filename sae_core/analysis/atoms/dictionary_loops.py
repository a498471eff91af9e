"""The loop behind connectivity: which features fire together with each; its plain twin is in the tests."""

from __future__ import annotations

from sae_core.training.kernels.cpu.compiled import loop


@loop("void(uint64[:, ::1], int64[::1], int64[::1], uint64[:, ::1])")
def unite_tokens(bits_TW, pointers_F, tokens_E, unions_FW):
    """Set, for each feature, the bits of all tokens on which it fires.

    Args:
        bits_TW: Features that fire on each token, 64 in a word.
        pointers_F: Where the tokens of each feature begin, and at the end their number [F + 1].
        tokens_E: Tokens, feature after feature.
        unions_FW: Zeros; becomes the union.
    """
    for feature in range(len(unions_FW)):
        for entry in range(pointers_F[feature], pointers_F[feature + 1]):
            token = tokens_E[entry]
            for word in range(bits_TW.shape[1]):
                unions_FW[feature, word] |= bits_TW[token, word]
