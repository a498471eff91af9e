"""What settings amount to on a machine, and what a stage of a run takes; other modules count the stages."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sae_core.activations.origins.language_model.model.shapes import ModelShape
from sae_core.foundation.methods import EVERY, REPEATS, has_stages
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.runs.planning.machines import Machine
from sae_core.runs.planning.rates import Group, Rates, trained_groups
from sae_core.training.memory import fitting_members
from sae_core.training.operations import FLOAT, SAEShape
from sae_core.training.processes import Processes
from sae_core.training.stage import Plan

ITEM = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number in the activation cache."""
HEADER = 100
"""Bytes before the numbers in a shard of the cache, some more or less."""
HOST_MEMORY = 64 * 10**9
"""Memory beside a GPU where it is unknown, for decisions that depend on it."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: Its name.
        part: The command that does it: train, index or evaluate.
        seconds: How long it takes; what another method has done already is not in it.
        flops: Operations that were counted.
        memory: Bytes of memory that it needs, beside a GPU's.
        mapped: Bytes of files that it reads through memory; the system takes them back when it needs to.
        gpu_memory: Bytes of a GPU's memory.
        disk: Bytes that it leaves on disk.
        temporary: Bytes that it needs on disk besides.
    """

    name: str
    part: str
    seconds: float
    flops: int = 0
    memory: int = 0
    mapped: int = 0
    gpu_memory: int = 0
    disk: int = 0
    temporary: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """What the settings amount to.

    Attributes:
        settings: The settings.
        shape: The model's shape.
        machine: Where it will run; of several processes each on one like it.
        rates: Seconds of units of work there.
        processes: Those that train and index together.
        places: Layers and sites for each of which there is a run; the settings are those of the last layer.
    """

    settings: RunSettings
    shape: ModelShape
    machine: Machine
    rates: Rates
    processes: int = 1
    places: int = 1

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
    def kept_rows(self) -> int:
        """Activations for training that are kept on disk."""
        return self.indexed if self.streamed else self.rows

    @property
    def streamed(self) -> bool:
        """Whether the model is run again in every pass."""
        return self.settings.data.storage == "stream"

    @property
    def shuffled_on_disk(self) -> bool:
        """Whether the cache is too large to be drawn from all over, as `harvest` will decide it."""
        settings, machine = self.settings, self.machine
        if self.streamed or settings.data.shuffle != "auto":
            return not self.streamed and settings.data.shuffle == "disk"
        residuals = has_stages(settings) and settings.training.residuals != "recomputed"
        drawn = self.rows * self.shape.d_model * (FLOAT if residuals else ITEM[settings.data.dtype])
        memory = machine.host_memory if machine.gpu else machine.memory
        room = machine.disk is None or machine.disk - self.places * self.drawn_bytes > drawn
        return drawn > (memory or HOST_MEMORY) and room

    @property
    def drawn_bytes(self) -> int:
        """Bytes of the cache that is trained on."""
        return cache_bytes(self.rows, self.shape.d_model, self.settings.data.dtype, shards=1)

    @property
    def dealt_bytes(self) -> int:
        """Bytes of the cache's copy in random piles, which is there until everything is trained."""
        return self.drawn_bytes if self.shuffled_on_disk else 0

    @property
    def trained_tokens(self) -> int:
        """Activations that each member is trained on."""
        return self.steps * self.batch

    @property
    def indexed(self) -> int:
        """Activations that are indexed."""
        return min(self.settings.data.index_tokens, self.rows)

    @property
    def evaluated(self) -> int:
        """Held-out activations."""
        return self.settings.data.evaluation_tokens

    @property
    def token_flops(self) -> int:
        """Operations of one token through the model up to the layer, at the typical length."""
        length = max(1, round(self.rates.tokens_per_text))
        return self.shape.forward_flops(length, self.settings.model.layer + 1) // length

    @property
    def model_bytes(self) -> int:
        """The model's weights while it is loaded: all of them, also those behind the layer."""
        return self.shape.weights() * (2 if self.machine.gpu else FLOAT)

    def members(self, method: str) -> list[SAEShape]:
        """All SAEs of a method's ensemble."""
        ones = EVERY[method].layout(self.settings).ones()
        return [SAEShape.of(one.sae, self.shape.d_model) for one in ones]

    def stages_of(self, method: str) -> int:
        """SAEs of a method's ensemble that learn one after another."""
        return EVERY[method].layout(self.settings).stages

    @property
    def side_by_side(self) -> int:
        """Members of the bagged ensemble that are trained in one pass, as training will decide it."""
        training, device = self.settings.training, torch.device("cuda" if self.machine.gpu else "cpu")
        processes = Processes()
        processes.size = self.processes
        plan = Plan(REPEATS, self.steps, self.batch, 1, training.seed, device, processes=processes)
        fitting = fitting_members(self.settings, plan, self.shape.d_model, free=self.machine.memory)
        return min(training.group or fitting, training.members)

    def groups(self, method: str) -> list[Group]:
        """What a process trains side by side for a method, pass by pass."""
        return trained_groups(self.settings, method, self.processes)

    def for_all_places(self, stage: Stage) -> Stage:
        """A stage of one run as that of the runs of all layers and sites, which come one after another."""
        return replace(
            stage, seconds=stage.seconds * self.places, flops=stage.flops * self.places, disk=stage.disk * self.places
        )

    def ensembles(self) -> list[list[SAEShape]]:
        """The members of every ensemble that will be trained."""
        return [self.members(method) for method in self.settings.training.methods]


def cache_bytes(rows: int, d_in: int, dtype: str, *, shards: int) -> int:
    """Bytes of the shards of an activation cache."""
    return rows * d_in * ITEM[dtype] + shards * HEADER
