"""Count the reads that would make the host wait for a GPU, without a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class HostReads(TorchDispatchMode):
    """Counts the operations that make the host wait for the device, were the tensors on one."""

    WAIT = {
        "aten._local_scalar_dense.default",
        "aten.nonzero.default",
        "aten.equal.default",
        "aten.is_nonzero.default",
        "aten.masked_select.default",
        "aten.repeat_interleave.Tensor",
        "aten._unique2.default",
    }

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        picks = args[1] if name.startswith(("aten.index.", "aten.index_put")) else ()
        by_mask = any(pick is not None and pick.dtype == torch.bool for pick in picks)
        if (name in self.WAIT and not (kwargs or {}).get("output_size")) or by_mask:
            self.names.append(name)
        return func(*args, **(kwargs or {}))
