"""Types of settings: numbers and names with the bounds that a valid value cannot exceed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationInfo

LARGEST_SEED = 2**32 - 1
"""torch's CPU generator keeps only the low 32 bits of a seed, so two larger seeds could give the same weights."""
LARGEST_INDEX = 2**31 - 1
"""Feature numbers, token ids and positions in a batch are stored in 32 bits."""
LARGEST_FLOAT = 3e38
"""The largest magnitude that float32 holds."""
SITES = ("residual", "mlp", "attention")
MOST_TOKENS = 10**14
"""More tokens than any corpus has; a larger number is a typing error."""
STORED = {"stored": True}
"""The validation context for a stored run's settings, so that runs made before a bound was added still open."""


def _no_truth(value: Any) -> Any:
    """Refuse true and false, which Python would accept as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("it has to be a number")
    return value


def _seed(value: int, given: ValidationInfo) -> int:
    if value > LARGEST_SEED and not (given.context or {}).get("stored"):
        raise ValueError(f"a seed has to be at most {LARGEST_SEED}")
    return value


def _name(value: str) -> str:
    if any(ord(letter) < 32 for letter in value):
        raise ValueError("it may not hold control characters")
    return value


def _site(value: str) -> str:
    parts = value.split(".")
    named = all(part == "*" or part.isidentifier() or part.isdigit() for part in parts)
    if value not in SITES and not (named and parts.count("*") == 1):
        raise ValueError(
            f"it has to be {', '.join(SITES)} or the name of a module with * for the layer, such as model.layers.*.mlp"
        )
    return value


Seed = Annotated[int, Field(ge=0), AfterValidator(_seed), BeforeValidator(_no_truth)]
Positive = Annotated[int, Field(gt=0, le=LARGEST_INDEX), BeforeValidator(_no_truth)]
Counts = Annotated[tuple[Positive, ...], Field(min_length=1)]
Natural = Annotated[int, Field(ge=0, le=LARGEST_INDEX), BeforeValidator(_no_truth)]
Tokens = Annotated[int, Field(gt=0, le=MOST_TOKENS), BeforeValidator(_no_truth)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(_no_truth)]
Decay = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), BeforeValidator(_no_truth)]
"""A decay rate of Adam; a rate of 1 would divide by zero."""
Rate = Annotated[float, Field(gt=0, le=LARGEST_FLOAT, allow_inf_nan=False), BeforeValidator(_no_truth)]
Weight = Annotated[float, Field(ge=0, le=LARGEST_FLOAT, allow_inf_nan=False), BeforeValidator(_no_truth)]
Size = Annotated[float, Field(gt=0, le=LARGEST_FLOAT, allow_inf_nan=False), BeforeValidator(_no_truth)]
Times = Annotated[float, Field(gt=1, le=LARGEST_FLOAT, allow_inf_nan=False), BeforeValidator(_no_truth)]
Spread = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), BeforeValidator(_no_truth)]
Share = Annotated[float, Field(gt=0, le=0.9, allow_inf_nan=False), BeforeValidator(_no_truth)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_name)]
Site = Annotated[str, AfterValidator(_site)]
TokenNamed = Annotated[int, Field(strict=True, ge=0, le=LARGEST_INDEX)] | str
"""A token by its id, or as it reads."""
