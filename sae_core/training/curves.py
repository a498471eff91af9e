"""Record training curves: sum figures on the device over some steps, then read them back once as rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from sae_core.training.distribution import Part
from sae_core.training.gradients import Outcome

COLUMNS = (
    "member",
    "step",
    "tokens",
    "seconds",
    "loss",
    "explained_variance",
    "explained_variance_total",
    "l0",
    "dead",
    "learning_rate",
)
"""Columns of training.parquet. explained_variance is that of a member on its own target (for a boosted member, the
residual). explained_variance_total is that of the whole ensemble so far on the activation; it is NaN if the members of
a bag were trained in groups, since no pass has all reconstructions. dead is a share of the features."""


class _Spread:
    """The variance of vectors, summed batch by batch in float64: Σ‖v‖² − ‖Σv‖²/n."""

    def __init__(self) -> None:
        self.count = 0
        self.energy: Tensor | float = 0.0
        self.sum_D: Tensor | float = 0.0

    def add(self, vectors_BD: Tensor) -> None:
        self.count += len(vectors_BD)
        self.energy = self.energy + vectors_BD.square().sum().double()
        self.sum_D = self.sum_D + vectors_BD.sum(dim=0).double()

    def total(self, part: Part) -> float:
        energy, sum_D = (part.sum_rows(torch.as_tensor(total)) for total in (self.energy, self.sum_D))
        return float(energy - sum_D.square().sum() / part.whole(self.count))


class Curves:
    """Collect the figures of one stage, in which one or several members read the same batches.

    Args:
        first_member: Number of the first member.
        members: Number of members.
        rows: Rows recorded before an interruption.
        variance: E‖a − E a‖² of the activations, if the batches are residuals; otherwise it is measured.
        whole: Whether these members are all members of the ensemble so far.
        part: The part of this process in the stage.
    """

    def __init__(
        self,
        *,
        first_member: int,
        members: int,
        rows: Sequence[Sequence[float]] = (),
        variance: float | None = None,
        whole: bool = True,
        part: Part | None = None,
    ) -> None:
        self.first_member, self.members, self.variance, self.whole = first_member, members, variance, whole
        self._part = part or Part()
        self.rows: list[list[float]] = [list(row) for row in rows]
        self._clear()

    def _clear(self) -> None:
        self._targets, self._acts = [_Spread() for _ in range(self.members)], _Spread()
        self._sums: list[list[Tensor | float]] = [[0.0, 0.0, 0.0] for _ in range(self.members)]
        self._totals: list[Tensor | float] = [0.0] * self.members
        self._steps = 0

    def add(
        self, acts_BD: Tensor, targets: Sequence[Tensor], errors: Sequence[Tensor], outcomes: Sequence[Outcome]
    ) -> None:
        """Add one step.

        Args:
            acts_BD: The activations; ignored if their variance is known.
            targets: The targets of the members in the scale of training, [B, D] each, or one for all members.
            errors: Σ over the batch of ‖a − ensemble so far‖², one per member or one for all members.
            outcomes: The outcomes of the step, one per member.
        """
        self._steps += 1
        for spread, target_BD in zip(self._targets, targets, strict=False):
            spread.add(target_BD)
        if self.variance is None:
            self._acts.add(acts_BD)
        self._totals[: len(errors)] = [
            total + error.double() for total, error in zip(self._totals, errors, strict=False)
        ]
        for sums, outcome in zip(self._sums, outcomes, strict=True):
            sums[0] = sums[0] + outcome.loss.double()
            sums[1] = sums[1] + outcome.squared_error.double()
            sums[2] = sums[2] + outcome.active.double()

    def record(
        self, *, step: int, tokens: int, seconds: float, dead: Sequence[float], learning_rates: Sequence[float]
    ) -> list[list[float]]:
        """Record the means since the last call.

        Returns:
            The new rows: one per member, including the members of other processes.
        """
        part, count = self._part, self._part.whole(self._targets[0].count)
        variances = [spread.total(part) for spread in self._targets if spread.count]
        errors = part.sum_rows(torch.stack([torch.as_tensor(error) for error in self._totals[: len(variances)]]))
        whole = self._acts.total(part) if self.variance is None else count * self.variance
        sums_J3 = part.sum_rows(torch.stack([torch.stack([torch.as_tensor(x) for x in sums]) for sums in self._sums]))
        own_rows = []
        for number, (loss, error, active) in enumerate(sums_J3.tolist()):
            # One value for all members if they have the same target.
            own = min(number, len(variances) - 1)
            explained = 1.0 - error / max(variances[own], 1e-30)
            total = 1.0 - float(errors[own]) / max(whole, 1e-30) if self.whole else math.nan
            figures = (loss / self._steps, explained, total, active / count)
            member = self.first_member + number
            own_rows.append([float(member), step, tokens, seconds, *figures, dead[number], learning_rates[number]])
        new: list[list[float]] = part.every_member(torch.tensor(own_rows, dtype=torch.float64)).tolist()
        self.rows += new
        self._clear()
        return new

    def table(self) -> pd.DataFrame:
        """All rows, with the columns `COLUMNS`."""
        table = pd.DataFrame(self.rows, columns=list(COLUMNS))
        return table.astype({"member": "int32", "step": "int64", "tokens": "int64"})
