"""Number features: within their ensemble, and within their member.

Every table of features that the program exports has the columns `COLUMNS`, so that any two tables can be joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from sae_core.foundation.errors import UserError

COLUMNS = ("feature", "member", "latent")
"""A feature's number in the ensemble, its member's number, and its number within the member."""
MOST = 2**31 - 1
"""The largest number that every supported database can store."""


class Place(NamedTuple):
    """A feature's number in the ensemble, its member's number, and its number within the member."""

    feature: int
    member: int
    latent: int

    @property
    def within(self) -> str:
        """The member and the number within the member, as people read and type them: ``1:6``."""
        return within(self.member, self.latent)


def place_of(feature: int, widths: Sequence[int]) -> Place:
    """Return the place of a feature.

    Args:
        feature: The feature's number in the ensemble.
        widths: Number of features of each member.

    Raises:
        IndexError: If the ensemble has no such feature.
    """
    start = 0
    for member, width in enumerate(widths):
        if start <= feature < start + width:
            return Place(feature, member, feature - start)
        start += width
    raise IndexError(f"feature {feature} of {start}")


def require_feature(feature: int, features: int) -> None:
    """Refuse the number of a feature that an ensemble of so many features does not have.

    Raises:
        UserError: If there is no such feature.
    """
    if not 0 <= feature < features:
        raise UserError(f"There is no feature {feature}; the ensemble has features 0 to {features - 1}.")


def feature_at(member: int, latent: int, widths: Sequence[int]) -> int:
    """The number in the ensemble of feature ``latent`` of a member."""
    return sum(widths[:member]) + latent


def place_columns(features: Iterable[int], widths: Sequence[int]) -> dict[str, list[int]]:
    """The columns `COLUMNS` of features, given by their numbers in the ensemble."""
    starts = [0, *accumulate(widths)]
    places = [place_of(int(feature), widths) for feature in features] if len(starts) > 1 else []
    return {name: [getattr(place, name) for place in places] for name in COLUMNS}


def within(member: int, latent: int) -> str:
    """The member and the number within the member, as people read and type them: ``1:6``."""
    return f"{member}:{latent}"


def named(word: str) -> tuple[int, int] | None:
    """Parse a word such as ``1:6`` as (member, number within the member); None for any other word."""
    member, colon, latent = word.partition(":")
    if not (colon and all(part.isascii() and part.isdigit() and len(part) <= 12 for part in (member, latent))):
        return None
    return int(member), int(latent)


def whole_number(text: str, end: int) -> int | None:
    """Parse plain digits as a number from 0 to ``end - 1``; None for anything else."""
    if not (text.isascii() and text.isdigit()) or len(text) > 12:
        return None
    number = int(text)
    return number if number < end else None
