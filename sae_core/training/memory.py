"""Measure free memory, and compute how many members of a bag fit into it together."""

from __future__ import annotations

import torch

from sae_core.foundation.machine.host_memory import free_host_memory
from sae_core.foundation.settings.run_settings import RunSettings, SAESettings
from sae_core.sae import ARCHITECTURES
from sae_core.training.stage import Plan

USABLE = 0.9
"""The share of the free memory that training may fill; the rest is for other programs."""

BYTES_PER_PARAMETER = {"cpu": 28, "cuda": 20}
"""float32: weight, gradient (twice where one lies in memory otherwise than its parameter) and Adam's two moments. On a
CPU also the copies that writing a checkpoint makes of what lies transposed; measured were 18 (fast kernels), 23 (plain,
TopK) and 27 (plain, ReLU). Of a GPU such copies are made on the host."""

DENSE_BUFFERS, SPARSE_BUFFERS = 6, 2
"""Tables [B, N] of float32 that a step holds at once: preactivations and their like with gradients, or alone."""

ROW_BUFFERS = 8
"""Tables [B, D] of float32 that a step holds at once, besides one reconstruction a member."""


def fitting_members(settings: RunSettings, plan: Plan, d_in: int, *, free: int | None) -> int:
    """How many of the bag's members are to be trained in one pass, so that weights, moments and buffers fit.

    Args:
        settings: Those of the run.
        plan: Batch size and device.
        d_in: Dimension of the activations, D.
        free: Free memory of the device in bytes; None (unknown) counts as enough. The processes of one machine share
            the memory of its CPU.

    Returns:
        At least one member per process and at most J; the smallest number that leaves the number of passes the same.
    """
    members = settings.training.members
    if free is None:
        return members
    free = free if plan.device.type == "cuda" else free // plan.processes.here
    member, shared = step_bytes(settings.sae, plan.batch_size, d_in, plan.device.type)
    fitting = min(members, plan.processes.size * max(1, int(USABLE * free - shared) // member))
    passes = -(-members // fitting)
    return -(-members // passes)


def step_bytes(sae: SAESettings, batch: int, d_in: int, device: str) -> tuple[int, int]:
    """Bytes that training holds at most: for each member that is trained side by side, and shared by all of them.

    Args:
        sae: The settings of a member.
        batch: Activations in a step.
        d_in: Dimension of the activations, D.
        device: The device's type, cpu or cuda.
    """
    parameters = 2 * sae.width * d_in + 2 * sae.width + d_in
    row = 4 * batch
    tables = SPARSE_BUFFERS if ARCHITECTURES[sae.architecture].selects else DENSE_BUFFERS
    return parameters * BYTES_PER_PARAMETER[device] + row * d_in, row * (tables * sae.width + ROW_BUFFERS * d_in)


def free_memory(device: torch.device) -> int | None:
    """Bytes that training may still take on a device; None if the system does not tell.

    On a CPU, see `free_host_memory`. On a GPU, this is the free memory plus the memory that torch has reserved but does
    not use.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free_host_memory()
