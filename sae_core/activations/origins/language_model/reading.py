"""Activations of layers of a Hugging Face language model, text by text, without padding and special tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from sae_core.activations.origins.language_model.cutting import Passage, count_tokens, cut_texts
from sae_core.activations.origins.language_model.model import loading, sites
from sae_core.activations.origins.language_model.model.hooked import HookedModel
from sae_core.activations.origins.language_model.model.lens import NoLens, measure_lens
from sae_core.activations.origins.language_model.model.nature import Reached, examine, refuse_layer
from sae_core.activations.origins.language_model.model.running import first_output, run_model
from sae_core.activations.origins.language_model.model.spreading import to_device
from sae_core.activations.origins.language_model.model.vocabulary import refuse_unknown, vocabulary_table
from sae_core.activations.origins.language_model.model.weights import Weights, part_missing
from sae_core.activations.origins.language_model.tokenized import TextTokenizer, TokenizedText
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_folders import whole_folder
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.settings.run_settings import ModelSettings, Site, is_pattern

WHOLE = Weights()
"""Nothing is missing: a model that was made here."""
WINDOW_BYTES = 64 * 2**20
"""Activations gathered, sorted by length and returned together take about this much memory (in float32)."""
CPU_TOKENS = 2048
"""Tokens in one forward pass on the CPU at most; more leave its cache and are slower."""


class Place(NamedTuple):
    """Where activations are read.

    Attributes:
        layer: Index of the block.
        site: Its output, or what its MLP or its attention adds to the residual stream.
    """

    layer: int
    site: Site


@dataclass(frozen=True, slots=True)
class ActivationBatch:
    """Activations of the T ordinary tokens of some successive texts.

    Attributes:
        acts_PTD: float32, on the CPU, for each of the places that are read.
        tokens_T: int32, the tokens' ids.
        document_T: int64, the number of the text that each token belongs to.
        kept_T: Of all their ordinary tokens, whether each is here, where some are left out.
    """

    acts_PTD: Tensor
    tokens_T: Tensor
    document_T: Tensor
    kept_T: NDArray[np.bool_] | None = None

    @property
    def acts_TD(self) -> Tensor:
        """Activations at the first place."""
        return self.acts_PTD[0]


class LanguageModel:
    """A language model that is run up to the last layer that is read.

    Attributes:
        places: Where activations are read.
        name: As in the settings.
        tokenizer: The model's tokenizer, as transformers made it.
        device: Where it runs.
        d_model: Dimension of the activations, D.
        n_layers: Blocks of the whole model.
        context: Tokens a text is cut to, special ones included; never more than the model takes.
        causal: Whether no token of the model changes what comes before it; else it is an encoder.
        no_lens: Why there is no logit lens, where there is none.
        remarks: Sentences about what is not as one might expect: weights left over, a shorter context.
    """

    def __init__(
        self,
        model: PreTrainedModel | HookedModel,
        tokenizer: Any,
        settings: ModelSettings,
        *,
        device: str = "cpu",
        places: Sequence[Place] = (),
        weights: Weights = WHOLE,
    ) -> None:
        self.name, self.tokenizer, self.device = settings.name, tokenizer, device
        self.places = tuple(places) or (Place(settings.layer, settings.site),)
        self._nature = examine(model, tokenizer, name=settings.name, context=settings.context)
        self._blocks = self._nature.blocks
        self.d_model, self.n_layers = self._blocks.d_model, len(self._blocks)
        self.causal, self.context = self._nature.causal, self._nature.context
        self._batch_size = settings.batch_size
        self._model, self._base = model, model.base_model
        self._last = max(place.layer for place in self.places)
        if self._last >= self.n_layers:
            raise refuse_layer(self.name, self.n_layers, self._last)
        self.remarks: list[str] = [*self._nature.remarks(settings.context)]
        self.no_lens = self._check_weights(weights)
        self._tokens = TextTokenizer(
            tokenizer, causal=self.causal, context=self.context, rows=self._nature.rows, name=self.name
        )
        if self._tokens.lacks_front:
            self.remarks.append("No BOS is put in front of texts: the model's embedding has no row for it.")
        self._seen: dict[int, Tensor] = {}
        self._hooked = True
        self._read_at_places()

    @classmethod
    def load(cls, settings: ModelSettings, *, device: str = "cpu", places: Sequence[Place] = ()) -> LanguageModel:
        """Load by hub id or folder, or the embedded model, as `load_model` does.

        Args:
            settings: Which model, and where it is read unless ``places`` are given.
            device: Where it runs.
            places: Where it is read, all in one forward pass.

        Raises:
            UserError: If the model or its tokenizer is missing or unusable, lacks weights that are read or that the
                logits depend on, or has no such layer or site.
        """
        last = max((place.layer for place in places), default=settings.layer)
        loaded = loading.load_model(settings.model_copy(update={"layer": last}), device=device)
        return cls(loaded.model, loaded.tokenizer, settings, device=device, places=places, weights=loaded.weights)

    def _check_weights(self, weights: Weights) -> str | None:
        """Refuse a model whose files lack weights that are read. Why there is no logit lens, if they give none."""
        self.remarks += weights.remarks()
        if not self.causal:
            reason = "An encoder predicts no next token."
        elif not self._nature.predicts:
            reason = f"The files of model {self.name!r} hold no head that predicts the next token."
        else:
            reason = None
        if not weights.missing:
            return reason
        parts = part_missing(
            weights, self._model, self._base, self._blocks, last=self._last, ids_BL=self._nature.ids_BL
        )
        if parts["read"]:
            raise weights.refuse(parts["read"], use="is read")
        if parts["above"]:
            self.remarks.append(weights.said(parts["above"], use="of blocks above the layer: no loss can be measured"))
        if parts["head"] and not reason:
            if weights.headed:
                raise weights.refuse(parts["head"], use="its predictions depend on")
            reason = weights.said(parts["head"], use="so that it predicts nothing")
            self.remarks.append(reason)
        return reason

    def describe(self, layer: int, site: Site) -> str:
        """The tensor that is read at a place, in words."""
        block = self._blocks[layer]
        if is_pattern(site):
            return f"output of {site.replace('*', str(layer))} in {block.name}"
        if site != "residual":
            return f"output of the {site} in {block.name}"
        call = f", call {block.call + 1}" if self._blocks.shared else ""
        if block.state is None:
            return f"output of {block.name}{call}, in front of the final norm"
        times = "" if block.scale == 1 else f" times {block.scale:g}"
        return f"output of {block.name}{call} (hidden_states[{block.state}]{times})"

    def _read_at_places(self) -> None:
        """Let the forward pass leave its activations in `_seen` and end; move what is still needed to the device."""
        blocks, last = self._blocks, self._last
        blocks.cut(last + 1)  # those above are never run; this frees their memory
        to_device(self._model, self.device)
        example = self._nature.ids_BL.cpu().numpy()
        run = partial(self._forward, example, np.ones(example.shape, np.bool_))
        with self._stopped(blocks.on_output(last, self._stop)):
            parts = [place for place in self.places if place.site != "residual" and not is_pattern(place.site)]
            for layer in sorted({place.layer for place in parts}):
                if blocks.shared or blocks[layer].transposed:
                    raise sites.unsupported(blocks[layer].module)
                sites.check_parts_add_up(blocks[layer].module, run)
            modules = [sites.site_module(self._model, blocks[at.layer], at.layer, at.site) for at in self.places]
            read_at = zip(modules, (place.site for place in self.places), strict=True)
            self.d_model = sites.common_width([*read_at], blocks.d_model, example.shape, run)
        for number, place in enumerate(self.places):
            if place.site == "residual":
                blocks.on_output(place.layer, self._keep(number, transposed=blocks[place.layer].transposed))
            else:
                modules[number].register_forward_hook(self._keep(number))
        # Of several places in the last block, any may be the last to run.
        at_end = [module for module, place in zip(modules, self.places, strict=True) if place.layer == last]
        if len(at_end) == 1 and at_end[0] is not blocks[last].module:
            at_end[0].register_forward_hook(self._stop)
        else:
            blocks.on_output(last, self._stop)

    @staticmethod
    @contextmanager
    def _stopped(handles: Sequence[RemovableHandle]) -> Iterator[None]:
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _stop(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        if self._hooked:
            raise Reached

    def _keep(self, number: int, *, transposed: bool = False) -> Callable[[nn.Module, Any, Any], Any]:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            if self._hooked:
                # A copy, as some models add to the output of a part in its place.
                hidden = first_output(output).clone()
                self._seen[number] = hidden.transpose(0, 1) if transposed else hidden

        return keep

    def token_ids(self, texts: Sequence[str], *, context: int | None = None) -> list[NDArray[np.int32]]:
        """Ids of the ordinary tokens of each text: those whose activations `activations` gives."""
        return [encoded.ids[encoded.ordinary] for encoded in self._tokens.encode(texts, context)]

    def passages(self, texts: Sequence[str], *, room: int | None = None) -> list[list[Passage]]:
        """Each text cut into passages of at most ``room`` ordinary tokens, by default as many as the context holds."""
        return cut_texts(self._tokens, texts, room=room)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Ordinary tokens of each text, however long it is."""
        return count_tokens(self._tokens, texts)

    def char_spans(self, texts: Sequence[str], *, context: int | None = None) -> list[NDArray[np.int64]]:
        """Where the ordinary tokens of each text stand in it: first and last (exclusive) character of each [T, 2].

        Raises:
            UserError: If the tokenizer does not say so.
        """
        if not self.tokenizer.is_fast:
            raise UserError(f"The tokenizer of {self.name!r} does not say where its tokens stand; use another model.")
        return [encoded.spans[encoded.ordinary] for encoded in self._tokens.encode(texts, context, spans=True)]

    def activations(
        self, texts: Sequence[str], *, context: int | None = None, progress: Progress = silent
    ) -> Iterator[ActivationBatch]:
        """Activations of all ordinary tokens, text after text, in batches of some `WINDOW_BYTES`.

        A batch holds whole texts. Which ones depends only on the first of them and on those that follow, so that a job
        that goes on at the beginning of a batch gets the same numbers, bit by bit.

        Args:
            texts: The texts; an empty one has no activations.
            context: Tokens a text is cut to, special ones included; if not given, the settings'.
            progress: Told the number of texts done.
        """
        done = 0
        for window in self._windows(self._tokens.encode(texts, context)):
            if context is not None:  # texts of the corpus were looked at together, when they were chosen
                refuse_unknown(self.unknown_share(texts[done : done + len(window)], context=context), name=self.name)
            batch = self._read(
                window, done, lambda count: progress(Tick("read activations", count, len(texts), "texts"))
            )
            done += len(window)
            if len(batch.tokens_T):
                yield batch

    def batches(self, texts: Sequence[str]) -> Iterator[tuple[list[str], int]]:
        """The texts that `activations` runs together, and the tokens that this is with all padding."""
        first = 0
        for window in self._windows(self._tokens.encode(texts)):
            for numbers in self._batches(window):
                longest = max(len(window[number].ids) for number in numbers)
                yield [texts[first + number] for number in numbers], len(numbers) * longest
            first += len(window)

    def _windows(self, encoded: Iterator[TokenizedText]) -> Iterator[list[TokenizedText]]:
        limit = max(WINDOW_BYTES // (4 * self.d_model), 1)
        window: list[TokenizedText] = []
        tokens = 0
        for text in encoded:
            window.append(text)
            tokens += len(text.ids)
            if tokens >= limit:
                yield window
                window, tokens = [], 0
        if window:
            yield window

    def _read(self, window: Sequence[TokenizedText], first: int, tell: Callable[[int], None]) -> ActivationBatch:
        """Run the texts of one window, shortest first so that there is little padding, and put them back in order."""
        counts = np.array([int(text.ordinary.sum()) for text in window])
        starts = np.concatenate([[0], counts.cumsum()])
        acts_PTD = torch.empty(len(self.places), int(starts[-1]), self.d_model, device=self.device)
        done = 0
        for numbers in self._batches(window):
            done += len(numbers)
            ids_BL, present_BL = self._tokens.pad([window[number] for number in numbers])
            self._run(ids_BL, present_BL)
            places_BL = np.full(ids_BL.shape, -1, np.int64)
            for row, number in enumerate(numbers):
                ordinary = np.flatnonzero(window[number].ordinary)
                places_BL[row, ordinary] = starts[number] + np.arange(len(ordinary))
            wanted = np.flatnonzero(places_BL >= 0)
            from_T = torch.from_numpy(wanted).to(self.device)
            to_T = torch.from_numpy(places_BL.reshape(-1)[wanted]).to(self.device)
            for place, acts_TD in enumerate(acts_PTD):
                # Some models pad on the right themselves.
                hidden_BLD = self._seen.pop(place)[:, : ids_BL.shape[1]].to(self.device)
                acts_TD[to_T] = hidden_BLD.flatten(0, 1)[from_T].float()
            tell(first + done)
        tokens = [text.ids[text.ordinary] for text in window]
        return ActivationBatch(
            acts_PTD=acts_PTD.cpu(),
            tokens_T=torch.from_numpy(np.concatenate(tokens)),
            document_T=torch.from_numpy(first + np.repeat(np.arange(len(window)), counts)),
        )

    def _batches(self, window: Sequence[TokenizedText]) -> Iterator[NDArray[np.int64]]:
        """The numbers of the texts that are run together, of those that have ordinary tokens, the shortest first."""
        order = np.argsort([len(text.ids) for text in window], kind="stable")
        order = order[[bool(window[number].ordinary.any()) for number in order]]
        lengths = np.array([len(window[number].ids) for number in order])
        done = 0
        while done < len(order):
            most = done + self._batch_rows(int(lengths[done]))
            if not self._nature.pads:  # texts of one length alone need no padding
                most = min(most, int(np.searchsorted(lengths, lengths[done], side="right")))
            numbers = order[done:most]
            done += len(numbers)
            yield numbers

    def _batch_rows(self, length: int) -> int:
        """Texts of about ``length`` tokens to run together."""
        return min(self._batch_size, max(1, CPU_TOKENS // length)) if self.device == "cpu" else self._batch_size

    def _run(self, ids_BL: NDArray[np.int64], present_BL: NDArray[np.bool_]) -> None:
        """Leave the activations [B, L, D] of each place in `_seen`."""
        self._forward(ids_BL, present_BL)
        if len(self._seen) < len(self.places):
            raise UserError(f"Model {self.name!r} never runs the layer that is asked for; choose another one.")

    @torch.inference_mode()
    def _forward(self, ids_BL: NDArray[np.int64], present_BL: NDArray[np.bool_]) -> None:
        with suppress(Reached):
            run_model(self._base, ids_BL, present_BL, device=self.device, restore=self._nature.restores)

    def lens(self) -> dict[str, Tensor] | None:
        """What the logit lens needs, as `measure_lens` gives it; None where `no_lens` says why there is none."""
        if self.no_lens:
            return None
        self._hooked = False
        try:
            return measure_lens(self._model, self._blocks, self._nature.ids_BL.to(self.device))
        except NoLens as error:
            self.no_lens = f"Model {self.name!r} has no logit lens: {error}."
            self.remarks.append(self.no_lens)
            return None
        finally:
            self._hooked = True

    def unknown_share(self, texts: Sequence[str], *, context: int | None = None) -> float:
        """Share of the characters of texts that the tokenizer does not know."""
        return self._tokens.unknown_share(texts, context)

    def check_known(self, texts: Sequence[str]) -> float:
        """The share of characters of a corpus that the tokenizer does not know, which becomes a remark.

        Raises:
            UserError: If it is more than half.
        """
        share = self.unknown_share(texts)
        refuse_unknown(share, name=self.name)
        if share > 0:
            self.remarks.append(f"The tokenizer does not know {share:.2%} of the characters.")
        return share

    def vocabulary(self, texts: Sequence[str]) -> pd.DataFrame | None:
        """What every token reads like, as `vocabulary_table` says it; None where the tokenizer's file says it."""
        return None if self.tokenizer.is_fast else vocabulary_table(self.tokenizer, texts, rows=self._nature.rows)

    def save_tokenizer(self, folder: Path) -> None:
        """Save the tokenizer in transformers format; the folder appears whole or not at all."""
        if self.tokenizer.is_fast:  # a fast one is saved with whatever the last call cut texts to
            self.tokenizer.backend_tokenizer.no_truncation()
            self.tokenizer.backend_tokenizer.no_padding()
        with whole_folder(folder) as made:
            self.tokenizer.save_pretrained(made)
