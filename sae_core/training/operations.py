"""Compute the cost of training in closed form: floating-point operations, memory, and bytes on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self, cast

import torch

from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.method import One, Several
from sae_core.foundation.settings.run_settings import SAESettings
from sae_core.sae import ARCHITECTURES, SAE, make_sae

FLOAT = 4
"""Bytes of a weight."""

Boosting = Literal["cached", "recomputed", "pipelined"]


@dataclass(frozen=True, slots=True)
class SAEShape:
    """The properties that decide the cost of one SAE.

    Attributes:
        architecture: The architecture.
        d_in: Dimension of the activations, D.
        width: Number of features, N.
        k: Active features per token, if their number is fixed.
    """

    architecture: str
    d_in: int
    width: int
    k: int

    @classmethod
    def of(cls, sae: SAESettings, d_in: int) -> Self:
        """Return the shape of an SAE to train."""
        return cls(sae.architecture, d_in, sae.width, sae.k)

    @classmethod
    def of_sae(cls, sae: SAE) -> Self:
        """Return the shape of an existing SAE."""
        return cls(sae.architecture, sae.d_in, sae.width, int(getattr(sae, "k", 0)))

    @property
    def selects(self) -> bool:
        """Whether the number of active features is fixed, so that only the encoder is a dense product."""
        return ARCHITECTURES[self.architecture].selects

    @property
    def _empty(self) -> SAE:
        """An SAE of this shape on the meta device, which allocates no memory."""
        settings = SAESettings(architecture=self.architecture, width=self.width, k=max(1, self.k))
        with torch.device("meta"):
            return make_sae(settings, self.d_in)

    @property
    def parameters(self) -> int:
        """Number of learnt numbers: encoder, decoder, biases, and for some architectures thresholds."""
        return sum(parameter.numel() for parameter in self._empty.parameters())

    @property
    def step_flops(self) -> int:
        """Operations of a training step per activation, without AuxK and the optimiser.

        A dense product takes 2·D·N operations. Sparse training needs one dense product and four sums over k rows;
        dense training needs five dense products: encoder, decoder and three for the gradients.
        """
        product = 2 * self.d_in * self.width
        return product + 8 * self.d_in * self.k if self.selects else 5 * product

    def help_flops(self, dead: int) -> int:
        """Operations per activation that the help for dead features adds to a compiled step.

        AuxK needs five products with the dead features: codes, reconstruction, slopes, and the gradients of atoms and
        encoder. Raising preactivations needs two.
        """
        return (10 if self.selects else 4) * self.d_in * dead

    @property
    def run_flops(self) -> int:
        """Operations to encode and reconstruct one activation."""
        product = 2 * self.d_in * self.width
        return product + 2 * self.d_in * self.k if self.selects else 2 * product


@dataclass(frozen=True, slots=True)
class EnsembleShape:
    """The properties that decide the cost of an ensemble: its members, and whether each reads a residual."""

    members: tuple[SAEShape | EnsembleShape, ...]
    in_turn: bool

    @classmethod
    def of(cls, ensemble: Ensemble) -> Self:
        """Return the shape of an existing ensemble."""
        members = (
            cls.of(each) if isinstance(each, Ensemble) else SAEShape.of_sae(cast(SAE, each)) for each in ensemble
        )
        return cls(tuple(members), ensemble.in_turn)

    @classmethod
    def planned(cls, layout: Several, d_in: int) -> Self:
        """Return the shape of an ensemble to train."""
        members = (
            SAEShape.of(each.sae, d_in) if isinstance(each, One) else cls.planned(each, d_in) for each in layout.members
        )
        return cls(tuple(members), layout.in_turn)

    @property
    def run_flops(self) -> int:
        """Operations to encode and reconstruct one activation."""
        return sum(member.run_flops for member in self.members)


def ensemble_flops(
    ensemble: SAEShape | EnsembleShape, *, tokens: int, boosting: Boosting | None = None, rows: int = 0
) -> int:
    """Count the operations to train an ensemble, without AuxK and the optimiser.

    A boosted stage also runs the earlier members on every activation. If residuals are cached, each member but the
    last runs once over all rows instead. A pipeline runs none of them again, since their steps give the residuals.

    Args:
        ensemble: The ensemble, or one of its SAEs.
        tokens: Number of activations that each SAE is trained on.
        boosting: How stages get their residuals; ignored for members side by side.
        rows: Number of different activations.
    """
    if isinstance(ensemble, SAEShape):
        return tokens * ensemble.step_flops
    total = 0
    for number, member in enumerate(ensemble.members):
        total += ensemble_flops(member, tokens=tokens, boosting=boosting, rows=rows)
        later = (len(ensemble.members) - 1 - number) * ensemble.in_turn
        runs = {"cached": min(later, 1) * rows, "recomputed": later * tokens}.get(boosting or "", 0)
        total += runs * member.run_flops
    return total


def keeps_residuals(*, stages: int, rows: int, steps: int, batch: int, d_in: int, free: int | None) -> bool:
    """Whether the residuals of sequential stages are to be kept on disk: if that is less work, and there is room.

    Args:
        stages: Members that are trained one after another.
        rows: Different activations.
        steps: Steps of a stage.
        batch: Activations in a step.
        d_in: Dimension of the activations, D.
        free: Bytes free on the disk; None if that is unknown.
    """
    # Cost in rows run through a stage; we assume that writing and reading a row costs as much.
    write, recompute = 2 * rows * (stages - 1), steps * batch * math.comb(stages, 2)
    return write < recompute and (free is None or free >= residual_bytes(rows, d_in))


def residual_bytes(rows: int, d_in: int) -> int:
    """Largest size of kept residuals on disk: the one that is written and the one that it is computed from."""
    return 2 * rows * d_in * FLOAT
