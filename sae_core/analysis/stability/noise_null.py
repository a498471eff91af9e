"""Train the null of boosted stages: SAEs on Gaussian noise with the mean and covariance of the stage's residual.

Two such SAEs share nothing except the covariance of their input, and yet match better than random atoms, since both
learn the directions of large variance. Two trainings agree on structure only if real stages match better than this
null.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_core.analysis.shared.sample import training_sample
from sae_core.analysis.similarity.cosines import Atoms
from sae_core.analysis.stability.stability import measure_stability
from sae_core.ensembles.ensemble import as_a_whole, load_dictionaries, load_ensemble
from sae_core.ensembles.manifest import read_manifest
from sae_core.foundation.progress import Progress, silent
from sae_core.foundation.run import Run
from sae_core.training.members import make_trainer
from sae_core.training.stage import Plan, Target, train_stage

ROWS = 32_768
"""Number of training activations for measuring the mean and covariance of residuals."""
_NOISE = 11
"""Keeps the seeds of noise apart from all other seeds."""
KEPT = ("pw_mcc", "mmcs", "null_matched", "null_best")
GONE = "the activations of the run, which residuals are made from, are gone"


@dataclass(frozen=True, slots=True)
class GaussianNoise:
    """A source of noise to train on; the seed and the step decide the rows of each step.

    Attributes:
        mean_D: The mean [D].
        root_DD: A root R of the covariance R·Rᵀ [D, D].
        rows: The nominal number of rows; the noise has no end.
    """

    mean_D: Tensor
    root_DD: Tensor
    rows: int

    @classmethod
    def like(cls, acts_BD: Tensor, *, rows: int) -> GaussianNoise:
        """Make noise with the mean and covariance of some activations [B, D]."""
        acts_BD = acts_BD.double()
        values_D, vectors_DD = torch.linalg.eigh(torch.cov(acts_BD.T).reshape(acts_BD.shape[1], -1))
        root_DD = vectors_DD * values_D.clamp_min(0.0).sqrt()
        return cls(acts_BD.mean(dim=0).float().cpu(), root_DD.float().cpu(), rows)

    @property
    def d_in(self) -> int:
        """Dimension, D."""
        return len(self.mean_D)

    @property
    def scale(self) -> float:
        """√(D / E‖x‖²)."""
        energy = float(self.root_DD.double().square().sum() + self.mean_D.double().square().sum())
        return float(np.sqrt(self.d_in / max(energy, 1e-30)))

    def batches(self, *, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
        """Yield noise [batch_size, D] without end, from batch ``first_step`` on."""
        step = first_step
        while True:
            drawn = np.random.SeedSequence([_NOISE, seed, step]).generate_state(1, np.uint64)[0] >> 1
            chance = torch.Generator().manual_seed(int(drawn))
            yield self.mean_D + torch.randn(batch_size, self.d_in, generator=chance) @ self.root_DD.T
            step += 1


def trained_on_noise(
    run: Run, noise: GaussianNoise, stage: int, *, device: torch.device, progress: Progress = silent
) -> Tensor:
    """Train an SAE on noise like a stage of a run (settings, seed, steps), and return its atoms [N, D].

    Args:
        run: The run with the settings and the seed.
        noise: The training data.
        stage: Number of the stage, from 0.
        device: The device of the training.
        progress: Told the number of tokens done.
    """
    settings = run.settings
    plan = Plan.of(f"on noise, stage {stage + 1}, seed {settings.training.seed}", noise, settings.training, device)
    part = plan.part(range(stage, stage + 1))
    mean_D = noise.mean_D * noise.scale
    trainer = make_trainer(settings, mean_D, plan, member=stage, width=settings.sae.width, part=part)
    target = Target.activations(noise, first_member=stage)
    with TemporaryDirectory() as folder:
        train_stage(
            [trainer], target, plan, checkpoint=Path(folder) / "noise.safetensors", progress=progress, part=part
        )
    return trainer.sae.W_dec.detach()


@torch.no_grad()
def residuals_of(run: Run, name: str, device: str) -> list[Tensor]:
    """The inputs [B, D] of all stages after the first, on a sample of training activations."""
    ensemble = load_ensemble(run.ensemble(name), device=device)
    blocks = [list(ensemble.walk(acts_BD, as_a_whole)) for acts_BD in training_sample(run, ROWS).to(device).split(2048)]
    return [torch.cat([step.left_BD for step in steps]) for steps in list(zip(*blocks, strict=True))[:-1]]


def stages_over_trainings(
    runs: Sequence[Run], name: str, *, noise: bool, device: str, progress: Progress = silent
) -> dict[str, Any] | None:
    """Measure the stability of a boosted ensemble's stages over trainings, each beside its nulls; None without stages.

    Args:
        runs: A run, then retrains of it.
        name: The ensemble.
        noise: Whether to train SAEs on noise: two for each stage but the first, with the settings and seeds of the
            first two runs. That costs less than twice what training the ensemble did.
        device: Where to train and compare.
        progress: Told the tokens done, and the pairs compared.

    Returns:
        ``by_stage``: for each ``stage`` (from 1), pw_mcc and mmcs over the runs, the same figures for random
        dictionaries (null_matched, null_best) and for SAEs trained on noise (noise_matched, noise_best, or None). And
        ``noise``: the reason if there are no such SAEs, else the ``rows`` of the measured covariance and the ``tokens``
        of each training.
    """
    if not read_manifest(runs[0].ensemble(name)).is_staged:
        return None
    dictionaries = [load_dictionaries(run.ensemble(name), device) for run in runs]
    seed = runs[0].settings.training.seed
    stages: list[dict[str, Any]] = []
    for number, same in enumerate(zip(*dictionaries, strict=True), start=1):
        figures = measure_stability([Atoms(each) for each in same], seed=seed, stage=f"compare stage {number}")[0]
        stages.append({"stage": number, **{key: figures[key] for key in KEPT}})
    reason = None if noise else "it was left out (--no-noise-null)"
    if reason is None and not runs[0].activations.exists():
        reason = GONE
    if reason is None and runs[0].ensemble(name).inner(1).manifest.exists():
        reason = "its stages are ensembles, and only SAEs are trained on noise"
    facts: dict[str, Any] = {"reason": reason}
    residuals = residuals_of(runs[0], name, device) if reason is None else []
    for number, left_BD in enumerate(residuals, start=1):
        source = GaussianNoise.like(left_BD, rows=runs[0].settings.data.train_tokens)
        pair = [
            trained_on_noise(run, source, number, device=torch.device(device), progress=progress) for run in runs[:2]
        ]
        figures = measure_stability(pair, seed=seed, stage=f"compare noise of stage {number + 1}")[0]
        stages[number] |= {"noise_matched": figures["pw_mcc"], "noise_best": figures["mmcs"]}
        facts |= {"rows": len(left_BD), "tokens": runs[0].settings.training.tokens}
    nothing = {"noise_matched": None, "noise_best": None}
    return {"by_stage": [{**nothing, **stage} for stage in stages], "noise": facts}
