"""Models too large for one device: spread over several by accelerate, or with weights of 8 bits by bitsandbytes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import ModelSettings


def spread_options(settings: ModelSettings, device: str) -> dict[str, Any]:
    """What transformers is told of devices and bits; nothing unless the settings ask for it.

    Args:
        settings: The model.
        device: Where it runs, unless ``model.device_map`` says otherwise.

    Raises:
        UserError: If a package is missing, or 8 bits are asked for on a CPU.
    """
    options: dict[str, Any] = {}
    if settings.device_map is not None:
        require(("accelerate",), f"model.device_map is {settings.device_map}", "leave it out")
        options["device_map"] = settings.device_map
    if settings.load_in_8bit:
        require(("bitsandbytes", "accelerate"), "model.load_in_8bit is true", "leave it out")
        if not torch.cuda.is_available():
            raise UserError("model.load_in_8bit is true, which needs a GPU that torch can use; leave it out.")
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        options.setdefault("device_map", {"": device})
    return options


def refuse_spread(settings: ModelSettings) -> None:
    """Refuse these settings for a model that transformers does not load."""
    for name in ("device_map", "load_in_8bit"):
        if getattr(settings, name):
            raise UserError(
                f"model.{name} is for models that transformers loads, not for {settings.name}; leave it out."
            )


def require(packages: Sequence[str], what: str, instead: str) -> None:
    """Refuse what needs a package that is not installed.

    Raises:
        UserError: One sentence that says how to get it.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"{what}, and {' and '.join(missing)} {are} not installed; run pip install {' '.join(missing)}, or "
            f"{instead}."
        )


def to_device(model: Any, device: str) -> None:
    """Move a model to a device, unless transformers has put its parts where they are to stay."""
    if not _is_placed(model):
        model.to(device)


def entrance(model: Any, device: str) -> torch.device:
    """Where a model takes its ids: the given device, or that of its first part if it was placed."""
    if not _is_placed(model):
        return torch.device(device)
    first = next(model.parameters()).device
    return torch.device(device) if first.type == "meta" else first  # whose weights are loaded when they are used


def _is_placed(model: Any) -> bool:
    return bool(getattr(model, "hf_device_map", None) or getattr(model, "is_loaded_in_8bit", False)) or any(
        getattr(parameter, "device", None) is not None and parameter.device.type == "meta"
        for parameter in model.parameters()
    )
