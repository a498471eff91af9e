"""Sparse codes: coefficients as a list of entries, so that decoding costs B·k·D instead of B·N·D.

The sums run through `embedding_bag` with weights, the one gather-and-sum that is fast on a CPU and on a GPU alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_GROUPED = 8
"""Columns in a group of `largest`, measured to be the fastest of 4, 8, 16 and 32."""


@dataclass(frozen=True, slots=True)
class SparseCode:
    """Coefficients of B activations over N features as E entries, sorted by activation; an entry's value may be 0.

    Attributes:
        values_E: The coefficients.
        features_E: Feature of each entry.
        rows_E: Activation of each entry, ascending.
        shape: (B, N).
    """

    values_E: Tensor
    features_E: Tensor
    rows_E: Tensor
    shape: tuple[int, int]

    @classmethod
    def from_top(cls, coefs_BK: Tensor, features_BK: Tensor, width: int) -> SparseCode:
        """A code with K entries for every activation."""
        batch, k = coefs_BK.shape
        rows_E = torch.arange(batch, device=coefs_BK.device).repeat_interleave(k, output_size=batch * k)
        return cls(coefs_BK.flatten(), features_BK.flatten(), rows_E, (batch, width))

    @classmethod
    def from_dense(cls, coefs_BN: Tensor) -> SparseCode:
        """The entries of a dense code that are not 0."""
        rows_E, features_E = coefs_BN.nonzero(as_tuple=True)
        return cls(coefs_BN[rows_E, features_E], features_E, rows_E, (coefs_BN.shape[0], coefs_BN.shape[1]))

    @classmethod
    def joined(cls, blocks: Iterable[SparseCode]) -> SparseCode:
        """The code of the activations of all blocks, one block after another."""
        found, starts = list(blocks), [0]
        if len(found) == 1:
            return found[0]
        for each in found:
            starts.append(starts[-1] + each.shape[0])
        rows_E = torch.cat([each.rows_E + start for each, start in zip(found, starts, strict=False)])
        values_E, features_E = (
            torch.cat([getattr(each, name) for each in found]) for name in ("values_E", "features_E")
        )
        return cls(values_E, features_E, rows_E, (starts[-1], found[0].shape[1]))

    def dense(self) -> Tensor:
        """The same code as a [B, N] tensor."""
        batch, width = self.shape
        places_E = self.rows_E * width + self.features_E
        return self.values_E.new_zeros(batch * width).scatter(0, places_E, self.values_E).view(batch, width)

    def weighted_sum(self, table_ND: Tensor) -> Tensor:
        """Σ of value times table row over the entries of each activation, shape [B, D]; differentiable."""
        return weighted_sum(table_ND, self.features_E, self.rows_E, self.values_E, self.shape[0])


def weighted_sum(table_RD: Tensor, picks_E: Tensor, bags_E: Tensor, weights_E: Tensor, bags: int) -> Tensor:
    """out[b] = Σ over the entries e of bag b of weights[e]·table[picks[e]], shape [bags, D]; differentiable.

    Args:
        table_RD: The rows to be summed.
        picks_E: Row of the table for each entry.
        bags_E: Bag of each entry, ascending.
        weights_E: Weight of each entry.
        bags: Number of bags; those without entries give 0.
    """
    if not len(picks_E):
        return table_RD.new_zeros(bags, table_RD.shape[1])
    starts_B = torch.searchsorted(bags_E, torch.arange(bags, device=bags_E.device))
    return F.embedding_bag(picks_E, table_RD, starts_B, mode="sum", per_sample_weights=weights_E)


def entry_products(left_BD: Tensor, table_ND: Tensor, code: SparseCode) -> Tensor:
    """left[row]·table[feature] for every entry of a code, shape [E]; not differentiable itself.

    This is the gradient of `SparseCode.weighted_sum` with respect to the values, and torch computes it without
    gathering E rows of both sides.
    """
    if not len(code.features_E):
        return left_BD.new_zeros(0)
    with torch.enable_grad():
        ones_E = torch.ones_like(code.features_E, dtype=left_BD.dtype).requires_grad_()
        sums_BD = weighted_sum(table_ND.detach(), code.features_E, code.rows_E, ones_E, code.shape[0])
        (products_E,) = torch.autograd.grad(sums_BD, ones_E, left_BD.detach())
    return products_E


def largest(scores_RN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values [R, k], columns [R, k]) of the k largest of each row, in no order, as `topk` but faster for small k.

    The k largest lie in the k groups of columns with the largest maxima, so only those are searched. Where values are
    equal, any of them may be taken.
    """
    rows, columns = scores_RN.shape
    groups = columns // _GROUPED
    if columns % _GROUPED or k * _GROUPED * 2 > columns:
        return torch.topk(scores_RN, min(k, columns), dim=1, sorted=False)
    # Group g holds the columns g, g + groups, g + 2·groups …: the maximum then runs over contiguous memory.
    grouped = scores_RN.view(rows, _GROUPED, groups)
    best_Rk = grouped.detach().amax(dim=1).topk(k, dim=1, sorted=False).indices
    candidates = grouped.gather(2, best_Rk[:, None, :].expand(rows, _GROUPED, k)).view(rows, _GROUPED * k)
    values_Rk, places_Rk = candidates.topk(k, dim=1, sorted=False)
    columns_Rk = torch.div(places_Rk, k, rounding_mode="floor") * groups + best_Rk.gather(1, places_Rk % k)
    return values_Rk, columns_Rk
