"""What torchrun tells a process of its place among others, in the environment; without torchrun it is alone."""

from __future__ import annotations

import os


def rank() -> int:
    """Number of this process, from 0; alone 0."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many processes there are, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_processes() -> int:
    """How many processes there are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
