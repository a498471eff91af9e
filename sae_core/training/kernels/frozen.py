"""Encode and reconstruct with finished SAEs, as fast as this machine can.

The compiled encoding of the training step is used where it works, and `SAE.encode_sparse` elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sae_core.foundation.settings.run_settings import Kernels
from sae_core.sae import SAE
from sae_core.sae.sparse_code import SparseCode
from sae_core.training.kernels import has_fast_bfloat16, use_fast
from sae_core.training.kernels.workspace import shared_workspace

if TYPE_CHECKING:
    from sae_core.training.kernels.cpu.select_loops import Code

CELLS = 2**25
"""Activations times features that are encoded at a time; what that takes is a fraction of as many numbers."""
DENSE_CELLS = 2**24
"""The same where a code has to become dense on its way (64 MB)."""
DENSE_SHARE = 1 / 16
"""A code with more entries than this share of all is decoded faster as a dense product."""


class FrozenEncoder:
    """Encodes with SAEs in evaluation mode; keep it as long as there is something to encode, as it keeps buffers.

    Args:
        kernels: plain never takes the compiled loops; everything else takes them where they work.
    """

    def __init__(self, kernels: Kernels = "auto") -> None:
        self._kernels, self._workspace = kernels, shared_workspace()

    @torch.no_grad()
    def __call__(self, sae: SAE, acts_BD: Tensor) -> SparseCode:
        """The coefficients of `SAE.encode` as a list of entries; some of those of TopK may be 0.

        With compiled loops the code of an activation does not depend, to the last bit, on the rest of the batch. An SAE
        in training mode is run plainly, since it may learn from what it encodes.
        """
        if not self._has_loops(sae, acts_BD):
            return encode_plainly(sae, acts_BD)
        blocks = acts_BD.float().split(_rows(sae))
        return SparseCode.joined(self._compiled(sae, block_BD) or encode_plainly(sae, block_BD) for block_BD in blocks)

    @torch.no_grad()
    def reconstruct(self, sae: SAE, acts_BD: Tensor) -> Tensor:
        """Reconstruction [B, D] as `SAE.forward` gives it, through a sparse code wherever the code is sparse."""
        if not self._has_loops(sae, acts_BD):
            plain_BD: Tensor = sae(acts_BD)
            return plain_BD
        parts = []
        for block_BD in acts_BD.float().split(_rows(sae)):
            code = self._compiled(sae, block_BD)
            parts.append(sae(block_BD) if code is None else sae.decode_sparse(code))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @torch.no_grad()
    def code_and_recon(self, sae: SAE, acts_BD: Tensor, decode: bool) -> tuple[SparseCode, Tensor | None]:
        """A `Runner` of ensembles: the code, and without a dense one where it is sparse what it decodes to."""
        code = self(sae, acts_BD)
        if not decode:
            return code, None
        dense = len(code.values_E) > DENSE_SHARE * code.shape[0] * code.shape[1]
        return code, sae.decode(code.dense()) if dense else sae.decode_sparse(code)

    def recon_only(self, sae: SAE, acts_BD: Tensor, decode: bool) -> tuple[None, Tensor | None]:
        """A `Runner` of ensembles that gives no code: `reconstruct`."""
        return None, self.reconstruct(sae, acts_BD) if decode else None

    def _has_loops(self, sae: SAE, acts_BD: Tensor) -> bool:
        """Whether the compiled loops can be tried."""
        # On a GPU the fast kernels are others, made for the training step.
        on_cpu = sae.b_dec.device.type == "cpu"
        wanted = self._kernels != "plain" and not sae.training and len(acts_BD) > 0
        return wanted and on_cpu and use_fast("auto", sae)

    def _compiled(self, sae: SAE, acts_BD: Tensor) -> SparseCode | None:
        """The code, or nothing if it is not sparse."""
        from sae_core.training.kernels.cpu.encoding import encode  # compiles, or reads what was compiled, on import
        from sae_core.training.kernels.cpu.screen import Screen

        with self._workspace.lock:
            centred_BD = torch.sub(acts_BD, sae.b_dec, out=self._workspace.take("centred", *acts_BD.shape))
            # Read from the SAELens format, the encoder lies in memory dimension by dimension.
            W_enc_ND = sae.W_enc.T.contiguous()
            screen = Screen(centred_BD, W_enc_ND, sae.b_enc, self._workspace, low_precision=has_fast_bfloat16())
            code = encode(sae, screen, self._workspace)
            return None if code is None else _packed(code, sae.width)


def _rows(sae: SAE) -> int:
    """Activations that are encoded at a time."""
    return max(1, CELLS // sae.width)


def encode_plainly(sae: SAE, acts_BD: Tensor) -> SparseCode:
    """Encode by `SAE.encode_sparse`, some activations at a time."""
    if sae.training:
        return sae.encode_sparse(acts_BD)  # BatchTopK looks at the whole batch then
    rows = max(1, DENSE_CELLS // sae.width)
    return SparseCode.joined(sae.encode_sparse(block_BD) for block_BD in acts_BD.split(rows))


def _packed(code: Code, width: int) -> SparseCode:
    """The entries side by side, in memory of their own; the workspace's belongs to the next batch."""
    counts_B = code.stops_B - code.starts_B
    gaps_B = code.starts_B - (counts_B.cumsum() - counts_B)
    places_E = np.arange(counts_B.sum()) + np.repeat(gaps_B, counts_B)
    rows_E = np.repeat(np.arange(len(counts_B)), counts_B)
    values_E, features_E = code.values_E[places_E], code.features_E[places_E].astype(np.int64)
    values, features, rows = (torch.from_numpy(column_E) for column_E in (values_E, features_E, rows_E))
    return SparseCode(values, features, rows, (len(counts_B), width))
