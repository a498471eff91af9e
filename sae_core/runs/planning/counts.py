"""What an ensemble's members make together, counted: activations, features, and pairs of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from sae_core.training.operations import SAEShape


@dataclass(frozen=True, slots=True)
class Counted:
    """An ensemble whose members have all read the same tokens.

    Attributes:
        method: How it was trained.
        members: Its members.
        tokens: How many tokens they have read.
    """

    method: str
    members: Sequence[SAEShape]
    tokens: int

    @property
    def active(self) -> list[int]:
        """Features of each member that fire on a token; a penalty decides that for some, and k stands in for it."""
        return [min(member.k, member.width) for member in self.members]

    @property
    def features(self) -> int:
        """Features of all members."""
        return sum(member.width for member in self.members)

    @property
    def entries(self) -> int:
        """Activations that are not 0, E."""
        return self.tokens * sum(self.active)

    @property
    def largest(self) -> int:
        """Those of the member that has most."""
        return self.tokens * max(self.active)

    @property
    def pairs(self) -> int:
        """Pairs of members."""
        return len(self.members) * (len(self.members) - 1) // 2

    @property
    def cells(self) -> int:
        """Pairs of features of different members."""
        return sum(one.width * other.width for one, other in combinations(self.members, 2))

    @property
    def products(self) -> int:
        """Pairs of activations on the same token, of different members."""
        return self.tokens * sum(one * other for one, other in combinations(self.active, 2))

    @property
    def neighbours(self) -> int:
        """Ordered pairs of activations on the same token, whoever's; each is one of its own."""
        return self.tokens * sum(self.active) ** 2

    @property
    def companions(self) -> int:
        """Ordered pairs of features that are ever seen on the same token, about.

        Of x pairs of activations for every pair of features, 1 − exp(−x) of the latter would be met if all were met as
        often; as few make up most, it is 1 − exp(−0.32·x^⅔) in four ensembles of 2,048 and 8,192 features, give or
        take a fifth.
        """
        pairs = self.features**2
        return round(-pairs * math.expm1(-0.32 * (self.neighbours / pairs) ** (2 / 3)))


def distinct_tokens(tokens: int, vocabulary: int) -> int:
    """How many different tokens a text has, by Heaps' law as the embedded one follows it: 6,700 in 150,000."""
    return min(tokens, vocabulary, round(11.0 * math.pow(tokens, 0.54)))
