"""Machines by name, with public figures, and the one at hand.

Sources, all dense rates without sparsity: NVIDIA's data sheets of the H100 and H200 (SXM), A100 (SXM), L4 and the Ada
architecture whitepaper (RTX 4090; bfloat16 with float32 accumulation). A laptop's figures are those of two current x86
cores with AVX2 (2 × 3 GHz × 32 float32 operations) on two channels of DDR4.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_core.foundation.errors import UserError
from sae_core.foundation.machine.host_memory import free_host_memory
from sae_core.foundation.stages import Sizes, Stage

GB, TERA = 10**9, 10**12
UTILISATION, STREAMED = 0.4, 0.6
"""Shares of a machine's peaks. Of its arithmetic, what long dense products reach beside what is between them: published
trainings reach 0.3 to 0.5 (Chowdhery et al. 2022, *PaLM*, section 4.1). Of its bandwidth, what passes over it do."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine can do at best, and what it has.

    Attributes:
        name: Its name.
        gpu: Whether the figures are those of a GPU.
        float32: Floating-point operations a second in float32, with tensor cores where torch uses them by default: no.
        bfloat16: In bfloat16.
        bandwidth: Bytes a second between memory and processor.
        memory: Bytes of memory, of the GPU if it is one; None if that is unknown.
        disk: Bytes free on the disk; None if that is unknown.
        host_memory: Bytes of memory beside a GPU's; None if that is unknown.
    """

    name: str
    gpu: bool
    float32: float = 0.0
    bfloat16: float = 0.0
    bandwidth: float = 0.0
    memory: int | None = None
    disk: int | None = None
    host_memory: int | None = None

    @property
    def host(self) -> int | None:
        """Bytes of memory of the processor."""
        return self.host_memory if self.gpu else self.memory

    def seconds(self, stage: Stage[Any], sizes: Sizes, *, low: bool = False) -> float:
        """What a stage takes by public figures; with ``low``, products are in bfloat16."""
        product = UTILISATION * (self.bfloat16 if low else self.float32)
        moving = stage.moved(sizes) / (STREAMED * self.bandwidth)
        return stage.flops(sizes) / product + moving + stage.cost(sizes)


FOUND = "found"
MACHINES = {
    machine.name: machine
    for machine in (
        Machine("H200", True, 67 * TERA, 989 * TERA, 4800 * GB, 141 * GB),
        Machine("H100", True, 67 * TERA, 989 * TERA, 3350 * GB, 80 * GB),
        Machine("A100-80GB", True, 19.5 * TERA, 312 * TERA, 2039 * GB, 80 * GB),
        Machine("A100-40GB", True, 19.5 * TERA, 312 * TERA, 1555 * GB, 40 * GB),
        Machine("RTX-4090", True, 82.6 * TERA, 165 * TERA, 1008 * GB, 24 * GB),
        Machine("L4", True, 30.3 * TERA, 121 * TERA, 300 * GB, 24 * GB),
        Machine("laptop", False, 0.19 * TERA, 0.19 * TERA, 40 * GB, 16 * GB),
    )
}


def find_machine(name: str) -> Machine:
    """A machine of the table, whatever the case, with a space or a hyphen.

    Raises:
        UserError: If there is none of that name.
    """
    wanted = name.lower().replace(" ", "-").replace("_", "-")
    for known, machine in MACHINES.items():
        if known.lower() == wanted:
            return machine
    raise UserError(
        f"There is no machine called {name!r}; known: {', '.join(MACHINES)}; or {FOUND}, the one this runs on."
    )


def this_machine(device: str, folder: Path) -> Machine:
    """The machine at hand, with what is free of its memory and of the disk that holds ``folder``.

    Args:
        device: A torch device.
        folder: The run folder; it need not be there.
    """
    import torch

    free = shutil.disk_usage(existing_parent(folder)).free
    if torch.device(device).type != "cuda":
        return Machine("this machine", False, memory=free_host_memory(), disk=free)
    name, (memory, _) = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)
    return Machine(name, True, memory=memory, disk=free, host_memory=free_host_memory())


def existing_parent(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.expanduser().resolve()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
