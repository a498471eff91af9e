"""Compiled training steps for a CPU and for a GPU; `gradients.py` is the plain twin of both."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import torch

from sae_core.foundation.errors import UserError
from sae_core.sae import SAE

if TYPE_CHECKING:
    from sae_core.training.kernels.compiled_step import CompiledStep


def step_on(device: torch.device) -> type[CompiledStep]:
    """The compiled step of a device; each is imported when needed, as the compiler of the other may be missing."""
    if device.type == "cpu":
        from sae_core.training.kernels.cpu.step import FastStep

        return FastStep
    from sae_core.training.kernels.gpu.step import GpuStep

    return GpuStep


def use_fast(wanted: str, sae: SAE) -> bool:
    """Whether the compiled kernels train an SAE.

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
    if sae.kernel is None:
        return f"none of them is declared to compute what {type(sae).__name__} does"
    if sae.training and not sae.has_compiled_step():
        return f"{type(sae).__name__} has a loss of its own, which none of them computes"
    device = sae.b_dec.device
    if device.type not in ("cpu", "cuda"):
        return f"the fast kernels run on a CPU or a CUDA device and training.device is {device.type}"
    if any(parameter.dtype != torch.float32 for parameter in sae.parameters()):
        return "the weights are not float32"
    if device.type == "cuda":
        if torch.__version__ < "2.8":
            return f"they need torch 2.8 on a GPU and this is {torch.__version__}"
        if torch.cuda.get_device_capability(device) < (8, 0):
            return f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
    compiler = "numba" if device.type == "cpu" else "triton"
    try:
        importlib.import_module(compiler)
    except ImportError as error:
        return f"{compiler} cannot be imported ({error})"
    return None


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    checks = [getattr(torch.cpu, name) for name in names if hasattr(torch.cpu, name)]
    return torch.backends.mkldnn.is_available() and any(check() for check in checks)
