"""A causal language model in which the activations of one layer are replaced, and how well it then predicts.

Loss recovered: Bricken et al. 2023, *Towards Monosemanticity*; with KL divergence in SAEBench (Karvonen et al. 2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from sae_core.activations.origins.language_model.left_out import EVERY_TOKEN, LeftOut
from sae_core.activations.origins.language_model.model import loading, sites
from sae_core.activations.origins.language_model.model.blocks import Blocks
from sae_core.activations.origins.language_model.model.hooked import HookedModel
from sae_core.activations.origins.language_model.model.nature import examine, refuse_layer
from sae_core.activations.origins.language_model.model.running import (
    copied,
    first_output,
    returning,
    run_model,
    with_hidden,
)
from sae_core.activations.origins.language_model.model.spreading import to_device
from sae_core.activations.origins.language_model.model.weights import Weights, part_missing
from sae_core.activations.origins.language_model.tokenized import TextTokenizer, TokenizedText
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import ModelSettings

CPU_LOGITS, GPU_LOGITS = 2**24, 2**27
"""Logits of a forward pass at most: 64 MB on a CPU, 512 MB on a GPU; a single text may have more."""
SAME = 1e-3
"""Nats a token up to which predictions count as unchanged when a model's own activations are put back."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Effect:
    """How well the model predicts, summed over the predictions of each text.

    Attributes:
        cross_entropy_B: Cross-entropy of the next tokens, in nats [B].
        kl_B: KL divergence of the model's own predictions from these, in nats [B].
    """

    cross_entropy_B: Floats
    kl_B: Floats


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a forward pass leaves: logits [B, L, V], the output at the site, and that of the block before."""

    logits_BLV: Tensor
    output: Any
    before: Any


class Passages:
    """Some texts, as the model reads them.

    Attributes:
        acts_TD: Activations of their T ordinary tokens that are not left out, text after text, float32.
        own: The model's own predictions; their KL is 0.
        predicted_B: How many tokens of each text are predicted [B]: an ordinary one, from one that is replaced. So
            what BOS predicts, or a token that is left out, does not count.
        numbers_B: The place of each text among those that were given [B].
    """

    def __init__(
        self, model: SubstitutedModel, texts: Sequence[TokenizedText], numbers: Sequence[int] | None = None
    ) -> None:
        self._model = model
        self.numbers_B = np.arange(len(texts)) if numbers is None else np.array(numbers, np.int64)
        self._ids_BL, self._present_BL = model.tokens.pad(texts)
        ordinary_BL = np.zeros(self._ids_BL.shape, dtype=bool)
        for row, text in enumerate(texts):
            ordinary_BL[row, : len(text.ids)] = text.ordinary
        self._reading = model.read(self._ids_BL, self._present_BL)
        hidden_RD, replaced_BL = first_output(self._reading.output).flatten(0, 1).to(model.device), ordinary_BL
        if model.left_out:
            replaced_BL = ordinary_BL & ~model.left_out.rows(self._ids_BL.ravel(), hidden_RD).reshape(ordinary_BL.shape)
        self._text_P, column_P = np.nonzero(replaced_BL[:, :-1] & ordinary_BL[:, 1:])
        self.predicted_B = np.bincount(self._text_P, minlength=len(texts))
        place_T, place_P = np.flatnonzero(replaced_BL), self._text_P * len(ordinary_BL[0]) + column_P
        self._place_T, self._place_P, self._next_P = (
            torch.from_numpy(part).to(model.device)
            for part in (place_T, place_P, self._ids_BL[self._text_P, column_P + 1])
        )
        self.acts_TD = hidden_RD[self._place_T].float()
        logits_BLV = self._reading.logits_BLV
        self._reading = replace(self._reading, logits_BLV=logits_BLV[:0])
        self._own_PV = logits_BLV.flatten(0, 1)[self._place_P].float().softmax(dim=1)
        self._own_surprise_P = self._expected_surprise(*self._scores(logits_BLV))
        self.own = self._effect(logits_BLV)

    def substitute(self, acts_TD: Tensor) -> Effect:
        """The predictions with other activations [T, D] in the place of `acts_TD`."""
        hidden_BLD = first_output(self._reading.output).clone()
        hidden_BLD.flatten(0, 1)[self._place_T.to(hidden_BLD.device)] = acts_TD.to(hidden_BLD.device, hidden_BLD.dtype)
        output = with_hidden(self._reading.output, hidden_BLD)
        return self._effect(self._model.reread(self._ids_BL, self._present_BL, output, self._reading.before))

    def _effect(self, logits_BLV: Tensor) -> Effect:
        logits_PV, total_P = self._scores(logits_BLV)
        surprise_P = total_P - logits_PV.gather(1, self._next_P[:, None]).squeeze(1)
        kl_P = self._expected_surprise(logits_PV, total_P) - self._own_surprise_P
        return Effect(self._by_text(surprise_P), self._by_text(kl_P))

    def _scores(self, logits_BLV: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [P, V] of what counts, and the log of the sum of their exponentials [P]."""
        logits_PV = logits_BLV.flatten(0, 1)[self._place_P].float()
        return logits_PV, logits_PV.logsumexp(dim=1)

    def _expected_surprise(self, logits_PV: Tensor, total_P: Tensor) -> Tensor:
        """Cross-entropy with the model's own predictions [P]; less their entropy, it is the KL divergence."""
        return total_P - torch.einsum("pv,pv->p", self._own_PV, logits_PV)

    def _by_text(self, nats_P: Tensor) -> Floats:
        weights = nats_P.double().cpu().numpy()
        return np.bincount(self._text_P, weights=weights, minlength=len(self.predicted_B)).astype(np.float64)


class UnpredictingError(UserError):
    """A model of which there is no loss to measure."""


class SubstitutedModel:
    """A whole causal language model, of which the activations at one place can be replaced.

    Attributes:
        device: Where it runs.
        tokens: Its tokenizer.
        left_out: Which tokens are never replaced, beside special ones.
    """

    def __init__(
        self,
        model: PreTrainedModel | HookedModel,
        tokenizer: Any,
        settings: ModelSettings,
        *,
        device: str = "cpu",
        weights: Weights | None = None,
        left_out: LeftOut = EVERY_TOKEN,
    ) -> None:
        self.left_out = left_out
        self._model, self._name, self.device = model, settings.name, device
        nature = examine(model, tokenizer, name=settings.name, context=settings.context)
        self._blocks, self._layer, self._pads = nature.blocks, settings.layer, nature.pads
        if self._layer >= len(self._blocks):
            raise refuse_layer(settings.name, len(self._blocks), self._layer)
        if not nature.causal:
            raise UnpredictingError(f"{settings.name} is an encoder, which predicts no next token.")
        if not nature.predicts:
            raise UnpredictingError(f"The files of {settings.name} hold no head that predicts the next token.")
        if weights is not None and weights.missing:
            _check_whole(weights, model, nature.blocks, self._layer, nature.ids_BL)
        if self._blocks.shared or self._blocks[self._layer].transposed:
            raise UnpredictingError(f"One block of {settings.name} cannot be replaced alone.")
        to_device(self._model, self.device)
        self.tokens = TextTokenizer(
            tokenizer, causal=True, context=nature.context, rows=nature.rows, name=settings.name
        )
        self._site = sites.site_module(model, self._blocks[self._layer], self._layer, settings.site)
        self._vocabulary = int(model.config.get_text_config().vocab_size)
        self._skips: bool | None = None
        self._restores = nature.restores

    @classmethod
    def load(cls, settings: ModelSettings, *, device: str = "cpu", left_out: LeftOut = EVERY_TOKEN) -> SubstitutedModel:
        """Load by hub id or folder, or the embedded model, as `load_model` does.

        Raises:
            UnpredictingError: If the model predicts no next token, or its files lack weights that this depends on.
            UserError: If the model is missing or unusable, or has no such layer or site.
        """
        loaded = loading.load_model(settings, device=device)
        return cls(loaded.model, loaded.tokenizer, settings, device=device, weights=loaded.weights, left_out=left_out)

    def passages(self, texts: Sequence[str], *, tokens: int) -> Iterator[Passages]:
        """Read the first texts that together have at most ``tokens`` ordinary tokens (at least one text).

        Texts in which nothing is predicted are passed over; the shortest come first.

        Raises:
            UserError: If putting the model's own activations back changes what it predicts.
        """
        chosen: list[tuple[int, TokenizedText]] = []
        total = 0
        for number, text in enumerate(self.tokens.encode(texts)):
            size = int(text.ordinary.sum())
            if chosen and total + size > tokens:
                break
            if size > 1:
                chosen.append((number, text))
                total += size
        chosen.sort(key=lambda one: len(one[1].ids))
        limit = (CPU_LOGITS if self.device == "cpu" else GPU_LOGITS) // self._vocabulary
        while chosen:
            count = 1
            while count < len(chosen) and (count + 1) * len(chosen[count][1].ids) <= limit:
                if not self._pads and len(chosen[count][1].ids) > len(chosen[0][1].ids):
                    break
                count += 1
            group, chosen = chosen[:count], chosen[count:]
            numbers, own = zip(*group, strict=True)
            yield self._checked(own, numbers)

    def _checked(self, texts: Sequence[TokenizedText], numbers: Sequence[int]) -> Passages:
        """The passages; the first time, find out whether blocks before the place may be left out."""
        passages = Passages(self, texts, numbers)
        if self._skips is None:
            self._skips = next((skips for skips in (True, False) if self._is_same(passages, skips)), None)
        if self._skips is None:
            raise UserError(
                f"Activations of model {self._name!r} cannot be put back at layer {self._layer} without changing what "
                "it predicts; choose another layer or site."
            )
        return passages

    def _is_same(self, passages: Passages, skips: bool) -> bool:
        self._skips = skips
        same = passages.substitute(passages.acts_TD)
        return bool(same.kl_B.sum() <= SAME * passages.predicted_B.sum())  # not so for NaN

    @torch.inference_mode()
    def read(self, ids_BL: NDArray[np.int64], present_BL: NDArray[np.bool_]) -> _Reading:
        """Run the model as it is."""
        seen: dict[str, Any] = {}

        def keep(name: str) -> Any:
            # A copy, as some models add to the output of a part in its place.
            return lambda _module, _args, output: seen.update({name: copied(output)})

        handles = [self._site.register_forward_hook(keep("output"))]
        if self._layer:
            handles += self._blocks.on_output(self._layer - 1, keep("before"))
        try:
            logits_BLV = self._logits(ids_BL, present_BL)
        finally:
            for handle in handles:
                handle.remove()
        return _Reading(logits_BLV, seen["output"], seen.get("before"))

    @torch.inference_mode()
    def reread(self, ids_BL: NDArray[np.int64], present_BL: NDArray[np.bool_], output: Any, before: Any) -> Tensor:
        """Logits [B, L, V] with another output at the site; blocks before it, whose output is known, are not run."""
        with ExitStack() as stack:
            stack.enter_context(returning(self._site, output))
            for number in range(self._layer) if self._skips else ():
                stack.enter_context(returning(self._blocks[number].module, copied(before)))
            return self._logits(ids_BL, present_BL)

    def _logits(self, ids_BL: NDArray[np.int64], present_BL: NDArray[np.bool_]) -> Tensor:
        logits: Tensor = run_model(self._model, ids_BL, present_BL, device=self.device, restore=self._restores).logits
        return logits.to(self.device)


def _check_whole(weights: Weights, model: Any, blocks: Blocks, layer: int, ids_BL: Tensor) -> None:
    """Refuse a model whose files lack weights that its predictions depend on."""
    parts = part_missing(weights, model, model.base_model, blocks, last=layer, ids_BL=ids_BL)
    for names in (parts["read"], parts["above"], parts["head"]):
        if names:
            raise UnpredictingError(str(weights.refuse(names, use="its predictions depend on")))
