"""Make the residuals of boosting: member j learns what the frozen earlier members leave (paper, section 3.2).

A residual is either computed for every batch, through all finished stages, or computed for all rows once per stage and
stored on disk. With several passes over few rows, reading from disk is several times cheaper. Storing residuals does
not bias them: a finished stage never changes, the stored numbers have the float32 of the computation, and row r is the
residual of activation r, so that a seed gives the same batches in the same order. The two ways differ in float32
rounding, and in that the mean and scale of a stored residual are exact instead of measured on a sample.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from sae_core.activations.store.cache import SHARD_BYTES, ActivationCache, CacheWriter
from sae_core.ensembles.coder import Coder
from sae_core.ensembles.ensemble import Ensemble, through
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json, write_json
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.settings.run_settings import Kernels
from sae_core.foundation.settings.run_settings import Residuals as Wanted
from sae_core.training.kernels.frozen import FrozenEncoder
from sae_core.training.operations import keeps_residuals
from sae_core.training.source import Source, StoredSource
from sae_core.training.stage import Plan, Target

SAMPLED_BATCHES = 16
"""Number of batches for measuring the mean and scale of a recomputed residual: the first batches of the training."""

BLOCK_ROWS = 2048
"""Number of rows to compute at once. Shards end with blocks, so a continued pass computes the same blocks."""

PASS_SHARDS = 8
"""A small residual is written in about this many shards, so that an interruption loses little."""


class Residuals:
    """The training data of the stages of a boosted ensemble.

    Args:
        source: The activations.
        plan: The plan of the stages.
        wanted: The setting ``training.residuals``.
        folder: The folder of the checkpoint, which also holds the residuals.
        kernels: The setting ``training.kernels``, for running finished stages.
        progress: Told the number of rows written.

    Raises:
        UserError: If residuals must be cached and the source has no fixed order of rows.
    """

    def __init__(
        self,
        source: Source,
        plan: Plan,
        *,
        wanted: Wanted,
        folder: Path,
        kernels: Kernels = "auto",
        progress: Progress = silent,
    ) -> None:
        if wanted == "cached" and not isinstance(source, StoredSource):
            raise UserError("training.residuals is cached, but the activations have no fixed order; set it to auto.")
        self._source, self._plan, self._wanted = source, plan, wanted
        self._folder, self._encoder, self._progress = folder, FrozenEncoder(kernels), progress

    @property
    def cached(self) -> bool:
        """Whether residuals are stored on disk. An interrupted training continues in the same way."""
        decision, processes = self._folder / "residuals.json", self._plan.processes
        if not processes.of_first(decision.exists())[0]:
            processes.first(lambda: write_json(decision, "cached" if self._worth_caching() else "recomputed"))
        return bool(read_json(decision) == "cached")

    def after(self, members: Sequence[Coder]) -> Target:
        """The residual of the finished stages for the next one; the activations if there are no finished stages.

        Raises:
            UserError: If an activation is not finite, or the cache of activations is damaged.
        """
        source, stage = self._source, len(members)
        if not members:
            return Target.activations(source)
        if isinstance(source, StoredSource) and self.cached:
            self._plan.processes.first(lambda: self._kept(source, members))
            kept = ActivationCache.open(self._cache(stage))
            variance = source.d_in / source.scale**2 - float(source.mean_D.double().square().sum())
            seconds = _seconds(kept.folder)
            mean_D = kept.mean_D.float()
            return Target(kept, mean_D, kept.scale, stage, first_member=stage, variance=variance, seconds=seconds)
        frozen = partial(self._recon, Ensemble(members, wiring="residual"))
        mean_D, scale = residual_statistics(frozen, source, self._plan)
        (scale,) = self._plan.processes.of_first(scale)
        return Target(source, mean_D, scale, stage, first_member=stage, frozen=frozen)

    def _recon(self, coder: Coder, acts_BD: Tensor) -> Tensor:
        return cast(Tensor, through(coder, acts_BD, self._encoder.recon_only)[1])

    def _worth_caching(self) -> bool:
        source, plan = self._source, self._plan
        if not isinstance(source, StoredSource) or self._wanted != "auto":
            return self._wanted == "cached"
        self._folder.mkdir(parents=True, exist_ok=True)
        sizes = {"rows": source.rows, "d_in": source.d_in, "stages": plan.stages, "steps": plan.steps}
        return keeps_residuals(**sizes, batch=plan.batch_size, free=shutil.disk_usage(self._folder).free)

    def _cache(self, stage: int) -> Path:
        return self._folder / "residual" / f"after_{stage}"

    def _kept(self, source: StoredSource, members: Sequence[Coder]) -> ActivationCache:
        """The residual after members: read its stored part, compute the rest, and remove the previous residual."""
        stage = len(members)
        folders = [self._cache(number) for number in (stage - 1, stage)]
        shard_rows = min(SHARD_BYTES // (source.d_in * torch.float32.itemsize), source.rows // PASS_SHARDS)
        shard_rows = max(1, shard_rows // BLOCK_ROWS) * BLOCK_ROWS
        contents = f"residual {_identity(source, members)}"
        writer = CacheWriter(
            folders[1],
            d_in=source.d_in,
            dtype="float32",
            contents=contents,
            shard_rows=shard_rows,
            piles=source.piles if isinstance(source, ActivationCache) else None,
        )
        if writer.rows < source.rows:
            before = source if stage == 1 else self._kept(source, members[:-1])
            self._write(writer, before, members[-1], f"residual after stage {stage}", shard_rows)
        kept = writer.finish()
        shutil.rmtree(folders[0], ignore_errors=True)
        return kept

    @torch.no_grad()
    def _write(self, writer: CacheWriter, before: StoredSource, member: Coder, label: str, shard_rows: int) -> None:
        """Append the member's residual of the rows that are not yet written, one shard at a time."""
        began = time.perf_counter() - (_seconds(writer.folder) if writer.rows else 0.0)
        for first in range(writer.rows, before.rows, shard_rows):
            last = min(first + shard_rows, before.rows)
            for start in range(first, last, BLOCK_ROWS):
                target_BD = before.read(start, min(start + BLOCK_ROWS, last)).to(self._plan.device)
                left_BD = target_BD - self._recon(member, target_BD)
                if not left_BD.isfinite().all():
                    raise UserError(
                        f"The {label} is not finite; look for activations that are not, or train again in a new folder "
                        "with a lower training.learning_rate."
                    )
                writer.append(left_BD)
            if last == before.rows:
                writer.finish()  # before reporting progress
            write_json(writer.folder / "seconds.json", time.perf_counter() - began)
            self._progress(Tick(label, last, before.rows))


@torch.no_grad()
def residual_statistics(frozen: Callable[[Tensor], Tensor], source: Source, plan: Plan) -> tuple[Tensor, float]:
    """(mean [D] of the residual r of the finished stages, √(D / E‖r‖²)).

    Residuals are smaller than activations, so every stage is trained on residuals of the same scale. Learning rates,
    penalties and thresholds then mean the same in every stage. The finished member has the factor folded in.
    """
    batches = source.batches(batch_size=plan.batch_size, seed=plan.seed)
    count, energy, sum_D = 0, 0.0, torch.zeros(source.d_in, dtype=torch.float64)
    for _ in range(min(SAMPLED_BATCHES, plan.steps)):
        acts_BD = next(batches).to(plan.device)
        residual_BD = acts_BD - frozen(acts_BD)
        count += len(residual_BD)
        energy += float(residual_BD.double().square().sum())
        sum_D += residual_BD.double().sum(dim=0).cpu()
    return (sum_D / count).float(), math.sqrt(source.d_in * count / max(energy, 1e-30))


def _seconds(folder: Path) -> float:
    """Seconds that a stored residual has taken so far."""
    path = folder / "seconds.json"
    return float(read_json(path)) if path.exists() else 0.0


def _identity(source: StoredSource, members: Sequence[Coder]) -> str:
    """Hash of a residual's activations and members, so that the residual of others is never used instead."""
    digest = hashlib.sha256(source.fingerprint.encode())
    for member in members:
        for parameter in member.parameters():
            digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
