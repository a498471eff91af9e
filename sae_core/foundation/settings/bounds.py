"""What a setting may be at all: kinds of numbers and names, each with the bounds beyond which nothing can be right."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationInfo

LARGEST_SEED = 2**32 - 1
"""torch's generator on a CPU keeps the low 32 bits of a seed, so that larger ones would name others' weights."""
LARGEST_INDEX = 2**31 - 1
"""Features, tokens' numbers and positions in a batch are kept in 32 bits."""
LARGEST_FLOAT = 3e38
"""What float32 can hold."""
MOST_TOKENS = 10**14
"""More than any text has; a larger number is a slip of the finger."""
STORED = {"stored": True}
"""Context of a validation of settings that a run was made with; what was allowed then still opens."""


def _no_truth(value: Any) -> Any:
    """Refuse true and false, which Python counts as 1 and 0."""
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


Seed = Annotated[int, Field(ge=0), AfterValidator(_seed), BeforeValidator(_no_truth)]
Positive = Annotated[int, Field(gt=0, le=LARGEST_INDEX), BeforeValidator(_no_truth)]
Counts = Annotated[tuple[Positive, ...], Field(min_length=1)]
Natural = Annotated[int, Field(ge=0, le=LARGEST_INDEX), BeforeValidator(_no_truth)]
Tokens = Annotated[int, Field(gt=0, le=MOST_TOKENS), BeforeValidator(_no_truth)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(_no_truth)]
Decay = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), BeforeValidator(_no_truth)]
"""A decay rate of Adam; with 1 it would divide by zero."""
Rate = Annotated[float, Field(gt=0, le=LARGEST_FLOAT, allow_inf_nan=False), BeforeValidator(_no_truth)]
Weight = Annotated[float, Field(ge=0, le=LARGEST_FLOAT, allow_inf_nan=False), BeforeValidator(_no_truth)]
Size = Annotated[float, Field(gt=0, le=LARGEST_FLOAT, allow_inf_nan=False), BeforeValidator(_no_truth)]
Spread = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), BeforeValidator(_no_truth)]
Share = Annotated[float, Field(gt=0, le=0.9, allow_inf_nan=False), BeforeValidator(_no_truth)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_name)]
