"""Compute the cost of training in closed form: operations, memory, and bytes on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast

import torch

from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.method import One, Several
from sae_core.foundation.settings.run_settings import RunSettings, SAESettings
from sae_core.sae import ARCHITECTURES, SAE, Kernel, make_sae

FLOAT, IDLE = 4, 8
"""Bytes of a weight and of the counter that every feature has."""
KEY_ENTRIES = 2**23
"""As `kernels.screen.CHUNK_ENTRIES`; that module cannot be imported without a compiler."""
BIAS_COLUMNS = 16
"""As in `kernels.screen`."""
COLLECTED = 3
"""Entries that the fast step looks at for each that it keeps of a batch, and room to grow."""
KEY_COUNTS = 2**20
"""Bytes in which it counts the keys of a batch, on two threads."""

Boosting = Literal["cached", "recomputed", "pipelined"]


@dataclass(frozen=True, slots=True)
class SAEShape:
    """The properties that decide the cost of one SAE.

    Attributes:
        architecture: Its architecture.
        d_in: Dimension of the activations, D.
        width: Features, N.
        k: Active features per token, where that is fixed.
    """

    architecture: str
    d_in: int
    width: int
    k: int

    @classmethod
    def of(cls, sae: SAESettings, d_in: int) -> Self:
        """The shape of an SAE to train."""
        return cls(sae.architecture, d_in, sae.width, sae.k)

    @classmethod
    def of_sae(cls, sae: SAE) -> Self:
        """The shape of an existing SAE."""
        return cls(sae.architecture, sae.d_in, sae.width, int(getattr(sae, "k", 0)))

    @property
    def selects(self) -> bool:
        """Whether the number of active features is fixed, so that only the encoder is a dense product."""
        return ARCHITECTURES[self.architecture].selects

    @property
    def _empty(self) -> SAE:
        """Such an SAE, of which nothing is allocated."""
        settings = SAESettings(architecture=self.architecture, width=self.width, k=max(1, self.k))
        with torch.device("meta"):
            return make_sae(settings, self.d_in)

    @property
    def parameters(self) -> int:
        """Encoder and decoder, their biases, and what else an architecture learns."""
        return sum(parameter.numel() for parameter in self._empty.parameters())

    @property
    def step_flops(self) -> int:
        """Operations of one training step for one activation; AuxK and the optimiser are not counted.

        A dense product has 2·D·N. Trained through sparse codes, an SAE needs one and four sums over k rows; trained
        densely, five products: encoder, decoder and three for gradients.
        """
        product = 2 * self.d_in * self.width
        return product + 8 * self.d_in * self.k if self.selects else 5 * product

    def help_flops(self, dead: int) -> int:
        """Operations that help for dead features adds to a step, for one activation; as the fast kernels do it.

        AuxK has five products of the dead features with the activation or what is left of it: for codes,
        reconstruction, slopes, and the gradients of atoms and encoder. Pulling up a preactivation has two.
        """
        return (10 if self.selects else 4) * self.d_in * dead

    @property
    def run_flops(self) -> int:
        """Operations to encode and reconstruct one activation."""
        product = 2 * self.d_in * self.width
        return product + 2 * self.d_in * self.k if self.selects else 2 * product

    @property
    def state_bytes(self) -> int:
        """Bytes of a member's state between steps: weights, Adam's two moments, and a silence counter per feature."""
        return 3 * FLOAT * self.parameters + IDLE * self.width

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on disk, without the file's header of some hundred bytes."""
        return FLOAT * sum(tensor.numel() for tensor in self._empty.to_saelens().values())

    def fast_step_bytes(self, batch: int, *, low_precision: bool) -> int:
        """Buffers of the fast step, which the trainers share, and one member's reconstruction.

        Args:
            batch: Activations in a step, B.
            low_precision: Whether features are chosen by a product in bfloat16.
        """
        rows = max(1, min(batch, KEY_ENTRIES // self.width))
        chunk = rows * self.width * (2 if low_precision else 2 + FLOAT)
        rounded = (batch + self.width) * (2 * (self.d_in + BIAS_COLUMNS) + 2 * FLOAT) if low_precision else 0
        looked_at = COLLECTED if ARCHITECTURES[self.architecture].kernel is Kernel.TOP_OF_BATCH else 1
        entries = batch * self.k * (6 * FLOAT * looked_at) + (KEY_COUNTS if looked_at > 1 else 0)
        return chunk + rounded + entries + 3 * FLOAT * batch * self.d_in

    def plain_step_bytes(self, batch: int) -> int:
        """Peak bytes that the plain step allocates: dense tables [B, N], gradients [N, D] and similar."""
        tables = 2 if self.selects else 5  # preactivations and their groups; with autograd also codes and gradients
        gradients = 4  # of W_enc and W_dec, and what normalising and clipping make of them
        return FLOAT * (tables * batch * self.width + gradients * self.d_in * self.width + 4 * batch * self.d_in)

    @property
    def kept_gradient_bytes(self) -> int:
        """Gradients that the plain step leaves with every trainer until its next one."""
        return FLOAT * self.parameters


@dataclass(frozen=True, slots=True)
class EnsembleShape:
    """What decides the cost of an ensemble: its members, SAEs or ensembles, and whether each reads what is left."""

    members: tuple[SAEShape | EnsembleShape, ...]
    in_turn: bool

    @classmethod
    def of(cls, ensemble: Ensemble) -> Self:
        """The shape of an existing ensemble."""
        members = (
            cls.of(each) if isinstance(each, Ensemble) else SAEShape.of_sae(cast(SAE, each)) for each in ensemble
        )
        return cls(tuple(members), ensemble.in_turn)

    @classmethod
    def planned(cls, layout: Several, d_in: int) -> Self:
        """The shape of an ensemble to train."""
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
    """Operations to train an ensemble; AuxK and the optimiser are not counted.

    A boosted stage also runs the members before it for every activation; where residuals are cached, each member but
    the last runs once over all rows instead, and in a pipeline none does, as the steps themselves give what is left.

    Args:
        ensemble: The ensemble, or one of its SAEs.
        tokens: Activations that each SAE is trained on.
        boosting: How stages get what they learn; of no account for members side by side.
        rows: Different activations, of which cached residuals have each once.
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


def kept_residuals(settings: RunSettings, *, rows: int, steps: int, batch: int, free: int | None) -> bool:
    """Whether sequential stages will keep residuals on disk, as `boosting.Residuals` decides it.

    Args:
        settings: Those of the run.
        rows: Different activations.
        steps: Steps of a stage.
        batch: Activations in a step.
        free: Whether there is room is asked too: bytes free on disk less those needed; None if that is unknown.
    """
    training = settings.training
    if settings.data.storage == "stream" or training.residuals != "auto":
        return training.residuals == "cached"
    work = 2 * rows * (training.members - 1) < steps * batch * math.comb(training.members, 2)
    return work and (free is None or free >= 0)


def residual_bytes(rows: int, d_in: int) -> int:
    """Disk that kept residuals take at most: the one being written and the one it is made from."""
    return 2 * rows * d_in * FLOAT


def checkpoint_bytes(members: Sequence[SAEShape]) -> int:
    """A checkpoint of members that are trained side by side, without names and curves."""
    return sum(member.state_bytes for member in members)
