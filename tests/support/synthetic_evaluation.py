"""The evaluation of a synthetic run by the real stages; a toy language model of token vectors stands in for a real one.

The activation of a token is its vector and some of the one before, and from an activation the model predicts the token
whose vector is most like it. So reconstructions that lose a word lose its prediction.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sae_core.activations.origins.language_model.substitution import Effect
from sae_core.activations.store.cache import CacheWriter
from sae_core.analysis.concepts.detection import measure_concepts
from sae_core.analysis.concepts.runs import write_concepts
from sae_core.analysis.concepts.tasks import Task
from sae_core.analysis.concepts.texts_read import TextReader
from sae_core.analysis.evaluate import evaluate_run
from sae_core.analysis.reconstruction.control import measure_controls, with_loss
from sae_core.analysis.reconstruction.loss import measure_loss
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.files.whole_files import write_json
from sae_core.foundation.progress import Progress, silent
from sae_core.foundation.run import Run

NOISE = 0.15
"""Standard deviation of each dimension of an activation, beside vectors of length 1."""
CONCEPTS = {"library": ["numpy", "pandas", "scipy", "torch"], "kind": ["example", "parameters", "prose"]}
"""The classes of the tasks; texts of a class prefer the words of its place among them."""
TRAIN_TEXTS, TEST_TEXTS = 8, 4
"""Of each library and kind."""
LOSS_TEXTS = 12
SHARPNESS = 4.0
"""Logits for a cosine of 1 between vectors of length 1: the model is rather sure of its predictions."""

Encode = Callable[[Sequence[str]], list[list[int]]]
"""Gives the tokens of each text."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Activations [T, D] of some texts, and the number of each one's text."""

    acts_TD: Tensor
    document_T: Tensor


class ToyModel:
    """A language model without layers.

    Args:
        encode: Its tokenizer.
        vocabulary: Tokens that there are.
        d_in: Dimension of the activations.
        seed: Of vectors and noise.

    Attributes:
        vectors_VD: The vector of each token, of length 1.
    """

    context = 512

    def __init__(
        self, encode: Callable[[Sequence[str]], list[list[int]]], vocabulary: int, d_in: int, seed: int
    ) -> None:
        self.encode = encode
        self._generator = torch.Generator().manual_seed(seed)
        self.vectors_VD = normalize(torch.randn(vocabulary, d_in, generator=self._generator), dim=1)

    def of_tokens(self, tokens_T: Tensor) -> Tensor:
        """The activations [T, D] of tokens that follow each other."""
        before_T = torch.cat([tokens_T[:1], tokens_T[:-1]])
        noise_TD = torch.randn(len(tokens_T), self.vectors_VD.shape[1], generator=self._generator)
        return 3 * self.vectors_VD[tokens_T.long()] + self.vectors_VD[before_T.long()] + NOISE * noise_TD

    def read(self, texts: Sequence[str]) -> Iterator[Batch]:
        """The activations of texts, all of them together."""
        tokens = [torch.tensor(ids, dtype=torch.int32) for ids in self.encode(texts)]
        sizes = torch.tensor([len(ids) for ids in tokens])
        yield Batch(
            torch.cat([self.of_tokens(ids) for ids in tokens]), torch.arange(len(texts)).repeat_interleave(sizes)
        )

    def activations(self, texts: Sequence[str], *, context: int, progress: Progress) -> Iterator[Batch]:
        """As `LanguageModel` gives them; no text is so long that it would be cut."""
        del context, progress
        yield from self.read(texts)

    def token_ids(self, texts: Sequence[str], *, context: int) -> list[list[int]]:
        """The tokens of each text that are read."""
        return [ids[:context] for ids in self.encode(texts)]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text."""
        return list(map(len, self.encode(texts)))

    def unknown_share(self, texts: Sequence[str], *, context: int) -> float:
        """The share of unknown tokens; a tokenizer of bytes has none."""
        del texts, context
        return 0.0

    def passages(self, texts: Sequence[str], *, tokens: int) -> Iterator[ToyPassages]:
        """As `SubstitutedModel` gives them; all texts are read."""
        del tokens
        yield ToyPassages(self, texts)


class ToyPassages:
    """Texts that a toy model reads; see `sae_core.activations.origins.language_model.substitution.Passages`."""

    def __init__(self, model: ToyModel, texts: Sequence[str]) -> None:
        (batch,) = model.read(texts)
        self.acts_TD, self._text_T = batch.acts_TD, batch.document_T
        self._vectors_VD = model.vectors_VD
        self._tokens_T = torch.tensor([token for ids in model.encode(texts) for token in ids])
        self.numbers_B = np.arange(len(texts))
        self.predicted_B = np.bincount(self._text_T.numpy(), minlength=len(texts))
        self._own_TV = self._scores(self.acts_TD)
        self.own = self.substitute(self.acts_TD)

    def _scores(self, acts_TD: Tensor) -> Tensor:
        return (SHARPNESS * acts_TD @ self._vectors_VD.T).log_softmax(dim=1).double()

    def substitute(self, acts_TD: Tensor) -> Effect:
        """How well the tokens are predicted from other activations [T, D]."""
        scores_TV = self._scores(acts_TD)
        surprise_T = -scores_TV.gather(1, self._tokens_T[:, None]).squeeze(1)
        kl_T = (self._own_TV.exp() * (self._own_TV - scores_TV)).sum(dim=1)
        by_text = (
            np.bincount(self._text_T.numpy(), each_T.numpy(), len(self.numbers_B)) for each_T in (surprise_T, kl_T)
        )
        return Effect(*by_text)


def evaluate_synthetic(
    run: Run,
    ensembles: dict[str, Ensemble],
    acts_TD: Tensor,
    model: ToyModel,
    texts: Sequence[str],
    words: Sequence[str],
) -> None:
    """Write all of evaluation/.

    Args:
        run: The run, whose ensembles are trained.
        ensembles: They, by name.
        acts_TD: Its activations.
        model: What has made them.
        texts: Texts on which loss recovered is measured.
        words: Words of which the texts of concepts are made.
    """
    for name in ("train", "evaluation"):
        writer = CacheWriter(run.activations / name, d_in=acts_TD.shape[1], dtype="float32", contents=name)
        writer.append(acts_TD)
        cache = writer.finish()
    seed, bootstrap = run.settings.training.seed, run.settings.evaluation.bootstrap
    evaluate_run(run, stages=("reconstruction", "dictionary", "cost"))
    options: dict[str, Any] = {"bootstrap": bootstrap, "seed": seed}
    loss: dict[str, Any] = {**options, "tokens": run.settings.evaluation.loss_tokens}
    write_json(run.evaluation("loss"), measure_loss(ensembles, model, texts[:LOSS_TEXTS], cache.mean_D, **loss))
    facts, controls = measure_controls(ensembles, cache.read, cache.rows, lambda: acts_TD, **options)
    if controls:
        facts = with_loss(facts, measure_loss(controls, model, texts[:LOSS_TEXTS], cache.mean_D, **loss))
    write_json(run.evaluation("control"), facts)
    read, tasks = TextReader(run, "cpu", silent, model=cast(Any, model)), _tasks(words, seed)
    facts, table = measure_concepts(
        ensembles, tasks, read, acts_TD, run.settings.evaluation, controls=controls, seed=seed
    )
    write_concepts(run, read.describe(facts, tasks), table)
    for stage in ("loss", "control", "concepts"):
        run.finish(f"evaluate/{stage}", {"seconds": 1.0, "device": "cpu"})
    shutil.rmtree(run.activations)  # as one may, once everything is measured


def _tasks(words: Sequence[str], seed: int) -> list[Task]:
    """Two tasks on the same texts: which words stand in a text says its library, and less clearly its kind."""
    generator = np.random.default_rng(seed)
    texts: dict[bool, list[str]] = {True: [], False: []}
    labels: dict[str, dict[bool, list[str]]] = {task: {True: [], False: []} for task in CONCEPTS}
    for place, library in enumerate(CONCEPTS["library"]):
        for other, kind in enumerate(CONCEPTS["kind"]):
            for number in range(TRAIN_TEXTS + TEST_TEXTS):
                chosen = generator.integers(0, len(words), 12)
                chosen[:3] = place
                chosen[3 : 4 + number % 2] = len(CONCEPTS["library"]) + other
                test = number >= TRAIN_TEXTS
                texts[test].append(f"{' '.join(words[each] for each in generator.permutation(chosen))} {number}")
                labels["library"][test].append(library)
                labels["kind"][test].append(kind)
    return [
        Task(
            task,
            f"Tell the {task} of a passage from its text (not <b>markup</b>).",
            *(texts[False], labels[task][False], texts[True], labels[task][True]),
            test_units=[f"module {number // 2}" for number in range(len(texts[True]))],
        )
        for task in CONCEPTS
    ]
