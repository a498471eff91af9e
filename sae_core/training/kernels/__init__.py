"""The fast training step on a CPU; `gradients.py` is its plain twin and what every other device uses."""

from __future__ import annotations

import torch

from sae_core.errors import UserError
from sae_core.sae import SAE


def use_fast(wanted: str, sae: SAE) -> bool:
    """Whether an SAE is trained by the fast kernels.

    Args:
        wanted: auto (where they work), plain (never) or fast (always).
        sae: The SAE, on the device on which it is trained.

    Raises:
        UserError: If they are asked for and do not work here.
    """
    if wanted == "plain":
        return False
    obstacle = _obstacle(sae)
    if obstacle and wanted == "fast":
        raise UserError(f"training.kernels is fast, but {obstacle}; set it to auto or plain.")
    return obstacle is None


def _obstacle(sae: SAE) -> str | None:
    if sae.b_dec.device.type != "cpu":
        return f"the fast kernels run on a CPU and training.device is {sae.b_dec.device.type}"
    if any(parameter.dtype != torch.float32 for parameter in sae.parameters()):
        return "the weights are not float32"
    try:
        import numba  # noqa: F401
    except ImportError as error:
        return f"numba cannot be imported ({error})"
    return None


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    checks = [getattr(torch.cpu, name) for name in names if hasattr(torch.cpu, name)]
    return torch.backends.mkldnn.is_available() and any(check() for check in checks)
