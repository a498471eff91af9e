"""Numbers as people read them; the report writes them in the same way."""

from sae_core.foundation.numbers import (
    MISSING,
    THIN_SPACE,
    compact,
    decimal,
    interval,
    is_missing,
    moment,
    one_in,
    percent,
    seconds,
    signed,
    size,
    whole,
)

__all__ = [
    "MISSING",
    "THIN_SPACE",
    "compact",
    "decimal",
    "interval",
    "is_missing",
    "moment",
    "one_in",
    "percent",
    "seconds",
    "signed",
    "size",
    "whole",
]
