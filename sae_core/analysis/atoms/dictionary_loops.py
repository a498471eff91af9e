"""The loop of connectivity: find the features that fire together with each feature. The tests have a plain twin."""

from __future__ import annotations

from sae_core.training.kernels.cpu.compiled import loop


@loop("void(uint64[:, ::1], int64[::1], int64[::1], uint64[:, ::1])")
def unite_tokens(bits_TW, pointers_F, tokens_E, unions_FW):
    """Set, for each feature, the bits of all tokens on which it fires.

    Args:
        bits_TW: The features that fire on each token, 64 per word.
        pointers_F: The start of each feature's tokens, and at the end the number of tokens [F + 1].
        tokens_E: Tokens, feature after feature.
        unions_FW: Zeros; receives the unions.
    """
    for feature in range(len(unions_FW)):
        for entry in range(pointers_F[feature], pointers_F[feature + 1]):
            token = tokens_E[entry]
            for word in range(bits_TW.shape[1]):
                unions_FW[feature, word] |= bits_TW[token, word]
