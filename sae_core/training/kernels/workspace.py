"""Hold the memory that the steps of all trainers share: allocated once, as fresh pages cost a third of a step."""

from __future__ import annotations

import math
import threading
import weakref

import torch
from torch import Tensor


class Workspace:
    """Named buffers on a device that are given out again and again; their content is worth nothing after a step."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self.lock = threading.Lock()
        """Held during a step, as two steps at a time would write into the same buffers."""
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The buffer of a name as a tensor of a shape; larger than ever before, it is allocated anew."""
        size = math.prod(shape)
        buffer = self._buffers.get((name, dtype))
        if buffer is None or len(buffer) < size:
            self._buffers.pop((name, dtype), None)  # freed before its successor is allocated
            del buffer
            buffer = self._buffers[name, dtype] = torch.zeros(size, dtype=dtype, device=self._device)
        return buffer[:size].view(shape)

    def extend(self, name: str, used: int, size: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """As `take`, for a vector whose first `used` places keep what they hold."""
        buffer = self._buffers.get((name, dtype))
        if buffer is None or len(buffer) < size:
            larger = torch.zeros(size + size // 2, dtype=dtype, device=self._device)
            if buffer is not None:
                larger[:used] = buffer[:used]
            buffer = self._buffers[name, dtype] = larger
        return buffer[:size]

    def size(self) -> int:
        """Bytes held."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self._buffers.values())


alive: weakref.WeakValueDictionary[str, Workspace] = weakref.WeakValueDictionary()
"""The workspaces that somebody uses, by their devices."""


def shared_workspace(device: torch.device | str = "cpu") -> Workspace:
    """The process's workspace on a device; it lives as long as somebody uses it."""
    workspace = alive.get(str(device))
    if workspace is None:
        workspace = alive[str(device)] = Workspace(device)
    return workspace
