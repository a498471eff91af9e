"""The logit lens: find the next tokens that a feature's atom promotes and suppresses in the residual stream.

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
"""Number of extra tokens to look at, since several tokens may have the same text."""
_CELLS = 16_000_000


@torch.no_grad()
def promoted_tokens(
    ensemble: Ensemble, lens: Mapping[str, Tensor], texts: TokenTexts, *, count: int = 10, progress: Progress = silent
) -> pd.DataFrame:
    """Find the tokens that each feature promotes and suppresses most.

    Args:
        ensemble: The ensemble with the atoms.
        lens: The lens, as `lens_logits` takes it.
        texts: The readable texts of the tokens; special tokens and vocabulary rows without a token are left out.
        count: Number of tokens of each kind.
        progress: Told the number of features done.

    Returns:
        One row per feature: feature, promoted, promoted_scores, suppressed, suppressed_scores. The last four are lists,
        the strongest token first.
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
    """For each atom, the texts and logits of the tokens with the largest logits, or with the smallest if sign is −1.

    If several tokens have the same text, only the first counts; many such tokens make the lists shorter.
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
