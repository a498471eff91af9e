"""Suggest a label for each feature: the simple rule on tokens that best predicts where the feature fires.

A rule says that the token is one of a few tokens, that it follows one of a few tokens, that a token stands in the
context before it, or the first together with one of the others. Tokens are distinguished by their readable text
(``·the`` from ``the``), so a person who applies the written rule gets the same figures. The rule with the largest F1 on
a random half of the documents is chosen and then measured on the other half. So precision and recall are those of a
detector on text that did not choose the rule, although the SAEs were trained on both halves. A rule that is never right
there is not suggested.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sae_core.activations.corpus import Corpus
from sae_core.activations.origins.text.shown import show_alone
from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.analysis.suggestions import suggest_loops as loops
from sae_core.foundation.progress import Progress, Tick, silent

LEAST_FIRES = 5
"""The least number of tokens on which a feature must fire, in the half that chooses rules, to get a rule."""
LEAST_SCORE = 0.1
"""A rule with a smaller F1 is not suggested."""
KINDS = ("", "token", "follows", "context", "token follows", "token in context")
"""The names of the kinds of rules, by their numbers in `suggest_loops`."""
_FEW_DOCUMENTS, _STRETCH = 16, 256
BLOCK = 1024


def suggest_labels(
    index: ActivationIndex, corpus: Corpus, *, seed: int = 0, progress: Progress = silent
) -> pd.DataFrame:
    """Suggest a label for every feature.

    Args:
        index: The ensemble's activations.
        corpus: The indexed corpus.
        seed: Seed of the choice of the held-out half of the documents.
        progress: Told the number of features done.

    Returns:
        One row per feature, in order: feature, suggestion ("" for none), kind (of `KINDS`), precision (on held-out
        tokens where the rule holds, the share on which the feature fires), recall (on held-out tokens where the feature
        fires, the share where the rule holds), fires, holds and both (the numbers of these held-out tokens) and lift
        (precision divided by the feature's density: the likelihood ratio of the rule). 0/0 is NaN.
    """
    tokens_T = corpus.alike_V[corpus.tokens[: index.tokens]]
    begins_T = corpus.offsets[corpus.document_of(np.arange(len(tokens_T)))].astype(np.int32)
    learned_T = _half(corpus, len(tokens_T), seed)
    vocabulary = int(tokens_T.max(initial=0)) + 1
    learned_3V, held_3V = np.zeros((2, 3, vocabulary), np.int64)
    for place, reach in enumerate((0, 1, loops.REACH)):
        loops.count_contexts(reach, tokens_T, begins_T, learned_T, learned_3V[place], held_3V[place])
    pointers_V = np.concatenate([[0], np.cumsum(np.bincount(tokens_T, minlength=vocabulary))]).astype(np.int64)
    postings_T = np.argsort(tokens_T, kind="stable").astype(np.int32)
    count = index.features
    kinds_F, scores_F, counts_F3 = np.zeros(count, np.int64), np.zeros(count), np.zeros((count, 3), np.int64)
    words_FK, others_FK = np.full((2, count, loops.MOST), -1, np.int32)
    for first in range(0, count, BLOCK):
        block = slice(first, min(first + BLOCK, count))
        pointers_F = index.pointers[first : block.stop + 1]
        # Copy, since the compiled code takes no read-only array, such as a map of a file.
        positions_E = np.array(index.positions[pointers_F[0] : pointers_F[-1]])
        text = (pointers_F - pointers_F[0], positions_E, tokens_T, begins_T, learned_T)
        words = (words_FK[block], others_FK[block])
        loops.choose_rules(
            LEAST_FIRES, *text, learned_3V, pointers_V, postings_T, kinds_F[block], scores_F[block], *words
        )
        weak_F = scores_F[block] < LEAST_SCORE
        kinds_F[block][weak_F], words_FK[block][weak_F] = loops.NONE, -1
        loops.measure_rules(*text, held_3V, pointers_V, postings_T, kinds_F[block], *words, counts_F3[block])
        progress(Tick("suggest labels", block.stop, count, unit="features"))
    refuted_F = counts_F3[:, 2] == 0
    kinds_F[refuted_F], counts_F3[refuted_F, 1] = loops.NONE, 0
    texts = [_say(corpus, *rule) for rule in zip(kinds_F.tolist(), words_FK, others_FK, strict=True)]
    return _table(kinds_F, texts, counts_F3, int(len(tokens_T) - learned_T.sum()))


def _table(kinds_F: NDArray[np.int64], texts: list[str], counts_F3: NDArray[np.int64], held: int) -> pd.DataFrame:
    fires, holds, both = counts_F3.T
    ruled = kinds_F != loops.NONE
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(ruled, both / holds, np.nan)
        recall = np.where(ruled, both / fires, np.nan)
        lift = precision * held / fires
    return pd.DataFrame(
        {
            "feature": np.arange(len(texts)),
            "suggestion": texts,
            "kind": [KINDS[kind] for kind in kinds_F.tolist()],
            "precision": precision,
            "recall": recall,
            "fires": fires,
            "holds": holds,
            "both": both,
            "lift": lift,
        }
    )


def _half(corpus: Corpus, tokens: int, seed: int) -> NDArray[np.uint8]:
    """Whether each position chooses rules: a random half of the documents, or of stretches if documents are few."""
    positions = np.arange(tokens)
    numbers_P = corpus.source_documents
    documents, number_P = np.unique(numbers_P, return_inverse=True)
    is_few = len(documents) < _FEW_DOCUMENTS
    part_T = positions // _STRETCH if is_few else number_P[corpus.document_of(positions)]
    parts = int(part_T.max(initial=0)) + 1
    order = np.random.default_rng(seed).permutation(parts)
    return (order < parts // 2).astype(np.uint8)[part_T]


def _say(corpus: Corpus, kind: int, words_K: NDArray[np.int32], others_K: NDArray[np.int32]) -> str:
    """A rule in words."""
    words, others = _any_of(corpus, words_K), _any_of(corpus, others_K)
    return {
        loops.NONE: "",
        loops.TOKEN: words,
        loops.FOLLOWS: f"what follows {words}",
        loops.CONTEXT: f"within {loops.REACH} tokens after {words}",
        loops.TOKEN_FOLLOWS: f"{words} after {others}",
        loops.TOKEN_CONTEXT: f"{words} within {loops.REACH} tokens after {others}",
    }[kind]


def _any_of(corpus: Corpus, words_K: NDArray[np.int32]) -> str:
    """A list of tokens in words."""
    texts = [_readable(corpus.token_text(word)) for word in words_K.tolist() if word >= 0]
    return " or ".join(part for part in (", ".join(texts[:-1]), *texts[-1:]) if part)


def _readable(text: str) -> str:
    """A token in quotes, with visible spaces, at full length, since two shortened tokens could look the same."""
    return f"“{show_alone(text)}”"
