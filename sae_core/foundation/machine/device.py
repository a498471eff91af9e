"""Choose the device of a job, and recognise full memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sae_core.foundation.errors import UserError


def resolve_device(wanted: str) -> str:
    """Return the torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` is a GPU if there is one.

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
    """Whether an exception says that the memory of a GPU or of the machine is full."""
    # Torch has an exception class for full GPU memory, but none for full CPU memory.
    told = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or told


@contextmanager
def naming_full_memory(device: object, remedy: str) -> Iterator[None]:
    """Turn out-of-memory errors of a block into a `UserError` with a remedy.

    Args:
        device: The device's name in the message.
        remedy: What to do, e.g. ``lower model.batch_size``.

    Raises:
        UserError: If the memory is full.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"The memory of {device} is full; {remedy}, and run the command again.") from None
