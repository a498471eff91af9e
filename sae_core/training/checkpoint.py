"""Checkpoints: one safetensors file with everything the next steps depend on, replaced as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

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
    """

    step: int = 0
    seconds: float = 0.0
    rows: Sequence[Sequence[float]] = ()


def save_checkpoint(path: Path, trainers: Sequence[Trainer], progressed: Progressed) -> None:
    """Write the state of trainers that were given the same batches."""
    rows = torch.tensor(progressed.rows, dtype=torch.float64).view(-1, len(COLUMNS))
    tensors = {"seconds": torch.tensor(progressed.seconds, dtype=torch.float64), "curves": rows}
    for number, trainer in enumerate(trainers):
        tensors |= {f"{number}.{name}": tensor for name, tensor in trainer.state().items()}
    write_tensors(path, tensors)


def load_checkpoint(path: Path, trainers: Sequence[Trainer]) -> Progressed:
    """Put trainers back to where they were; they stay as they are if there is no checkpoint.

    Raises:
        UserError: If the checkpoint is damaged or belongs to other trainers.
    """
    if not path.exists():
        return Progressed()
    tensors = read_tensors(path)
    for number, trainer in enumerate(trainers):
        prefix = f"{number}."
        trainer.load_state({name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)})
    steps = {trainer.done for trainer in trainers}
    if len(steps) != 1 or not {"seconds", "curves"} <= tensors.keys():
        raise UserError(f"{path} is not a checkpoint of this training; delete it.")
    return Progressed(steps.pop(), float(tensors["seconds"]), tensors["curves"].tolist())
