"""Compile the Triton programs of a training step for a GPU that need not be there, with the arguments of a real step.

    python tests/support/compiled_programs.py [ARCHITECTURE D N K]

Prints one JSON line per program: compute capability, registers of a thread, bytes that do not fit into them, loads.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

from sae_core.foundation.settings.run_settings import SAESettings, TrainingSettings
from sae_core.sae import make_sae
from sae_core.training.kernels.gpu.step import GpuStep
from sae_core.training.step import Trainer

NARROW = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int16: "*i16", torch.int32: "*i32"}


def launches(architecture: Any, d_in: int, width: int, k: int) -> Iterator[tuple[JITFunction[Any], Any, Any]]:
    """What a step on eight activations would start: (program, arguments, options)."""
    seen: list[tuple[JITFunction[Any], Any, Any]] = []
    JITFunction.run = lambda self, *arguments, grid, warmup, **options: seen.append((self, arguments, options))
    settings = SAESettings(architecture=architecture, width=width, k=k)
    sae = make_sae(settings, d_in)
    Trainer(sae, settings, TrainingSettings(), steps=10, low_precision=True, compiled=GpuStep).step(
        torch.randn(8, d_in)
    )
    found = {}
    for program, arguments, options in seen:
        found[program.__name__, str(options)] = program, arguments, options
    yield from found.values()


def compiled(program: JITFunction[Any], arguments: Any, options: dict[str, Any], capability: int) -> Any:
    """The machine code, specialised as a launch would: for what is a multiple of 16."""
    constants = {name: value for name, value in options.items() if name in program.arg_names}
    signature, multiples = dict.fromkeys(constants, "constexpr"), {}
    for number, (name, value) in enumerate(zip(program.arg_names, arguments, strict=False)):
        tensor = isinstance(value, torch.Tensor)
        signature[name] = NARROW[value.dtype] if tensor else mangle_type(value)
        if (value.data_ptr() if tensor else value) % 16 == 0 and not isinstance(value, float):
            multiples[number,] = [["tt.divisibility", 16]]
    ordered = {name: signature[name] for name in program.arg_names}
    source = ASTSource(program, ordered, constants, multiples)
    warps = {name: value for name, value in options.items() if name == "num_warps"}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=warps)


def main() -> None:
    """Compile all, print what they need."""
    shape = sys.argv[1:] or ["topk", "768", "16128", "128"]
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    for program, arguments, options in launches(shape[0], *map(int, shape[1:])):
        for capability in (80, 90):
            code = compiled(program, arguments, options, capability).asm
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(code["cubin"])
                file.flush()
                usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
            registers, stack, shared = re.findall(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", usage.stdout)[-1]
            widths = sorted({line.split()[0] for line in re.findall(r"ld\.global\S*.*", code["ptx"])})
            facts = {"registers": int(registers), "stack": int(stack), "shared": int(shared), "loads": widths}
            place = {"program": program.__name__, "capability": capability, "options": options}
            print(json.dumps({**place, **facts}), flush=True)


if __name__ == "__main__":
    main()
