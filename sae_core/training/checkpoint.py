"""Checkpoints: one safetensors file with everything the next steps depend on, replaced as a whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sae_core.errors import UserError
from sae_core.files import read_tensors, write_tensors
from sae_core.training.curves import COLUMNS
from sae_core.training.step import Trainer


@dataclass(frozen=True, slots=True)
class Progressed:
    """How far a stage had come.

    Attributes:
        step: Steps done.
        seconds: Seconds that they took.
        rows: The rows of the training curves.
        mean_square_J: What a pipeline of stages has measured.
    """

    step: int = 0
    seconds: float = 0.0
    rows: Sequence[Sequence[float]] = ()
    mean_square_J: Tensor | None = None


def save_checkpoint(path: Path, trainers: Sequence[Trainer], progressed: Progressed) -> None:
    """Write the state of trainers that were given the same batches."""
    rows = torch.tensor(progressed.rows, dtype=torch.float64).view(-1, len(COLUMNS))
    seconds = torch.tensor(progressed.seconds, dtype=torch.float64)
    tensors = {"training": _fingerprint(trainers), "seconds": seconds, "curves": rows}
    if progressed.mean_square_J is not None:
        tensors["mean_square"] = progressed.mean_square_J
    for number, trainer in enumerate(trainers):
        tensors |= {f"{number}.{name}": tensor for name, tensor in trainer.state().items()}
    write_tensors(path, tensors)


def load_checkpoint(path: Path, trainers: Sequence[Trainer]) -> Progressed:
    """Put trainers back to where they were; they stay as they are if there is no checkpoint.

    Raises:
        UserError: If the checkpoint is damaged or belongs to a training with other settings.
    """
    if not path.exists():
        return Progressed()
    tensors = read_tensors(path)
    if not torch.equal(tensors.get("training", torch.empty(0)), _fingerprint(trainers)):
        raise UserError(f"{path} is the checkpoint of a training with other settings; delete it to start anew.")
    for number, trainer in enumerate(trainers):
        prefix = f"{number}."
        trainer.load_state({name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)})
    return Progressed(
        trainers[0].done, float(tensors["seconds"]), tensors["curves"].tolist(), tensors.get("mean_square")
    )


def _fingerprint(trainers: Sequence[Trainer]) -> Tensor:
    """Hash [32] of what a checkpoint cannot be continued without: number and shape of the members, steps, settings."""
    # Which ensembles are trained, and how they are computed, may change between interruption and continuation.
    free = {"methods", "members", "group", "device", "precision", "kernels", "residuals", "boosting"}
    settings = [[trainer.settings.model_dump(), trainer.training.model_dump(exclude=free)] for trainer in trainers]
    text = json.dumps([*trainers[0].sae.W_dec.shape, trainers[0].steps, settings], sort_keys=True)
    return torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
