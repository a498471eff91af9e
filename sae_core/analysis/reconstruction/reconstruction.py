"""Measure how well ensembles reconstruct activations: explained variance, MSE, L0, dead features, exact identities.

Sources: Gadgil, Lin, Lee, *Ensembling Sparse Autoencoders*, section 5 (the per-dimension explained variance is what the
paper's code prints); bagging's ambiguity decomposition (Krogh and Vedelsby 1994).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.analysis.shared.bootstrap import ABOVE, differences, interval
from sae_core.analysis.shared.ensemble_codes import BLOCK, Encoders, partial_sums
from sae_core.ensembles.ensemble import Ensemble, Step
from sae_core.foundation.progress import Progress, Tick, silent

Read = Callable[[int, int], Tensor]
"""Activations [stop − start, D] from rows start to stop, in float32."""

CHUNK = 256
"""Number of consecutive tokens that the bootstrap draws together if documents are unknown."""
FEW = 20
"""With fewer documents than this, the bootstrap draws stretches, since too few units give no interval."""
MAX_CHUNKS = 1000
IDENTITY_TOKENS = 2048
"""Number of tokens for checking the exact identities, which takes a second, dense pass through the ensemble."""


class Moments:
    """First and second moments of the activations, by dimension and by chunk, streamed in float64.

    A chunk is the unit that the bootstrap draws. Sums are taken around the first activation, so that a large constant
    offset costs no digits.

    Args:
        tokens: Number of activations, N.
        d_in: Dimension of the activations, D.
        document_T: The number of each activation's document [N], if known. A chunk is then one document, or several
            whole documents if there are more than `MAX_CHUNKS`.
        stretch: Number of tokens in a chunk otherwise, the model's context; fewer if there would be too few chunks.

    Attributes:
        drawn: The unit of the bootstrap, in words.
    """

    def __init__(
        self, tokens: int, d_in: int, *, document_T: NDArray[np.int64] | None = None, stretch: int = CHUNK
    ) -> None:
        self.tokens = tokens
        self._chunk_T, self.drawn = _chunks(tokens, document_T, stretch)
        chunks = int(self._chunk_T.max()) + 1
        self.count_C = torch.zeros(chunks, dtype=torch.float64)
        self.sum_CD = torch.zeros(chunks, d_in, dtype=torch.float64)
        self.square_D = torch.zeros(d_in, dtype=torch.float64)
        self.square_C = torch.zeros(chunks, dtype=torch.float64)
        self.energy = 0.0
        self._shift_D: Tensor | None = None

    def chunks_of(self, start: int, count: int) -> Tensor:
        """The chunk of each of ``count`` activations from number ``start`` on."""
        return self._chunk_T[start : start + count].long()

    def add(self, start: int, acts_BD: Tensor) -> None:
        """Add the activations from number ``start`` on."""
        acts_BD = acts_BD.double().cpu()
        self.energy += float(acts_BD.square().sum())
        if self._shift_D is None:
            self._shift_D = acts_BD[0].clone()
        shifted_BD = acts_BD - self._shift_D
        chunks_B = self.chunks_of(start, len(acts_BD))
        self.count_C.index_add_(0, chunks_B, torch.ones(len(acts_BD), dtype=torch.float64))
        self.sum_CD.index_add_(0, chunks_B, shifted_BD)
        self.square_D += shifted_BD.square().sum(dim=0)
        self.square_C.index_add_(0, chunks_B, shifted_BD.square().sum(dim=1))

    @property
    def variation_D(self) -> Tensor:
        """SST_d = Σ_t (a_td − mean_d)², shape [D]."""
        return (self.square_D - self.sum_CD.sum(dim=0).square() / self.tokens).clamp_min(0.0)


def _chunks(tokens: int, document_T: NDArray[np.int64] | None, stretch: int) -> tuple[Tensor, str]:
    """(the chunk of each token, the meaning of a chunk in words)."""
    if document_T is not None:
        names, number_T = np.unique(document_T, return_inverse=True)
        if len(names) >= FEW:
            chunks = min(len(names), MAX_CHUNKS)
            several = f"groups of {len(names) / chunks:.1f} " if chunks < len(names) else ""
            chunk_T = (number_T * chunks // len(names)).astype(np.int32)
            return torch.from_numpy(chunk_T), f"{several}documents, {chunks} of them"
    length = max(stretch if tokens >= FEW * stretch else math.ceil(tokens / FEW), math.ceil(tokens / MAX_CHUNKS))
    return torch.arange(
        tokens, dtype=torch.int32
    ) // length, f"stretches of {length} tokens, {math.ceil(tokens / length)} of them"


class Totals:
    """The errors of one ensemble, summed in float64 for its first 1, 2, … J members.

    Args:
        ensemble: The ensemble.
        moments: The moments of the same activations.
    """

    def __init__(self, ensemble: Ensemble, moments: Moments) -> None:
        self.ensemble = ensemble
        self.moments = moments
        self.error_JD = torch.zeros(len(ensemble), ensemble.d_in, dtype=torch.float64)
        self.error_C = torch.zeros_like(moments.count_C)
        self.counts_J = [torch.zeros(width, dtype=torch.int64) for width in ensemble.widths]

    def add(self, start: int, acts_BD: Tensor, steps: list[Step]) -> None:
        """Add the activations from number ``start`` on, with their codes by all members."""
        for number, member in enumerate(steps):
            _, features_E = member.firing()
            self.counts_J[number] += torch.bincount(features_E, minlength=len(self.counts_J[number])).cpu()
        for number, part_BD in enumerate(partial_sums(self.ensemble, steps)):
            squares_BD = (acts_BD - part_BD).square()
            self.error_JD[number] += squares_BD.sum(dim=0, dtype=torch.float64).cpu()
        error_B = squares_BD.sum(dim=1, dtype=torch.float64).cpu()
        self.error_C.index_add_(0, self.moments.chunks_of(start, len(acts_BD)), error_B)

    def figures(self, *, bootstrap: int, seed: int) -> dict[str, Any]:
        """The figures for evaluation/reconstruction.json; an undefined figure is None."""
        low, high = interval(self.draws(bootstrap=bootstrap, seed=seed))
        by_members = [self._first(number + 1) for number in range(len(self.ensemble))]
        whole = by_members[-1]
        return {
            **whole,
            "explained_variance_interval": [defined(low), defined(high)],
            "density": _spread(torch.cat(self.counts_J).double() / self.moments.tokens),
            "by_members": by_members,
            "residual_energy": self._residual_energy(),
        }

    def draws(self, *, bootstrap: int, seed: int) -> NDArray[np.float64]:
        """The explained variance on bootstrap samples, which are the same for every ensemble."""
        return explained_draws(self.error_C, self.moments, samples=bootstrap, seed=seed)

    def _first(self, count: int) -> dict[str, Any]:
        """The figures of the first ``count`` members."""
        tokens, variation_D, error_D = self.moments.tokens, self.moments.variation_D, self.error_JD[count - 1]
        counts_M = torch.cat(self.counts_J[:count])
        dead, l0 = int((counts_M == 0).sum()), float(counts_M.sum()) / tokens
        return {
            "members": count,
            "features": len(counts_M),
            "mse": float(error_D.sum()) / tokens,
            "explained_variance": defined(total_explained(error_D, variation_D)),
            "explained_variance_per_dimension": defined(explained_per_dimension(error_D, variation_D)),
            "l0": l0,
            "relative_sparsity": l0 / len(counts_M),
            "dead": dead,
            "dead_fraction": dead / len(counts_M),
        }

    def densities(self) -> pd.DataFrame:
        """One row per feature: feature, member, count (tokens on which it fires) and density (their share)."""
        counts_M = torch.cat(self.counts_J).numpy()
        return pd.DataFrame(
            {
                "feature": np.arange(len(counts_M)),
                "member": np.repeat(np.arange(len(self.counts_J)), self.ensemble.widths),
                "count": counts_M,
                "density": counts_M / self.moments.tokens,
            }
        )

    def _residual_energy(self) -> list[float | None]:
        """ρ_j = energy after / energy before stage j; empty unless the wiring is residual."""
        if not self.ensemble.in_turn:
            return []
        energies = [self.moments.energy, *self.error_JD.sum(dim=1).tolist()]
        return [after / before if before > 0 else None for before, after in pairwise(energies)]


def _spread(density_M: Tensor) -> dict[str, float] | None:
    """Percentiles of the density over the features that fire; None if no feature fires."""
    alive = density_M[density_M > 0].numpy()
    if not len(alive):
        return None
    low, median, high = np.quantile(alive, [0.05, 0.5, 0.95])
    return {"p05": float(low), "median": float(median), "p95": float(high), "largest": float(alive.max())}


def total_explained(error_D: Tensor, variation_D: Tensor) -> float:
    """Explained variance, total: 1 − E‖a − â‖² / (E‖a‖² − ‖E a‖²); NaN if the activations do not vary.

    Args:
        error_D: Σ_t (a_td − â_td)², shape [D].
        variation_D: Σ_t (a_td − mean_d)², shape [D].
    """
    total = float(variation_D.sum())
    return 1.0 - float(error_D.sum()) / total if total > 0 else math.nan


def explained_per_dimension(error_D: Tensor, variation_D: Tensor) -> float:
    """Explained variance, per dimension: mean over d of 1 − SSE_d/SST_d, over the dimensions that vary; NaN if none."""
    varies_D = variation_D > 0
    return float((1.0 - error_D[varies_D] / variation_D[varies_D]).mean()) if bool(varies_D.any()) else math.nan


def explained_draws(error_C: Tensor, moments: Moments, *, samples: int, seed: int) -> NDArray[np.float64]:
    """The total explained variance on bootstrap samples of chunks of tokens; none if there is one chunk.

    NaN on samples whose activations do not vary.
    """
    chunks = len(error_C)
    if chunks < 2:
        return np.zeros(0)
    weights = np.random.default_rng(seed).multinomial(chunks, [1 / chunks] * chunks, size=samples)
    weights_RC = torch.from_numpy(weights).double()
    total_R = weights_RC @ moments.square_C - (weights_RC @ moments.sum_CD).square().sum(dim=1) / (
        weights_RC @ moments.count_C
    )
    values: NDArray[np.float64] = (1.0 - (weights_RC @ error_C) / total_R).where(total_R > 0, math.nan).numpy()
    return values


def explained_above(totals: Mapping[str, Totals], *, bootstrap: int, seed: int) -> dict[str, dict[str, Any]]:
    """``explained_variance_above`` of each ensemble: the interval of the difference to each other ensemble."""
    found = differences({name: each.draws(bootstrap=bootstrap, seed=seed) for name, each in totals.items()})
    return {name: {f"explained_variance{ABOVE}": above} for name, above in found.items()}


@torch.no_grad()
def identity_error(ensemble: Ensemble, acts_BD: Tensor) -> float:
    """Relative error of the exact identity of bagging or boosting on these activations; about 1e-7 when all is well.

    bagging: ‖a − ḡ‖² = Σ_j α_j‖a − g_j‖² − Σ_j α_j‖g_j − ḡ‖², if Σα = 1 (else NaN);
    boosting: E‖a − ĝ‖² = E‖a‖²·Π_j ρ_j, with ρ_j the residual energy after / before stage j.
    The left side goes through Proposition 1 (``decode(encode(a))``, one wide SAE), the right side through the members.
    """
    whole_BD = ensemble.decode(ensemble.encode(acts_BD)).double()
    left = float((acts_BD.double() - whole_BD).square().sum())
    energy = float(acts_BD.double().square().sum())
    if ensemble.in_turn:
        left_BD, right = acts_BD.double(), energy
        for step in ensemble.walk(acts_BD):
            before = float(left_BD.square().sum())
            left_BD = left_BD - step.part_BD.double()
            right *= float(left_BD.square().sum()) / before if before > 0 else 0.0
    else:
        if not math.isclose(sum(ensemble.weights), 1.0, rel_tol=1e-9):
            return math.nan
        right = 0.0
        for step in ensemble.walk(acts_BD, decode=False):
            own_BD = step.member.decode(step.code.dense()).double()
            right += step.weight * float(
                (acts_BD.double() - own_BD).square().sum() - (own_BD - whole_BD).square().sum()
            )
    # If nothing is left to explain, measure rounding against the activations themselves.
    return abs(left - right) / max(left, 1e-12 * energy, 1e-300)


def defined(value: float) -> float | None:
    """The value, or None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


@torch.no_grad()
def run_over(
    ensembles: Mapping[str, Ensemble],
    moments: Moments,
    read: Callable[[int, int], Tensor],
    tokens: int,
    *,
    device: str,
    tell: Callable[[int], None],
) -> dict[str, Totals]:
    """Encode and decode activations with all ensembles in one pass, and sum the errors of each ensemble.

    Args:
        ensembles: Ensembles by name, on ``device``.
        moments: The moments of the activations, filled by this function.
        read: Returns activations [B, D] from one row to another.
        tokens: Number of rows to read.
        device: The device to encode on.
        tell: Told the number of rows done, after every block.
    """
    encoders = Encoders(ensembles)
    totals = {name: Totals(ensemble, moments) for name, ensemble in ensembles.items()}
    for start in range(0, tokens, BLOCK):
        stop = min(start + BLOCK, tokens)
        acts_BD = read(start, stop).to(device)
        moments.add(start, acts_BD)
        for name, codes in encoders.codes(acts_BD, decode=True):
            totals[name].add(start, acts_BD, list(codes))
        tell(stop)
    return totals


def measure_reconstruction(
    ensembles: Mapping[str, Ensemble],
    read: Read,
    tokens: int,
    *,
    document_T: NDArray[np.int64] | None = None,
    stretch: int = CHUNK,
    bootstrap: int = 200,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = silent,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Measure all ensembles in one pass over the activations, block by block.

    Args:
        ensembles: Ensembles by name, on ``device``.
        read: Returns activations by row.
        tokens: Number of activations, N.
        document_T: The document of each activation, for the bootstrap; see `Moments`.
        stretch: Number of tokens that the bootstrap draws together if documents are unknown.
        bootstrap: Number of bootstrap samples for an interval.
        seed: Seed of the bootstrap.
        device: The device to encode on.
        progress: Told about every block.

    Returns:
        (content of evaluation/reconstruction.json; the table beside it with every feature's density).
    """
    moments = Moments(tokens, next(iter(ensembles.values())).d_in, document_T=document_T, stretch=stretch)

    def tell(done: int) -> None:
        progress(Tick("measure reconstruction", done, tokens))

    totals = run_over(ensembles, moments, read, tokens, device=device, tell=tell)
    identities: dict[str, float] = {}
    checked = read(0, min(IDENTITY_TOKENS, tokens)).to(device)
    for name, ensemble in ensembles.items():
        # The identity holds for every block; report the block with the largest error.
        identities[name] = max(identity_error(ensemble, block_BD) for block_BD in checked.split(BLOCK))
    table = pd.concat([total.densities().assign(ensemble=name) for name, total in totals.items()], ignore_index=True)
    above = explained_above(totals, bootstrap=bootstrap, seed=seed)
    facts = {
        "tokens": tokens,
        "identity_tokens": len(checked),
        "bootstrap": bootstrap,
        "drawn": moments.drawn,
        "seed": seed,
        "ensembles": {
            name: {
                **total.figures(bootstrap=bootstrap, seed=seed),
                **above[name],
                "identity_error": defined(identities[name]),
            }
            for name, total in totals.items()
        },
    }
    return facts, table
