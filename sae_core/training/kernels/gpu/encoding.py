"""Sparse codes of a batch on a GPU for the kernels that fix the number of active features.

The encoder product runs as one library call for some rows at a time; what it writes are the keys by which Triton
programs choose, and at the same time the coefficients. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_core.sae import SAE, Kernel
from sae_core.training.kernels.gpu import select_programs
from sae_core.training.kernels.workspace import Workspace

CHUNK_ENTRIES = 2**24
"""Preactivations that are computed at a time: in bfloat16 as many as the second-level cache of a large GPU holds."""

COUNTED, SCANNED = 2**14, 2**11
"""Features that a program looks at at a time: 64 or, where it numbers them, 8 for each of its threads."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a step's products and sums read: float32, or all in bfloat16.

    Attributes:
        x_BD: Activations, b_dec subtracted.
        W_enc_ND: The encoder, feature by feature.
        W_dec_ND: The atoms.
        b_enc_N: The encoder's bias.
    """

    x_BD: Tensor
    W_enc_ND: Tensor
    W_dec_ND: Tensor
    b_enc_N: Tensor

    def products(self, entries: int, workspace: Workspace) -> Iterator[tuple[int, Tensor]]:
        """(number of the first activation, preactivations [C, N]) chunk by chunk, each written over the last."""
        (batch, _), (width, _) = self.x_BD.shape, self.W_enc_ND.shape
        rows = max(1, entries // width)
        if 128 < rows < batch:
            rows -= rows % 128  # whole tiles of the product
        for first in range(0, batch, rows):
            x_CD = self.x_BD[first : first + rows]
            pre_CN = workspace.take("preactivations", len(x_CD), width, dtype=x_CD.dtype)
            yield first, torch.addmm(self.b_enc_N, x_CD, self.W_enc_ND.T, out=pre_CN)


@dataclass(frozen=True, slots=True)
class GpuCode:
    """A sparse code of B activations: the entries of activation b lie at starts[b] … starts[b] + counts[b].

    Attributes:
        starts_B: First entry of each activation.
        counts_B: How many it has.
        features_E: Feature of each entry, ascending within an activation; N where there is no entry.
        values_E: Its coefficient, which is positive.
        rows_E: Its activation.
    """

    starts_B: Tensor
    counts_B: Tensor
    features_E: Tensor
    values_E: Tensor
    rows_E: Tensor

    @classmethod
    def empty(cls, batch: int, k: int, width: int, workspace: Workspace) -> GpuCode:
        """Room for k entries per activation."""
        size = batch * k
        # Sixteen bits where they do: entries are sorted by feature, and sorting them takes as many passes as bytes.
        narrow = torch.int16 if width < 2**15 - 1 else torch.int32
        counts_B = workspace.take("counts", batch, dtype=torch.int32)
        return cls(
            torch.arange(0, size, k, dtype=torch.int32, device=counts_B.device),
            counts_B,
            workspace.take("features", size, dtype=narrow),
            workspace.take("values", size),
            workspace.take("rows", size, dtype=torch.int32),
        )

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features, values and rows."""
        return self.features_E, self.values_E, self.rows_E


def encode(sae: SAE, inputs: Inputs, workspace: Workspace) -> GpuCode:
    """The code of a batch; a batch's threshold is updated."""
    if sae.kernel is Kernel.TOP_OF_BATCH:
        return _batch_topk(sae, inputs, workspace)
    assert sae.kernel is Kernel.TOP_OF_ROW
    code = GpuCode.empty(len(inputs.x_BD), sae.k, sae.width, workspace)
    for first, pre_CN in inputs.products(CHUNK_ENTRIES, workspace):
        keys_CN, options = keys_of(pre_CN)
        select_programs.select_topk[(len(keys_CN),)](
            *(keys_CN, first, *code.entries(), code.counts_B, sae.width, sae.k),
            **{"GROUPS": options["BLOCK"] // 8, "PLACES": power_of_two(sae.k)},
            **{"TOP": top_key(keys_CN), **scan_options(keys_CN, options), **options},
        )
    return code


def _batch_topk(sae: SAE, inputs: Inputs, workspace: Workspace) -> GpuCode:
    """The B·k largest preactivations of the batch, whose keys are all kept for it."""
    batch, width = len(inputs.x_BD), sae.width
    ((_, pre_BN),) = inputs.products(batch * width, workspace)
    keys_BN, options = keys_of(pre_BN)
    bound_1, wanted_1 = nth_largest(keys_BN, batch * sae.k, options)
    code = GpuCode.empty(batch, sae.k, width, workspace)
    larger_B, equal_B = (workspace.take(name, batch, dtype=torch.int32) for name in ("larger", "equal"))
    select_programs.count_row[(batch,)](keys_BN, bound_1, larger_B, equal_B, width, **options)
    # Of the keys equal to the bound the first of the batch are kept, as many as there is room for.
    spare_B = (wanted_1 - (equal_B.cumsum(0, dtype=torch.int32) - equal_B)).clamp(min=0).minimum(equal_B)
    torch.add(larger_B, spare_B, out=code.counts_B)
    torch.sub(code.counts_B.cumsum(0, dtype=torch.int32), code.counts_B, out=code.starts_B)
    code.features_E.fill_(width)
    code.values_E.zero_()
    select_programs.collect_row[(batch,)](
        *(keys_BN, bound_1, spare_B, code.starts_B, *code.entries(), width),
        **scan_options(keys_BN, options),
        num_warps=options["num_warps"],
    )
    sae.update_threshold(code.values_E)
    return code


def nth_largest(keys_BN: Tensor, wanted: int, options: dict[str, int]) -> tuple[Tensor, Tensor]:
    """The wanted-th largest key [1], and as the how-manieth of those that are equal to it; 0 if there are fewer."""
    bits = keys_BN.element_size() * 8
    bound_1, wanted_1 = (torch.full((1,), number, dtype=torch.int32, device=keys_BN.device) for number in (0, wanted))
    # Counting by digits takes more registers than counting.
    options = {**options, "DIGIT": select_programs.DIGIT, "BLOCK": max(16, options["BLOCK"] // 4)}
    for shift in range(bits - 8, -1, -8):
        counts_D = bound_1.new_zeros(select_programs.DIGIT)
        select_programs.count_digits[(len(keys_BN),)](
            *(keys_BN, bound_1, counts_D, keys_BN.shape[1]), SHIFT=shift, FIRST=shift == bits - 8, **options
        )
        select_programs.choose_digit[(1,)](counts_D, bound_1, wanted_1, DIGIT=select_programs.DIGIT)
    return bound_1, wanted_1


def keys_of(pre_CN: Tensor) -> tuple[Tensor, dict[str, int]]:
    """Preactivations as integers, and how programs walk over their rows."""
    block = min(COUNTED, max(16, power_of_two(pre_CN.shape[1])))
    integers = torch.int16 if pre_CN.dtype == torch.bfloat16 else torch.int32
    return pre_CN.view(integers), {"BLOCK": block, "num_warps": max(1, min(8, block // 512))}


def top_key(keys_CN: Tensor) -> int:
    """A number above all keys, and not above 2³¹ − 1."""
    return select_programs.LARGEST.value + 1 if keys_CN.dtype == torch.int32 else 2**15


def scan_options(keys_CN: Tensor, options: dict[str, int]) -> dict[str, int]:
    """How programs number the entries of a row."""
    return {"HALF": keys_CN.dtype == torch.int16, "SCAN": min(SCANNED, options["BLOCK"])}


def power_of_two(size: int) -> int:
    """The least power of two that is no smaller."""
    return 1 << (size - 1).bit_length()
