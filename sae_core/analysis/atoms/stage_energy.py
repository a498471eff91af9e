"""Measure the residual energy that each stage of a boosted ensemble removes, and split it among the stage's features.

Stage j turns the residual r into r' = r − α(b + Σ_i c_i·w_i). The removed energy, ‖r‖² − ‖r'‖², is ⟨r + r', r − r'⟩, so
it splits exactly: feature i removes α·c_i·⟨r + r', w_i⟩, and the bias removes α·⟨r + r', b⟩. Each part is also a
Shapley value: the mean share over all orders in which features and bias can be subtracted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sae_core.analysis.shared.ensemble_codes import BLOCK
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.sae.sparse_code import entry_products
from sae_core.training.kernels.frozen import FrozenEncoder

SAMPLE = 2**16
"""Largest number of tokens to measure, in blocks spread evenly over the corpus."""

Read = Callable[[int, int], Tensor]
"""Activations [stop − start, D] of rows start to stop."""


@dataclass(frozen=True, slots=True)
class StageEnergy:
    """The effect of one stage on B activations; E of its coefficients are not 0.

    Attributes:
        before_B: ‖r‖², the energy before the stage.
        after_B: ‖r'‖², the energy after the stage.
        bias_B: The energy that the decoder bias removes.
        features_E: Feature of each coefficient, numbered within the stage.
        rows_E: Activation of each coefficient.
        removed_E: The energy that a coefficient removes when all are subtracted together: α·c·⟨r + r', w⟩. Over a row,
            these and the bias add up to ‖r‖² − ‖r'‖². The part of a feature that makes room for others may be negative.
        alone_E: The drop of ‖r‖² when the coefficient alone is subtracted: 2αc·⟨r, w⟩ − (αc)²·‖w‖².
    """

    before_B: Tensor
    after_B: Tensor
    bias_B: Tensor
    features_E: Tensor
    rows_E: Tensor
    removed_E: Tensor
    alone_E: Tensor


@torch.no_grad()
def energy_by_stage(
    ensemble: Ensemble, acts_BD: Tensor, *, encode: FrozenEncoder | None = None
) -> Iterator[StageEnergy]:
    """Yield the effect of each stage of a residual ensemble on activations, in the order of stages."""
    run = (encode or FrozenEncoder()).code_and_recon
    for step in ensemble.walk(acts_BD.to(ensemble.device, torch.float32), run):
        code, weight, atoms_ND = step.code, step.weight, step.member.dictionary
        before_BD, after_BD = step.input_BD, step.left_BD
        both_BD, coefs_E = before_BD + after_BD, weight * code.values_E
        alone_E = 2 * entry_products(before_BD, atoms_ND, code)
        alone_E -= coefs_E * atoms_ND.square().sum(dim=1)[code.features_E]
        fires_E = coefs_E != 0
        yield StageEnergy(
            before_BD.square().sum(dim=1),
            after_BD.square().sum(dim=1),
            weight * (both_BD @ step.member.b_dec),
            code.features_E[fires_E],
            code.rows_E[fires_E],
            (coefs_E * entry_products(both_BD, atoms_ND, code))[fires_E],
            (coefs_E * alone_E)[fires_E],
        )


def measure_stage_energy(
    ensemble: Ensemble, read: Read, tokens: int, *, sample: int = SAMPLE, progress: Progress = silent
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Measure the energy that each stage, and each of its features, removes from the activations.

    Args:
        ensemble: A boosted ensemble.
        read: Returns activations by row.
        tokens: Number of activations, T.
        sample: Largest number of activations to measure.
        progress: Told the number of tokens done.

    Returns:
        One row per feature: feature, member, fired (the sample's tokens on which the feature fires), removed and alone
        (the sums of `StageEnergy` over these tokens, as shares of their Σ‖a‖²). And a summary: the tokens of the
        sample, all tokens, energy (mean ‖a‖²), and before, after and bias of each stage as such shares.
    """
    blocks = _sample(tokens, sample)
    total = sum(stop - start for start, stop in blocks)
    widths, encode = ensemble.widths, FrozenEncoder()
    removed = [torch.zeros(width, dtype=torch.float64) for width in widths]
    alone = [torch.zeros(width, dtype=torch.float64) for width in widths]
    fired = [torch.zeros(width, dtype=torch.int64) for width in widths]
    totals_J3 = torch.zeros(len(widths), 3, dtype=torch.float64)
    seen = 0
    for start, stop in blocks:
        for number, stage in enumerate(energy_by_stage(ensemble, read(start, stop), encode=encode)):
            features_E = stage.features_E.cpu()
            removed[number].index_add_(0, features_E, stage.removed_E.double().cpu())
            alone[number].index_add_(0, features_E, stage.alone_E.double().cpu())
            fired[number] += torch.bincount(features_E, minlength=widths[number])
            sums = [column_B.double().sum() for column_B in (stage.before_B, stage.after_B, stage.bias_B)]
            totals_J3[number] += torch.stack(sums).cpu()
        seen += stop - start
        progress(Tick("measure stage energy", seen, total))
    energy = float(totals_J3[0, 0]) or 1.0
    table = pd.DataFrame(
        {
            "feature": np.arange(sum(widths)),
            "member": np.repeat(np.arange(len(widths)), widths),
            "fired": torch.cat(fired).numpy(),
            "removed": (torch.cat(removed) / energy).numpy(),
            "alone": (torch.cat(alone) / energy).numpy(),
        }
    )
    stages = [dict(zip(("before", "after", "bias"), row, strict=True)) for row in (totals_J3 / energy).tolist()]
    return table, {"sample": seen, "tokens": tokens, "energy": energy / max(seen, 1), "stages": stages}


def _sample(tokens: int, sample: int) -> list[tuple[int, int]]:
    """Ranges of tokens: all blocks, or as many whole blocks as the sample holds, spread evenly."""
    starts = np.arange(0, tokens, BLOCK)
    wanted = max(1, sample // BLOCK)
    if len(starts) > wanted:
        starts = starts[np.arange(wanted) * len(starts) // wanted]
    return [(start, min(start + BLOCK, tokens)) for start in starts.tolist()]
