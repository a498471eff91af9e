"""Measure loss recovered: how well the language model predicts with reconstructions instead of activations.

(L_ablated − L_reconstructed) / (L_ablated − L_model), where L is the cross-entropy of the next token, or the KL
divergence from the model's own predictions (0 for the model itself), and ablated means activations set to zero or to
their mean. 1 is as good as the model, 0 is as bad as without the layer; the figure may be negative.

Sources: Bricken et al. 2023, *Towards Monosemanticity*; Karvonen et al. 2025, *SAEBench*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.activations.origins.language_model.substitution import Effect, Passages, SubstitutedModel
from sae_core.analysis.reconstruction.reconstruction import defined
from sae_core.analysis.shared.bootstrap import ABOVE, differences, interval
from sae_core.analysis.shared.ensemble_codes import Encoders, partial_sums
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.progress import Progress, Tick, silent

MODEL, ZERO, MEAN = "model", "zero", "mean"
"""The unchanged model, and the model with all activations set to zero or to their mean."""
REFERENCES = (MODEL, ZERO, MEAN)

Key = tuple[str, int]
"""(ensemble, number of its first members that are used), or (one of `REFERENCES`, 0)."""
Floats = NDArray[np.float64]


@dataclass(slots=True)
class _Sums:
    """The sums of each text, gathered batch by batch."""

    cross_entropy: dict[Key, list[Floats]] = field(default_factory=dict)
    kl: dict[Key, list[Floats]] = field(default_factory=dict)
    predicted: list[NDArray[np.int64]] = field(default_factory=list)
    numbers: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, key: Key, effect: Effect) -> None:
        self.cross_entropy.setdefault(key, []).append(effect.cross_entropy_B)
        self.kl.setdefault(key, []).append(effect.kl_B)


@torch.no_grad()
def measure_loss(
    ensembles: Mapping[str, Ensemble],
    model: SubstitutedModel,
    texts: Sequence[str],
    mean_D: Tensor,
    *,
    tokens: int,
    documents: Sequence[int] | None = None,
    bootstrap: int = 200,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Put the reconstructions of the first 1, 2, … J members of every ensemble back into the model.

    Only ordinary tokens are replaced, since SAEs are not trained on special tokens (BOS), nor on those that are left
    out. Only predictions of ordinary tokens from replaced ones count.

    Args:
        ensembles: Ensembles by name, on the model's device.
        model: The language model, at the layer of the ensembles.
        texts: Held-out texts.
        mean_D: Mean activation, for mean ablation.
        tokens: Largest number of ordinary tokens; the first whole texts are taken.
        documents: The number of each text's document; by default each text is its own document.
        bootstrap: Number of bootstrap samples of documents for an interval.
        seed: Seed of the bootstrap.
        progress: Told the number of tokens done.

    Returns:
        The content of evaluation/loss.json: ``tokens`` replaced, ``predictions``, ``texts``, ``documents``;
        ``cross_entropy`` and ``kl`` of the references, in nats per prediction; and for each of the ``ensembles`` its
        ``cross_entropy``, ``kl`` and ``loss_recovered_above`` (the interval of the difference to other ensembles, on
        the same draws of documents). ``loss_recovered`` (with interval) and ``kl_recovered`` have zero ablation as the
        reference; the same figures with ``_mean`` have mean ablation. All of them are also given ``by_members``. A
        figure is None if an ablation does no harm.
    """
    encoders, sums, done = Encoders(ensembles), _Sums(), 0
    for passages in model.passages(texts, tokens=tokens):
        if not len(passages.acts_TD):  # all tokens of these texts are left out
            continue
        for key, effect in _effects(passages, encoders, mean_D):
            sums.add(key, effect)
        sums.predicted.append(passages.predicted_B)
        sums.numbers.append(passages.numbers_B)
        done += len(passages.acts_TD)
        progress(Tick("put reconstructions back", done, tokens))
    figures = _Figures(sums, documents, bootstrap=bootstrap, seed=seed)
    return {
        "defined": bool(figures.predictions),
        "tokens": done,
        "predictions": figures.predictions,
        "texts": len(figures.predicted_B),
        "documents": figures.documents,
        "bootstrap": bootstrap,
        "seed": seed,
        "cross_entropy": {name: figures.mean(figures.cross_entropy, (name, 0)) for name in REFERENCES},
        "kl": {name: figures.mean(figures.kl, (name, 0)) for name in REFERENCES},
        "ensembles": figures.of_all({name: len(ensemble) for name, ensemble in ensembles.items()}),
    }


def undefined(reason: str) -> dict[str, Any]:
    """The content of evaluation/loss.json for a run without a loss to recover."""
    return {"defined": False, "reason": reason, "tokens": 0, "predictions": 0, "texts": 0, "ensembles": {}}


def _effects(passages: Passages, encoders: Encoders, mean_D: Tensor) -> Iterator[tuple[Key, Effect]]:
    acts_TD = passages.acts_TD
    yield (MODEL, 0), passages.own
    yield (ZERO, 0), passages.substitute(torch.zeros_like(acts_TD))
    yield (MEAN, 0), passages.substitute(mean_D.to(acts_TD).expand_as(acts_TD))
    # The single SAE, the first bagged member and the first stage are usually the same, so the model runs once for all.
    known: list[tuple[Tensor, Effect]] = []
    for name, codes in encoders.codes(acts_TD, decode=True):
        for number, acts_hat_TD in enumerate(partial_sums(encoders.ensembles[name], codes)):
            effect = next((effect for other_TD, effect in known if torch.equal(other_TD, acts_hat_TD)), None)
            if effect is None:
                effect = passages.substitute(acts_hat_TD)
                known.append((acts_hat_TD, effect))
            yield (name, number + 1), effect


class _Figures:
    """Means over predictions, with intervals by a bootstrap over documents, whose tokens are not independent."""

    def __init__(self, sums: _Sums, documents: Sequence[int] | None, *, bootstrap: int, seed: int) -> None:
        self.predicted_B = np.concatenate(sums.predicted) if sums.predicted else np.zeros(0, np.int64)
        self.predictions = int(self.predicted_B.sum())
        self.cross_entropy = {key: np.concatenate(parts) for key, parts in sums.cross_entropy.items()}
        self.kl = {key: np.concatenate(parts) for key, parts in sums.kl.items()}
        numbers_B = np.concatenate(sums.numbers) if sums.numbers else np.zeros(0, np.int64)
        document_B = numbers_B if documents is None else np.array(documents, np.int64)[numbers_B]
        names, place_B = np.unique(document_B, return_inverse=True)
        self.documents = count = len(names)
        self._draws_RB: NDArray[np.int64] = np.zeros((0, len(document_B)), np.int64)
        if count > 1:
            drawn_RU = np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=bootstrap)
            self._draws_RB = drawn_RU[:, place_B]

    def mean(self, sums: Mapping[Key, Floats], key: Key) -> float | None:
        """The mean in nats per prediction."""
        return defined(float(sums[key].sum()) / self.predictions) if self.predictions else None

    def of_all(self, members: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """The figures of ensembles with the given numbers of members, and the differences between ensembles."""
        above: dict[str, dict[str, Any]] = {name: {} for name in members}
        if self.predictions:
            drawn = {name: self._drawn(self.cross_entropy, (name, count), (ZERO, 0)) for name, count in members.items()}
            above = {name: {f"loss_recovered{ABOVE}": found} for name, found in differences(drawn).items()}
        return {name: {**self.of(name, count), **above[name]} for name, count in members.items()}

    def of(self, name: str, members: int) -> dict[str, Any]:
        """The figures of an ensemble and of its first members."""
        by_members = [{"members": count, **self._recovered((name, count))} for count in range(1, members + 1)]
        return {**by_members[-1], "by_members": by_members}

    def _recovered(self, key: Key) -> dict[str, Any]:
        figures: dict[str, Any] = {"cross_entropy": None, "kl": None}
        for ending, ablation in (("", ZERO), ("_mean", MEAN)):
            loss, low, high = self._share(self.cross_entropy, key, (ablation, 0))
            figures |= {f"loss_recovered{ending}": loss, f"loss_recovered{ending}_interval": [low, high]}
            figures[f"kl_recovered{ending}"] = self._share(self.kl, key, (ablation, 0))[0]
        if self.predictions:
            figures |= {"cross_entropy": self.mean(self.cross_entropy, key), "kl": self.mean(self.kl, key)}
        return figures

    def _share(self, sums: Mapping[Key, Floats], key: Key, ablation: Key) -> tuple[float | None, ...]:
        """(recovered share, 95 % from, to); None if an ablation does no harm, or if one text gives no interval."""
        if not self.predictions:
            return None, None, None
        gain_B, harm_B = sums[ablation] - sums[key], sums[ablation] - sums[MODEL, 0]
        harm = float(harm_B.sum())
        if not harm > 0:
            return None, None, None
        low, high = interval(self._drawn(sums, key, ablation))
        return float(gain_B.sum()) / harm, defined(low), defined(high)

    def _drawn(self, sums: Mapping[Key, Floats], key: Key, ablation: Key) -> Floats:
        """The recovered share on every draw of texts; NaN if the ablation does no harm on a draw."""
        gain_R = self._draws_RB @ (sums[ablation] - sums[key])
        harm_R = self._draws_RB @ (sums[ablation] - sums[MODEL, 0])
        drawn_R: Floats = gain_R / np.where(harm_R > 0, harm_R, np.nan)
        return drawn_R
