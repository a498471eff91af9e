"""The columns of a report's tables: each figure by its key, with its heading, how it is written and what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sae_core.analysis.cost.effort import MEANINGS
from sae_core.analysis.shared.terms import THRESHOLD
from sae_core.foundation.numbers import compact, decimal, percent, seconds, size, whole

Style = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Shown:
    """A column.

    Attributes:
        title: Its heading; several columns of a table may have the same, such as "random" behind each of some figures.
        style: How a figure is written.
        definition: What the figure is, for the heading's tooltip.
        spread: Whether its interval is shown.
    """

    title: str
    style: Style
    definition: str
    spread: bool = True


def plain(digits: int) -> Style:
    """How a number with so many decimals is written."""
    return lambda value: decimal(value, digits)


def percents(digits: int = 1) -> Style:
    """How a share is written."""
    return lambda value: percent(value, digits)


def micro(value: float) -> str:
    """A time in microseconds."""
    return f"{1e6 * value:.3g} µs"


def _random(title: str, of: str) -> Shown:
    """The column of what random dictionaries of the same sizes reach in a figure."""
    return Shown("random", plain(3), f"{title} of {of}", spread=False)


_ATOMS = "random dictionaries of the same sizes (unit atoms of uniformly random directions)"
_TWIN = "a random dictionary of the same sizes that encodes alike"
Columns = Mapping[str, Shown]
"""By the key of a figure."""

EXPLAINED_VARIANCE = Shown(
    "Explained variance", percents(2), "1 − E‖a−â‖² / (E‖a‖² − ‖E a‖²) on held-out tokens, over all dimensions together"
)
RECONSTRUCTION: Columns = {
    "reconstruction.explained_variance": EXPLAINED_VARIANCE,
    "reconstruction.explained_variance_per_dimension": Shown(
        "per dimension",
        percents(2),
        "Mean over dimensions of each one's own explained variance, 1 − SSE/SST, as the paper prints it",
    ),
    "reconstruction.mse": Shown("MSE", plain(2), "Mean over tokens of the squared error summed over dimensions"),
    "reconstruction.l0": Shown("L0", plain(1), "Features active on a token, summed over members"),
    "reconstruction.relative_sparsity": Shown("Relative sparsity", percents(2), "L0 as a share of all features"),
    "reconstruction.dead_fraction": Shown("Dead", percents(), "Share of features that fire on none of these tokens"),
    "loss.loss_recovered": Shown(
        "Loss recovered",
        percents(2),
        "(CE with zero ablation − CE with the reconstruction) / (CE with zero ablation − CE of the model)",
    ),
    "loss.loss_recovered_mean": Shown(
        "over mean ablation",
        percents(2),
        "The same with activations set to their mean for the reference, which leaves less to recover",
    ),
    "loss.cross_entropy": Shown("Nats", plain(3), "CE of the next token with the reconstruction, in nats a prediction"),
    "loss.kl_recovered": Shown(
        "KL recovered",
        percents(2),
        "1 − KL with the reconstruction / KL with zero ablation, to the model's predictions",
    ),
}
_POOLED = "Mean over features of the best cosine with any atom of all others"
_MMCS = "Mean over features of the best cosine with an atom of one other"
_ONE = "Mean cosine of atoms matched one to one; atoms of a wider dictionary that are left over count as 0"


def _stability(key: str, pooled: str, one: str, *, of: str = "") -> dict[str, Shown]:
    """The columns of the three figures of stability, each with what random dictionaries reach.

    Args:
        key: What the keys of the figures begin with.
        pooled: Heading of the first.
        one: What is compared: a ``member`` or a ``training``.
        of: What they are of, where it has to be said.
    """
    return {
        f"{key}.pooled": Shown(pooled, plain(3), f"{_POOLED} {one}s{of}"),
        f"{key}.null_pooled": _random("Pooled stability", _ATOMS),
        f"{key}.mmcs": Shown("MMCS", plain(3), f"{_MMCS} {one}, over ordered pairs of {one}s"),
        f"{key}.null_best": _random("MMCS", _ATOMS),
        f"{key}.pw_mcc": Shown("One-to-one", plain(3), f"{_ONE}; over pairs of {one}s"),
        f"{key}.null_matched": _random("One-to-one stability", _ATOMS),
    }


DICTIONARY: Columns = {
    "reconstruction.features": Shown("Features", whole, "Features of all members together"),
    "dictionary.diversity": Shown(
        "Diverse", whole, f"Features whose cosine with every other one is below {THRESHOLD:g}; two copies both drop out"
    ),
    "dictionary.diversity_fraction": Shown("of all", percents(), "Diverse features as a share of all features"),
    "dictionary.deduplicated": Shown(
        "De-duplicated", whole, f"Features left when those with a cosine of {THRESHOLD:g} with a kept one are dropped"
    ),
    "dictionary.redundancy": Shown("Redundant", percents(), "Share of the features that de-duplication drops"),
    "dictionary.connectivity": Shown(
        "Connectivity", plain(3), "Share of pairs of alive features that never fire on the same token"
    ),
    **_stability("dictionary.member_stability", "Pooled stability", "member", of=" of the ensemble"),
}
RETRAINED: Columns = _stability("stability", "Pooled", "training")
COST: Columns = {
    "cost.train_seconds": Shown("Training", seconds, "Measured time of training"),
    "cost.train_flops": Shown(
        "Training FLOPs",
        compact,
        MEANINGS["FLOPs"],
    ),
    "cost.tokens": Shown("Tokens", compact, MEANINGS["tokens"]),
    "cost.steps": Shown("Steps", compact, MEANINGS["steps"]),
    "cost.tokens_per_second": Shown(
        "Tokens per second", compact, "Training tokens of all members together over the time of training"
    ),
    "cost.peak_memory_bytes": Shown(
        "Peak memory", size, "Largest memory of training: of tensors on a GPU, of the whole process on a CPU"
    ),
    "cost.parameters": Shown("Parameters", compact, "Trained numbers of all members"),
    "cost.bytes": Shown("On disk", size, "Size of the files of weights"),
    "cost.inference_flops_per_token": Shown(
        "FLOPs a token", compact, "Counted operations to encode and reconstruct one token"
    ),
    "cost.inference_seconds_per_token": Shown(
        "Time a token", micro, "Median of the measured time to encode and reconstruct a block of activations, per token"
    ),
}
TRUTH: Columns = {
    "truth.recall": Shown(
        "Recall", plain(3), "Share of all true features that get an atom of their own at |cosine| ≥ 0.9"
    ),
    "truth.recall_cap": Shown(
        "at most",
        plain(3),
        "The largest recall and MCC that so many atoms allow: their number over that of the true features, at most 1",
        spread=False,
    ),
    "truth.random.recall": _random("Recall", _TWIN),
    "truth.mcc": Shown(
        "MCC",
        plain(3),
        "Sum of the |cosines| of atoms matched one to one, over all true features: unmatched ones are 0",
    ),
    "truth.random.mcc": _random("MCC", _TWIN),
    "truth.precision": Shown(
        "Precision", plain(3), "Share of the atoms, without copies, that are true features at |cosine| ≥ 0.9"
    ),
    "truth.random.precision": _random("Precision", _TWIN),
    "truth.precision_alive": Shown("of alive", plain(3), "Precision of those atoms, without copies, that ever fire"),
    "truth.f1": Shown(
        "F1", plain(3), "Mean over the true features that fire of the F1 with which the best latent fires with each"
    ),
    "truth.random.f1": _random("F1", _TWIN),
    "reconstruction.explained_variance": EXPLAINED_VARIANCE,
}
_NOISE = "two SAEs trained as the stage on Gaussian noise of the mean and covariance of what it reads"
STAGES: Columns = {
    "pw_mcc": Shown("One-to-one", plain(3), f"{_ONE}; the stage over pairs of trainings"),
    "noise_matched": Shown("noise", plain(3), f"One-to-one stability of {_NOISE}"),
    "null_matched": _random("One-to-one stability", _ATOMS),
    "mmcs": Shown("MMCS", plain(3), f"{_MMCS} training; the stage over ordered pairs of trainings"),
    "noise_best": Shown("noise", plain(3), f"MMCS of {_NOISE}"),
    "null_best": _random("MMCS", _ATOMS),
}
"""Of one boosted stage over trainings."""
