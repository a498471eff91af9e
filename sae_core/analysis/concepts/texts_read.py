"""Read texts with the run's language model for evaluations, and record how much of the texts was read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sae_core.activations.origins.language_model.left_out import LeftOut
from sae_core.activations.origins.language_model.reading import ActivationBatch, LanguageModel
from sae_core.activations.origins.text.asked import what_was_read
from sae_core.analysis.concepts.tasks import Task
from sae_core.foundation.progress import Progress, Tick
from sae_core.foundation.run import Run


class TextReader:
    """Return the activations of texts, cut to ``evaluation.tokens_per_text``; the first text opens the model.

    Args:
        run: The run, whose settings name the model.
        device: The device of the model.
        progress: Told about texts, and about text that is cut off.
        model: The model, if it is open already.
    """

    def __init__(self, run: Run, device: str, progress: Progress, *, model: LanguageModel | None = None) -> None:
        self._settings, self._device, self._progress = run.settings, device, progress
        self._asked = run.settings.evaluation.tokens_per_text
        self._opened, self._left_out = model, LeftOut.of(run)

    @property
    def _model(self) -> LanguageModel:
        if self._opened is None:
            self._opened = LanguageModel.load(self._settings.model, device=self._device)
        return self._opened

    def __call__(self, texts: Sequence[str]) -> Iterator[ActivationBatch]:
        """Return activations of texts, as `LanguageModel.activations` does, without the tokens that are left out."""
        if texts:
            batches = self._model.activations(texts, context=self._asked, progress=self._progress)
            yield from map(self._left_out.batch, batches)

    def described(self, name: str, texts: Iterable[str]) -> dict[str, Any]:
        """Describe how much of some texts is read: the limit of tokens (asked for and used), and the tokens cut off.

        Each different text counts once. If not all is read, ``progress`` gets the sentence of `what_was_read`.

        Args:
            name: The name of the texts.
            texts: The texts.
        """
        different = list(dict.fromkeys(texts))
        whole = np.array(self._model.count_tokens(different), np.int64)
        read = np.array([len(ids) for ids in self._model.token_ids(different, context=self._asked)], np.int64)
        facts = {
            "tokens_per_text": min(self._asked, self._model.context),
            "tokens_per_text_asked": self._asked,
            "texts": len(different),
            "cut_texts": int((whole > read).sum()),
            "tokens": int(read.sum()),
            "dropped_tokens": int((whole - read).sum()),
            "dropped_share": float((whole - read).sum() / max(whole.sum(), 1)),
            "unknown_share": self._model.unknown_share(different, context=self._asked),
        }
        if said := what_was_read(facts):
            self._progress(Tick(name, 0, 0, note=f"Task {name}: {said}"))
        return facts

    def describe(self, facts: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, Any]:
        """Add to the content of evaluation/concepts.json how much of each task's texts was read."""
        by_name = {task.name: self.described(task.name, (*task.train_texts, *task.test_texts)) for task in tasks}
        settings = dict(facts["settings"])
        for read in by_name.values():  # the same for all tasks
            settings |= {key: read[key] for key in ("tokens_per_text", "tokens_per_text_asked")}
        described = [{**each, "read": by_name[each["task"]]} for each in facts["tasks"]]
        return {**facts, "tasks": described, "settings": settings}
