"""How long a unit of work takes: what calibration measures, or what a machine's public figures let expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sae_core.activations.origins.language_model.model.shapes import ModelShape
from sae_core.foundation.methods import EVERY
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.runs.planning.machines import Machine
from sae_core.runs.planning.pace import AS_MEASURED, COMPILED, Pace
from sae_core.sae import ARCHITECTURES
from sae_core.training.operations import FLOAT, SAEShape

CHARS_PER_TOKEN, TOKENS_PER_TEXT = 4.0, 160.0
"""English text, where no sample of it was read."""
LIBRARIES = 700 * 10**6
"""Bytes that a process has taken once all libraries are imported, where it was not measured."""

UTILISATION, STREAMED = 0.4, 0.6
"""Shares of a machine's peaks. Of its arithmetic, what long dense products reach beside what is between them: published
trainings reach 0.3 to 0.5 (Chowdhery et al. 2022, *PaLM*, section 4.1). Of its bandwidth, what passes over it do."""
DENSE_PASSES, FAST_PASSES = 8, 1
"""Times that a step goes over a dense table [B, N] of float32: the plain one for product, rounding, bias and search;
the fast one writes bfloat16 and reads it."""
STATE_PASSES = 12
"""Times that a step goes over all parameters: gradients, norms, clipping, Adam, unit norm."""

ASSIGN, ASSIGN_POWER = 0.5, 2.0
"""Seconds to match 2,048 features one to one, and how they grow: about as the square of the number."""


class Group(NamedTuple):
    """What one process trains side by side.

    Attributes:
        members: How many members.
        width: Features of each.
        k: k of the one member, if it is another than ``sae.k``.
        split: Whether the process has a part of every batch, and so takes the plain kernels.
    """

    members: int
    width: int
    k: int | None = None
    split: bool = False


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds of each unit of work.

    Attributes:
        step: Of one training step of a group of members.
        run: Of one activation through a finished SAE of so many features.
        index: Of one activation's codes of such an SAE, found and sorted.
        forward: Of one token through the model up to the layer.
        store: Of one byte written to the activation cache.
        gather_start: Before the first text comes.
        gather: Of one character of text.
        flop: Of one operation of a dense float32 product.
        assign: Of one matching of two members, one to one.
        chars_per_token: Characters of text that a token has.
        tokens_per_text: Tokens of a text, cut to the context.
        libraries: Bytes that a process has before it does anything.
        pace: How many times longer loops take than where their constants were measured.
        compile: Seconds by stage for what is not compiled yet.
        fast: Whether the fast training step is taken.
        low_precision: Whether the encoder product runs in bfloat16.
        measured: Whether it was measured on the machine itself.
        remarks: What could only be estimated.
    """

    step: Mapping[Group, float]
    run: Mapping[int, float]
    index: Mapping[int, float]
    forward: float
    store: float
    gather_start: float
    gather: float
    flop: float
    assign: float
    chars_per_token: float = CHARS_PER_TOKEN
    tokens_per_text: float = TOKENS_PER_TEXT
    libraries: int = LIBRARIES
    pace: Pace = AS_MEASURED
    compile: Mapping[str, float] = field(default_factory=dict)
    fast: bool = False
    low_precision: bool = False
    measured: bool = False
    remarks: list[str] = field(default_factory=list)


def trained_groups(settings: RunSettings, method: str, processes: int = 1) -> list[Group]:
    """What the first of some processes trains for a method, one group a pass; a bag counts as one pass."""
    training, layout = settings.training, EVERY[method].layout(settings)
    saes, usual = [one.sae for one in layout.ones()], settings.sae.k
    pipelined = layout.stages > 1 and training.boosting == "pipelined"
    if layout.stages > 1 and not pipelined:
        return [Group(1, sae.width, None if sae.k == usual else sae.k, split=processes > 1) for sae in saes]
    split = processes > 1 and (pipelined or len(saes) < processes)
    k = None if len(saes) > 1 or saes[0].k == usual else saes[0].k
    return [Group(len(saes) if split else -(-len(saes) // processes), saes[0].width, k, split=split)]


def needed_steps(settings: RunSettings, processes: int = 1) -> list[Group]:
    """The groups of members that the methods of the settings train side by side."""
    groups = (group for method in settings.training.methods for group in trained_groups(settings, method, processes))
    return list(dict.fromkeys(groups))


def named_rates(machine: Machine, settings: RunSettings, shape: ModelShape, *, processes: int = 1) -> Rates:
    """What a machine's public figures let expect; nothing is measured, so it may be off by a factor of two.

    Args:
        machine: The machine, of which every process has one.
        settings: The settings.
        shape: The model's shape.
        processes: Those that train together.
    """
    training = settings.training
    low = machine.gpu and training.precision != "float32"
    fast = training.kernels != "plain" and ARCHITECTURES[settings.sae.architecture].has_compiled_step()
    product = 1 / (UTILISATION * (machine.bfloat16 if low else machine.float32))
    move = 1 / (STREAMED * machine.bandwidth)
    flop = 1 / (UTILISATION * machine.float32)
    batch, d_in = training.batch_size, shape.d_model
    length = _length(settings)

    def run(width: int) -> float:
        sae = SAEShape(settings.sae.architecture, d_in, width, settings.sae.k)
        return sae.run_flops * flop + DENSE_PASSES * FLOAT * width * move + FLOAT * d_in * sae.k * move

    def step(group: Group) -> float:
        sae = SAEShape(settings.sae.architecture, d_in, group.width, group.k or mean_k(settings, group.members))
        quick, rows = fast and not group.split, -(-batch // processes) if group.split else batch
        # The fast kernels of a GPU read the rows that they sum in bfloat16.
        number = 2 if quick and low else FLOAT
        sums = 4 * number * rows * d_in * sae.k if sae.selects else 0
        tables = (FAST_PASSES if quick else DENSE_PASSES) * FLOAT * rows * sae.width
        dense = 2 * d_in * sae.width * (1 if sae.selects else 5)
        moved = tables + STATE_PASSES * FLOAT * sae.parameters + sums
        return group.members * (rows * dense * product + moved * move)

    steps = {group: step(group) for group in needed_steps(settings, processes)}
    widths = {group.width for group in steps} | {settings.sae.width}
    runs = {width: run(width) for width in widths}
    blocks = settings.model.layer + 1
    return Rates(
        step=steps,
        run=runs,
        index={width: seconds + 2e-8 * settings.sae.k for width, seconds in runs.items()},
        forward=shape.forward_flops(length, blocks) / length * product,
        store=1e-9,
        gather_start=0.0,
        gather=1e-6,
        flop=flop,
        assign=ASSIGN * (settings.sae.width / 2048) ** ASSIGN_POWER,
        tokens_per_text=min(TOKENS_PER_TEXT, length),
        fast=fast,
        low_precision=low,
        compile={stage: seconds for stage, (_, _, seconds) in COMPILED.items()},
        remarks=[
            f"Nothing was measured: times are from public figures of the {machine.name} at {UTILISATION:.0%} of its "
            "peak rates, and may be off by a factor of two. Run plan there without --machine to measure."
        ],
    )


def mean_k(settings: RunSettings, members: int) -> int:
    """Active features of members side by side, on average; of one by itself as of all."""
    own = settings.training.member_k
    return round(sum(own) / len(own)) if own and members > 1 else settings.sae.k


def _length(settings: RunSettings) -> int:
    """Tokens of the texts for which attention is counted."""
    return min(settings.model.context, int(TOKENS_PER_TEXT))
