"""The logit lens: the next tokens that writing a feature's atom into the residual stream promotes and suppresses.

Source: nostalgebraist (2020), *interpreting GPT: the logit lens*, applied to decoder atoms.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from sae_core.activations.origins.language_model.model.lens import lens_logits
from sae_core.activations.origins.text.shown import show_alone
from sae_core.activations.origins.text.token_texts import TokenTexts
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.progress import Progress, Tick, silent

_ALIKE = 8
"""Tokens looked at beyond those that are asked for, as some may read the same."""
_CELLS = 16_000_000


@torch.no_grad()
def promoted_tokens(
    ensemble: Ensemble, lens: Mapping[str, Tensor], texts: TokenTexts, *, count: int = 10, progress: Progress = silent
) -> pd.DataFrame:
    """The tokens that each feature promotes and suppresses most.

    Args:
        ensemble: Whose atoms are read.
        lens: As `lens_logits` takes it.
        texts: What the tokens read like; special tokens and vocabulary rows without a token are left out.
        count: Tokens of each kind.
        progress: Told the features done.

    Returns:
        One row a feature: feature, promoted, promoted_scores, suppressed, suppressed_scores; lists, the strongest
        first.
    """
    device = ensemble.device
    lens = {name: tensor.to(device, torch.float32) for name, tensor in lens.items()}
    vocabulary = len(lens["unembed_VD"])
    real = min(vocabulary, texts.vocabulary_size or vocabulary)
    allowed = torch.tensor([token for token in range(real) if token not in texts.special], device=device)
    count = min(count, len(allowed))
    dictionary_MD = ensemble.dictionary
    block = max(1, _CELLS // vocabulary)
    rows = []
    for start in range(0, len(dictionary_MD), block):
        logits_NV = lens_logits(dictionary_MD[start : start + block], lens)[:, allowed]
        sides = [_best(logits_NV, count, allowed, texts, sign) for sign in (1, -1)]
        for place, ((up, up_scores), (down, down_scores)) in enumerate(zip(*sides, strict=True)):
            rows.append((start + place, up, up_scores, down, down_scores))
        progress(Tick(f"lens {ensemble.method}", start + len(logits_NV), len(dictionary_MD), unit="features"))
    return pd.DataFrame(rows, columns=["feature", "promoted", "promoted_scores", "suppressed", "suppressed_scores"])


def _best(
    logits_NV: Tensor, count: int, allowed_V: Tensor, texts: TokenTexts, sign: int
) -> list[tuple[list[str], list[float]]]:
    """For each atom the texts and logits of the tokens with the largest logits, or the smallest if sign is −1.

    Of tokens that read the same the first is taken; fewer are given if there are many of these.
    """
    scores_NK, places_NK = (sign * logits_NV).topk(min(count + _ALIKE, len(allowed_V)), dim=1)
    tokens_NK = allowed_V[places_NK].tolist()
    found = []
    for tokens, scores in zip(tokens_NK, (sign * scores_NK).tolist(), strict=True):
        first: dict[str, tuple[str, float]] = {}
        for token, score in zip(tokens, scores, strict=True):
            text = texts.text(token)
            first.setdefault(show_alone(text), (text, score))
        kept = list(first.values())[:count]
        found.append(([text for text, _ in kept], [score for _, score in kept]))
    return found
