"""The figures of cost: of training, of keeping and of using an ensemble."""

from __future__ import annotations

from sae_core.analysis.cost.effort import MEANINGS
from sae_core.foundation.figures import Figure, percents, spec, titled
from sae_core.foundation.numbers import compact, micro, seconds, size

TRAIN_SECONDS = Figure(
    key="cost.train_seconds",
    title="Training",
    definition="Measured time of training",
    style=seconds,
    better="lower",
    row="train_seconds",
    line="training",
    terminal=spec(".0f", " s"),
    overview="Training",
    swept=True,
)
TRAIN_FLOPS = Figure(
    key="cost.train_flops",
    title="Training FLOPs",
    definition=MEANINGS["FLOPs"],
    better="lower",
    row="train_flops",
    line="training FLOPs",
    terminal=compact,
    swept=True,
)
BYTES = Figure(key="cost.bytes", title="On disk", definition="Size of the files of weights", style=size, better="lower")
TIME_A_TOKEN = Figure(
    key="cost.inference_seconds_per_token",
    title="Time a token",
    definition="Median of the measured time to encode and reconstruct a block of activations, per token",
    style=micro,
    better="lower",
)
COST = (
    TRAIN_SECONDS,
    TRAIN_FLOPS,
    Figure(key="cost.tokens", title="Tokens", definition=MEANINGS["tokens"]),
    Figure(key="cost.steps", title="Steps", definition=MEANINGS["steps"]),
    Figure(
        key="cost.tokens_per_second",
        title="Tokens per second",
        definition="Training tokens of all members together over the time of training",
        better="higher",
    ),
    Figure(
        key="cost.peak_memory_bytes",
        title="Peak memory",
        definition="Largest memory of training: of tensors on a GPU, of the whole process on a CPU",
        style=size,
        better="lower",
    ),
    Figure(
        key="cost.parameters",
        title="Parameters",
        definition="Trained numbers of all members",
        better="lower",
        row="parameters",
        swept=True,
    ),
    BYTES,
    Figure(
        key="cost.inference_flops_per_token",
        title="FLOPs a token",
        definition="Counted operations to encode and reconstruct one token",
        better="lower",
    ),
    TIME_A_TOKEN,
)
TABLE = titled(*COST)
ADDED = Figure(
    key="cost.added_explained_variance",
    title="Added",
    definition="What the last of these members adds to the explained variance",
    style=percents(2),
    better="higher",
)
PER_COST = Figure(
    key="cost.added_per_cost",
    title="per cost",
    definition="The same for as much training arithmetic as the first member took",
    style=percents(2),
    better="higher",
)
"""Of one further member."""
