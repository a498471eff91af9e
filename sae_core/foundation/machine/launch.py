"""What torchrun tells a process of its place among others, in the environment; without torchrun it is alone."""

from __future__ import annotations

import os

from sae_core.foundation.errors import UserError


def rank() -> int:
    """Number of this process, from 0; alone 0."""
    return _number("RANK", 0)


def is_another() -> bool:
    """Whether this process is known not to be the first; what the environment holds may be nonsense."""
    try:
        return rank() > 0
    except UserError:
        return False


def processes() -> int:
    """How many processes there are, on all machines."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """Number of this process on its machine."""
    return _number("LOCAL_RANK", 0)


def local_processes() -> int:
    """How many processes there are on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def _number(variable: str, alone: int) -> int:
    given = os.environ.get(variable, str(alone))
    if not (given.isascii() and given.isdigit()) or not alone <= int(given[:8]) < 10**7:
        raise UserError(f"The environment variable {variable} is {given[:40]!r}, not a number as torchrun sets it.")
    return int(given)
