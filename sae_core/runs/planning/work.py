"""What settings amount to: the sizes by which stages declare their costs, and how training will go about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sae_core.activations.origins.language_model.model.shapes import ModelShape
from sae_core.activations.store.piles import shuffle_of
from sae_core.foundation.method import One, Several
from sae_core.foundation.methods import EVERY
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.foundation.stages import Sizes
from sae_core.runs.planning.machines import Machine
from sae_core.training.members import starts_alike
from sae_core.training.memory import fitting_members, step_bytes
from sae_core.training.operations import Boosting, EnsembleShape, ensemble_flops, keeps_residuals, residual_bytes
from sae_core.training.processes import Processes
from sae_core.training.stage import Plan

HOST_MEMORY = 64 * 10**9
"""Memory beside a GPU where it is unknown, for decisions that depend on it."""
DRAWN, STREAMED = 16, 2**28
"""Bytes of memory that a row of the cache takes while a pass is shuffled, and that a chunk of a stream takes."""


@dataclass(frozen=True, slots=True)
class Work:
    """What settings amount to on a machine; of several processes each has one like it.

    Attributes:
        settings: The settings.
        model: The shape of the model; of any other origin the dimension alone, the rest being 0.
        machine: Where it will run.
        processes: Those that train and index together.
        places: Layers and sites for each of which there is a run; the settings are those of the last layer.
        length: Tokens of a passage of text; 0 where there is no text.
    """

    settings: RunSettings
    model: ModelShape
    machine: Machine
    processes: int = 1
    places: int = 1
    length: float = 0.0

    @property
    def rows(self) -> int:
        """Different activations to train on."""
        return self.settings.data.train_tokens

    @property
    def batch(self) -> int:
        """Activations in a step."""
        return min(self.settings.training.batch_size, self.rows)

    @property
    def steps(self) -> int:
        """Steps of a stage."""
        return max(1, self.settings.training.tokens // self.batch)

    @property
    def row_bytes(self) -> int:
        """Bytes of an activation in the cache."""
        return self.model.d_model * int(getattr(torch, self.settings.data.dtype).itemsize)

    @property
    def shuffled_on_disk(self) -> bool:
        """Whether the cache is too large to be drawn from all over, as `choose_shuffle` will decide it."""
        memory, disk, cache = self.machine.host or HOST_MEMORY, self.machine.disk, self.rows * self.row_bytes
        free = disk and disk - self.places * cache
        way = shuffle_of(self.settings, rows=self.rows, d_in=self.model.d_model, memory=memory, disk=free)
        return way == "disk" and not (self.streams or self.settings.origin.rows_are_independent)

    @property
    def streams(self) -> bool:
        """Whether activations are made anew in every pass."""
        return self.settings.data.storage == "stream"

    @property
    def model_bytes(self) -> int:
        """The model's weights while it is loaded: all of them, also those behind the layer."""
        return self.model.weights() * (2 if self.machine.gpu else 4)

    def layout(self, method: str) -> Several:
        """The ensemble that a method trains."""
        return EVERY[method].layout(self.settings)

    def copies_first(self, method: str) -> bool:
        """Whether another method has trained the first SAE already."""
        layout, first = self.layout(method), next(self.layout(method).ones())
        if self.boosting(method) == "pipelined" or not isinstance(layout.members[0], One):
            return False
        others = set(EVERY[method].first_from) & set(self.settings.training.methods)
        return any(starts_alike(self.settings, first, one) for other in others for one in self.layout(other).ones())

    def boosting(self, method: str) -> Boosting | None:
        """How stages will get what they learn; None where no member learns what others leave."""
        layout, training = self.layout(method), self.settings.training
        if layout.stages == 1:
            return None
        if layout.is_flat and training.boosting == "pipelined":
            return "pipelined"
        if self.streams or training.residuals != "auto":
            return "cached" if training.residuals == "cached" else "recomputed"
        free = self.machine.disk and self.machine.disk - self.places * self.rows * self.row_bytes
        stages = len(layout.members) if layout.in_turn else layout.stages
        sizes = {"rows": self.rows, "steps": self.steps, "batch": self.batch, "d_in": self.model.d_model}
        return "cached" if keeps_residuals(**sizes, stages=stages, free=free) else "recomputed"

    def together(self, method: str) -> Several:
        """The members that training takes together: those of the ensemble, or of each of its ensembles."""
        layout = self.layout(method)
        while not layout.is_flat:
            layout = next(member for member in layout.members if isinstance(member, Several))
        return layout

    def splits(self, method: str) -> bool:
        """Whether each process trains on a part of every batch, by the plain kernels, and not some of the members."""
        layout = self.together(method)
        return self.processes > 1 and (layout.in_turn or len(layout.members) < self.processes)

    def share(self, method: str) -> float:
        """The share of a method's training that the first process does."""
        members = len(self.together(method).members)
        return 1 / self.processes if self.splits(method) else -(-members // self.processes) / members

    def sizes(self, method: str) -> Sizes:
        """The sizes of a method's ensemble in this run."""
        settings, model, layout = self.settings, self.model, self.layout(method)
        data, times, ones = settings.data, EVERY[method].times_the_steps(settings), [*layout.ones()]
        tokens, copied, shape = self.steps * self.batch * times, self.copies_first(method), self.shape(method)
        flops = ensemble_flops(shape, tokens=tokens, boosting=self.boosting(method), rows=self.rows)
        first = EnsembleShape.planned(Several(tuple(ones[:1])), model.d_model)
        flops -= copied * ensemble_flops(first, tokens=tokens)
        # A stream makes the activations anew in every pass.
        passes = layout.turns(pipelined=settings.training.boosting == "pipelined") - copied
        flops += self.streams * passes * tokens * self._token_flops
        indexed = min(data.index_tokens, self.rows)
        return Sizes(
            widths=tuple(sum(one.sae.width for one in member.ones()) for member in layout.members),
            active=tuple(sum(min(one.sae.k, one.sae.width) for one in member.ones()) for member in layout.members),
            d_in=model.d_model,
            itemsize=self.row_bytes // model.d_model,
            vocabulary=model.vocabulary,
            model_bytes=self.model_bytes * (not self.machine.gpu),
            read=(indexed if self.streams else self.rows) + data.evaluation_tokens,
            trained=tokens * (len(ones) - copied) // len(ones),
            steps=self.steps * times * (len(ones) - copied) // len(ones),
            indexed=indexed,
            evaluated=data.evaluation_tokens,
            substituted=settings.evaluation.loss_tokens * settings.origin.reads_text,
            detected=self._detected,
            staged=layout.stages > 1,
            ensembles=len(settings.training.methods),
            run_flops=shape.run_flops,
            train_flops=flops,
            token_flops=self._token_flops,
        )

    def shape(self, method: str) -> EnsembleShape:
        """What decides the operations of a method's ensemble."""
        return EnsembleShape.planned(self.layout(method), self.model.d_model)

    @property
    def _token_flops(self) -> int:
        length = max(1, round(self.length))
        return self.model.forward_flops(length, self.settings.model.layer + 1) // length

    @property
    def _detected(self) -> int:
        """Tokens of the texts, or rows, in which concepts are detected.

        Of the pool, nine in ten texts are found, and many of them are cut.
        """
        settings, origin = self.settings.evaluation, self.settings.origin
        tokens = self.rows + self.settings.data.evaluation_tokens
        if not origin.reads_text:
            return min(settings.pool_texts, tokens)
        if not self.length or not origin.labels_texts(self.settings):
            return 0
        texts = min(settings.pool_texts, tokens / self.length)
        return round(0.9 * texts * 0.75 * min(settings.tokens_per_text, self.length))

    def training_bytes(self, method: str) -> dict[str, int]:
        """Bytes that training takes beside libraries, by the names of `plan.Row`."""
        splits, gpu = self.splits(method), self.machine.gpu
        ones = [one.sae for one in self.layout(method).ones()]
        members = len(ones) if self.boosting(method) == "pipelined" else self.side_by_side(method)
        batch = -(-self.batch // self.processes) if splits else self.batch
        member, shared = step_bytes(
            max(ones, key=lambda sae: sae.width), batch, self.model.d_model, "cuda" if gpu else "cpu"
        )
        step = (members if splits else -(-members // self.processes)) * member + shared
        drawn, host = self.rows * self.row_bytes, DRAWN * self.rows
        if self.streams:
            drawn, host = 0, STREAMED + self.model_bytes * (not gpu)
        residuals = residual_bytes(self.rows, self.model.d_model) * (self.boosting(method) == "cached")
        return {
            "memory": host + step * (not gpu),
            "gpu_memory": (step + self.model_bytes * self.streams) * gpu,
            "mapped": drawn + residuals,
            "temporary": residuals + drawn * self.shuffled_on_disk,
        }

    def side_by_side(self, method: str) -> int:
        """Members of a bag that are trained in one pass, as training will decide it."""
        training, layout = self.settings.training, self.together(method)
        if layout.in_turn:
            return 1
        processes = Processes()
        processes.size = self.processes
        device = torch.device("cuda" if self.machine.gpu else "cpu")
        plan = Plan("", self.steps, self.batch, 1, training.seed, device, processes=processes)
        fitting = fitting_members(self.settings, plan, self.model.d_model, free=self.machine.memory)
        return min(training.group or fitting, len(layout.members))

    def decided(self) -> RunSettings:
        """The settings in which what follows from their size is decided, so that small runs do it as the whole one."""
        training, methods = self.settings.training, self.settings.training.methods
        ways = {str(self.boosting(method)) for method in methods} & {"cached", "recomputed"}
        new: dict[str, Any] = {
            "group": max(map(self.side_by_side, methods)),
            "residuals": max(ways, default=training.residuals),
        }
        if any(map(self.splits, methods)):
            new["kernels"] = "plain"
        data = {"shuffle": "disk" if self.shuffled_on_disk else "memory"}
        changed = {"training": training.model_copy(update=new), "data": self.settings.data.model_copy(update=data)}
        return self.settings.model_copy(update=changed)
