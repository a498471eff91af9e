"""Which device a job runs on."""

from __future__ import annotations

import torch

from sae_core.errors import UserError


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
