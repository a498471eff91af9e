"""Read this process's rank from the environment variables of torchrun; without torchrun there is one process."""

from __future__ import annotations

import os

from sae_core.foundation.errors import UserError


def rank() -> int:
    """Number of this process, counted from 0."""
    return _number("RANK", 0)


def is_another() -> bool:
    """Whether this process is certainly not the first one. A malformed variable counts as the first process."""
    try:
        return rank() > 0
    except UserError:
        return False


def processes() -> int:
    """Number of processes on all machines together."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """Number of this process on its machine."""
    return _number("LOCAL_RANK", 0)


def local_processes() -> int:
    """Number of processes on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def _number(variable: str, alone: int) -> int:
    given = os.environ.get(variable, str(alone))
    if not (given.isascii() and given.isdigit()) or not alone <= int(given[:8]) < 10**7:
        raise UserError(f"The environment variable {variable} is {given[:40]!r}, not a number as torchrun sets it.")
    return int(given)
