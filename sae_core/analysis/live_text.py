"""Send a typed text through a run's language model and an ensemble, to show which features fire on which tokens."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.activations.origins.text.token_texts import TokenTexts
from sae_core.analysis.shared.ensemble_codes import Encoders, partial_sums
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.clean_text import clean_text
from sae_core.foundation.machine.device import naming_full_memory, resolve_device
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import ModelSettings

if TYPE_CHECKING:
    from sae_core.activations.origins.language_model.reading import LanguageModel

MAX_CHARS = 4000
"""Largest number of characters to read."""
MAX_TOKENS = 256
"""Largest number of tokens to read, including those that the tokenizer adds around a text."""


@dataclass(frozen=True, slots=True)
class ReadText:
    """A text as the model reads it: T tokens without special ones, and their activations.

    Attributes:
        text: The part of the text that was read.
        tokens: int32 [T], the tokens.
        acts_TD: float32 [T, D], on the CPU, rounded as the run's cache is.
        cut: Whether the text goes on after the last token.
        left_T: Whether a token is left out, so that no feature fires on it [T]; None leaves out none.
    """

    text: str
    tokens: NDArray[np.int32]
    acts_TD: Tensor
    cut: bool
    left_T: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class LiveText:
    """The code of an ensemble of J members for a text of T tokens; E coefficients are not 0.

    Attributes:
        text: The part of the text that was read.
        tokens: int32 [T], the tokens without special ones.
        texts: The readable text of each token.
        cut: Whether the text goes on after the last token.
        features: int64 [E], the feature of each coefficient, in the ensemble's numbering.
        rows: int64 [E], the token of each coefficient; ascending within a member, members one after another.
        values: float32 [E], the coefficient with α folded in, as in the index.
        pointers: int64 [J + 1]; member j has the coefficients pointers[j] to pointers[j + 1].
        energy_T: float32 [T], ‖a‖² of each token's activation.
        left_JT: float32 [J, T], ‖a − â_j‖², where â_j is the reconstruction by the first j + 1 members as
            `Ensemble.first` wires them. For a boosted ensemble, this is the energy left after each stage; for a bagged
            one, after averaging so many members. Divided by the row before (by ``energy_T`` for the first row), it is
            the share that a stage leaves.
    """

    text: str
    tokens: NDArray[np.int32]
    texts: list[str]
    cut: bool
    features: NDArray[np.int64]
    rows: NDArray[np.int64]
    values: NDArray[np.float32]
    pointers: NDArray[np.int64]
    energy_T: NDArray[np.float32]
    left_JT: NDArray[np.float32]

    def __len__(self) -> int:
        """Tokens, T."""
        return len(self.tokens)

    def member(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """(features, rows, values) of one member's coefficients."""
        part = slice(int(self.pointers[number]), int(self.pointers[number + 1]))
        return self.features[part], self.rows[part], self.values[part]

    def values_of(self, feature: int) -> NDArray[np.float32]:
        """One feature's coefficient at every token [T]."""
        here = self.features == feature
        values_T = np.zeros(len(self.tokens), np.float32)
        values_T[self.rows[here]] = self.values[here]
        return values_T


class TextReader:
    """A language model that reads texts for several people, one text at a time, since reading changes its state.

    Args:
        settings: The model and the layer.
        device: The device: auto, cpu, cuda or cuda:N.

    Raises:
        UserError: If there is no such model, or the model cannot be loaded or does not fit into memory.
    """

    def __init__(self, settings: ModelSettings, *, device: str = "auto") -> None:
        # Import transformers here: the import takes seconds, and only a typed text needs it.
        from sae_core.activations.origins.language_model.reading import LanguageModel

        place = resolve_device(device)
        with naming_full_memory(place, "close other programs that use it"):
            self._model: LanguageModel = LanguageModel.load(settings, device=place)
        self._lock = threading.Lock()

    def read(self, text: str, *, dtype: str = "float32") -> ReadText:
        """Read the beginning of a text, at most `MAX_CHARS` characters and `MAX_TOKENS` tokens.

        Args:
            text: The text.
            dtype: Number format to which activations are rounded, like ``data.dtype`` for a run's cache.

        Raises:
            UserError: If the text has no tokens.
        """
        start = clean_text(text[:MAX_CHARS])
        with self._lock:
            batch = next(iter(self._model.activations([start], context=MAX_TOKENS)), None)
            (all_tokens,) = self._model.count_tokens([start])
        if batch is None:
            raise UserError("There is no token in this text; type a word or a sentence.")
        tokens = batch.tokens_T.numpy()
        acts_TD = batch.acts_TD.to(getattr(torch, dtype)).float()
        return ReadText(start, tokens, acts_TD, cut=len(text) > MAX_CHARS or all_tokens > len(tokens))


def encode_text(ensemble: Ensemble, read: ReadText, texts: TokenTexts) -> LiveText:
    """Encode a text: return the coefficients that the index would have if the text were a document.

    Args:
        ensemble: The ensemble, ready for inference.
        read: The text, read at the layer of the ensemble's training.
        texts: The readable texts of the vocabulary.

    Raises:
        UserError: If the ensemble was trained on activations of another dimension.
    """
    if read.acts_TD.shape[1] != ensemble.d_in:
        raise UserError(
            f"The language model gives activations of dimension {read.acts_TD.shape[1]}, the ensemble was trained on "
            f"{ensemble.d_in}; put back the model that the run was trained with."
        )
    acts_TD = read.acts_TD.to(ensemble.device)
    ((_, codes),) = Encoders({ensemble.method: ensemble}).codes(acts_TD, decode=True)
    members = list(codes)
    left = [(acts_TD - part_TD).square().sum(dim=1) for part_TD in partial_sums(ensemble, members)]
    entries = [[column_E.cpu().numpy() for column_E in step.entries()] for step in members]
    if read.left_T is not None:
        entries = [
            [column_E[~read.left_T[rows_E]] for column_E in (features_E, rows_E, values_E)]
            for features_E, rows_E, values_E in entries
        ]
    features, rows, values = zip(*entries, strict=True)
    return LiveText(
        text=read.text,
        tokens=read.tokens,
        texts=texts.sequence(read.tokens.tolist()),
        cut=read.cut,
        features=np.concatenate(features),
        rows=np.concatenate(rows),
        values=np.concatenate(values),
        pointers=np.cumsum([0, *map(len, values)]),
        energy_T=acts_TD.square().sum(dim=1).cpu().numpy(),
        left_JT=torch.stack(left).cpu().numpy(),
    )


def read_text(run: Run, reader: TextReader, text: str) -> ReadText:
    """Read a text with a run's language model, with the number format of the run's cache.

    Raises:
        UserError: As `TextReader.read`.
    """
    from sae_core.activations.origins.language_model.left_out import LeftOut

    read, left_out = reader.read(text, dtype=run.settings.data.dtype), LeftOut.of(run)
    return replace(read, left_T=left_out.rows(read.tokens, read.acts_TD)) if left_out else read
