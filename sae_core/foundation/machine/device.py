"""Which device a job runs on, and what happens when its memory is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sae_core.foundation.errors import UserError


def resolve_device(wanted: str) -> str:
    """The torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; auto is a GPU if there is one.

    Raises:
        UserError: If the device does not exist here.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UserError(f"There is no device called {wanted!r}; use auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"Device {wanted!r} is not supported; use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.device_count() else "no CUDA device"
        raise UserError(f"Device {wanted!r} was asked for, but torch finds {found} here; use --device cpu or auto.")
    return str(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was asked for which is not there, on a GPU or a CPU."""
    # For the memory of a CPU torch has no exception of its own.
    told = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or told


@contextmanager
def naming_full_memory(device: object, remedy: str) -> Iterator[None]:
    """Within this, memory that is full is bad input, for which there is a remedy.

    Args:
        device: Whose memory it is, as people call it.
        remedy: What to do, e.g. ``lower model.batch_size``.

    Raises:
        UserError: If something does not fit.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"The memory of {device} is full; {remedy}, and run the command again.") from None
