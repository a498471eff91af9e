"""The figures of cost: of training, of keeping and of using an ensemble."""

from __future__ import annotations

from functools import partial

from sae_core.analysis.cost.effort import MEANINGS
from sae_core.foundation.figures import Figure, percents, spec, titled
from sae_core.foundation.numbers import flops, micro, seconds, size

_costs = partial(Figure, better="lower")
TRAIN_SECONDS = _costs(
    "cost.train_seconds",
    "Training",
    "Measured time of training",
    seconds,
    line="training",
    terminal=spec(".0f", " s"),
    overview="Training",
    swept=True,
    column="training",
)
TRAIN_FLOPS = _costs(
    "cost.train_flops", "Training FLOPs", MEANINGS["FLOPs"], short=flops, line="training FLOPs", swept=True
)
BYTES = _costs("cost.bytes", "On disk", "Size of the files of weights", size)
PARAMETERS = _costs("cost.parameters", "Parameters", "Trained numbers of all members", swept=True)
TIME_A_TOKEN = _costs(
    "cost.inference_seconds_per_token",
    "Time a token",
    "Median of the measured time to encode and reconstruct a block of activations, per token",
    micro,
    short=lambda value: f"{1e6 * value:.0f} µs",
)
COST = (
    TRAIN_SECONDS,
    TRAIN_FLOPS,
    Figure("cost.tokens", "Tokens", MEANINGS["tokens"]),
    Figure("cost.steps", "Steps", MEANINGS["steps"]),
    Figure(
        "cost.tokens_per_second",
        "Tokens per second",
        "Training tokens of all members together over the time of training",
        better="higher",
    ),
    _costs(
        "cost.peak_memory_bytes",
        "Peak memory",
        "Largest memory of training: of tensors on a GPU, of the whole process on a CPU",
        size,
    ),
    PARAMETERS,
    BYTES,
    _costs("cost.inference_flops_per_token", "FLOPs a token", "Counted operations to encode and reconstruct one token"),
    TIME_A_TOKEN,
)
TABLE = titled(*COST)
_of_one = partial(Figure, style=percents(2), better="higher")
ADDED = _of_one(
    "cost.added_explained_variance", "Added", "What the last of these members adds to the explained variance"
)
PER_COST = _of_one(
    "cost.added_per_cost", "per cost", "The same for as much training arithmetic as the first member took"
)
OF_MEMBERS = (
    *(TRAIN_FLOPS, TRAIN_SECONDS, PARAMETERS, BYTES, TIME_A_TOKEN),
    *(ADDED, Figure("cost.relative_cost"), PER_COST),
)
"""What is known of the first 1, 2, … members; the last three are of one further member."""
