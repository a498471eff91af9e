"""Preactivations as keys: the encoder product in chunks, rounded to bfloat16, with a proven bound on its error.

Keys only choose the features whose preactivation is then computed in float32. So the product may run in bfloat16 where
the processor multiplies that several times as fast as float32, and no code changes by it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.training.kernels.cpu import select_loops, team
from sae_core.training.kernels.workspace import Workspace

CHUNK_ENTRIES = 2**23
"""Preactivations that exist at a time."""

_BIAS_COLUMNS = 16
"""Columns that carry the bias through the product; two are used, the others keep rows aligned."""

_ROUNDING = 2.0**-24
"""Largest relative error of one float32 rounding."""


class Screen:
    """The keys of one batch.

    Args:
        centred_BD: Activations, b_dec subtracted.
        W_enc_ND: The encoder, feature by feature.
        b_enc_N: Its bias.
        workspace: Where buffers come from.
        low_precision: Whether the product runs in bfloat16.

    Attributes:
        x_BD: The activations.
        W_ND: The encoder.
        b_N: Its bias.
        slacks_B: For each activation a bound on how far its preactivations, as computed in float32 entry by entry, are
            from what the keys were rounded from.
        norms_B: The activations' norms.
    """

    slacks_B: NDArray[np.float32]
    norms_B: NDArray[np.float32]

    def __init__(
        self, centred_BD: Tensor, W_enc_ND: Tensor, b_enc_N: Tensor, workspace: Workspace, *, low_precision: bool
    ) -> None:
        self.x_BD, self.W_ND, self.b_N, self._workspace = centred_BD, W_enc_ND, b_enc_N, workspace
        self._low_precision = low_precision
        columns = W_enc_ND.shape[1]
        bias, terms = float(b_enc_N.abs().max()), columns + _BIAS_COLUMNS
        if low_precision:
            self._x_BK, x_norms_B, x_slips_B = self._rounded("x", centred_BD)
            self._W_NK, W_norms_N, W_slips_N = self._rounded("W_enc", W_enc_ND)
            high_N = b_enc_N.bfloat16()
            low_N = (b_enc_N - high_N).bfloat16()
            self._W_NK[:, columns], self._W_NK[:, columns + 1] = high_N, low_N
            self._x_BK[:, columns : columns + 2] = 1
            # x·w − x̂·ŵ = (x − x̂)·w + x̂·(w − ŵ), each at most a product of norms (Cauchy and Schwarz).
            slips_B = x_slips_B * W_norms_N.max() + (x_norms_B + x_slips_B) * W_slips_N.max()
            slips_B += float((b_enc_N - high_N - low_N).abs().max())
        else:
            x_norms_B, W_norms_N = centred_BD.norm(dim=1), W_enc_ND.norm(dim=1)
            slips_B = torch.zeros_like(x_norms_B)
        # A float32 sum of products is off by at most a rounding per term; there are two, this one and the exact one.
        sums_B = 2.1 * terms * _ROUNDING * (x_norms_B * W_norms_N.max() + bias)
        self.norms_B = x_norms_B.numpy()
        self.slacks_B = (1.001 * slips_B + sums_B).numpy()

    def _rounded(self, name: str, table_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A table in bfloat16 with columns for the bias, the norms of its rows, and those of what rounding took."""
        rows, columns = table_RD.shape
        rounded_RK = self._workspace.take(f"{name} rounded", rows, columns + _BIAS_COLUMNS, dtype=torch.bfloat16)
        norms_R, slips_R = (self._workspace.take(f"{name} {what}", rows) for what in ("norms", "slips"))
        bits_RK = rounded_RK.view(torch.uint16).numpy()
        team.run(select_loops.round_rows, table_RD.numpy(), bits_RK, norms_R.numpy(), slips_R.numpy())
        rounded_RK[:, columns:] = 0
        return rounded_RK, norms_R, slips_R

    def chunks(self) -> Iterator[tuple[int, NDArray[np.int16]]]:
        """(number of the first activation, keys [C, N]) chunk by chunk; the keys are overwritten by the next chunk."""
        batch, width = len(self.x_BD), len(self.W_ND)
        rows = min(batch, max(1, CHUNK_ENTRIES // width))
        for first in range(0, batch, rows):
            count = min(rows, batch - first)
            keys_CN = self._workspace.take("keys", count, width, dtype=torch.bfloat16)
            if self._low_precision:
                torch.mm(self._x_BK[first : first + count], self._W_NK.T, out=keys_CN)
            else:
                pre_CN = self._workspace.take("preactivations", count, width)
                torch.addmm(self.b_N, self.x_BD[first : first + count], self.W_ND.T, out=pre_CN)
                keys_CN.copy_(pre_CN)
            yield first, keys_CN.view(torch.int16).numpy()
