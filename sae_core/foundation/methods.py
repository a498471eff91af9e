"""The methods that can be trained: their names, titles and order, and for how many steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Method = Literal[
    "single", "bagged", "boosted", "expanded", "expanded_l0", "single_long", "expanded_long", "expanded_l0_long"
]
METHODS: tuple[Method, ...] = ("single", "bagged", "boosted", "expanded")
"""What is trained unless the settings say otherwise."""
LONG: Mapping[Method, Method] = {
    "single_long": "single",
    "expanded_long": "expanded",
    "expanded_l0_long": "expanded_l0",
}
"""Methods that train the SAE of another one for J times the steps, as many as J boosted stages take together."""
EXPANDED: tuple[Method, ...] = ("expanded", "expanded_l0", "expanded_long", "expanded_l0_long")
"""One SAE as wide as all members together: with the k of one of them, and with that of all."""
BASELINES: tuple[Method, ...] = ("single", "expanded", "expanded_l0", *LONG)
"""Methods of one SAE, with which ensembles are compared."""
TRAINING_ORDER: tuple[Method, ...] = ("bagged", "single", "boosted", *EXPANDED, "single_long")
"""Bagged first: its members are trained in one pass over the stream, and the first is the single SAE."""
_TITLES = {
    "expanded_l0": "expanded (same L0)",
    "single_long": "single, long",
    "expanded_long": "expanded, long",
    "expanded_l0_long": "exp. (same L0), long",
}


def times_the_steps(method: str, members: int) -> int:
    """For how many times the steps of one stage an SAE of a method is trained."""
    return members if method in LONG else 1


def title_of(ensemble: str) -> str:
    """What people read for the name of an ensemble."""
    return _TITLES.get(ensemble, ensemble)


def headed(ensemble: str) -> str:
    """`title_of` at the beginning of a sentence; ``L0`` stays as it is."""
    title = title_of(ensemble)
    return title[:1].upper() + title[1:]
