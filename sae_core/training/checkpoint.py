"""Checkpoints: safetensors files with everything the next steps depend on, replaced as a whole.

One process, or several that have the same state, write one file. Where members are spread over processes, each of these
writes a file of its own beside it; a list of them, put in place when all are there, makes them one checkpoint. Any
number of processes can go on from either.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_object, read_tensors, write_json, write_tensors
from sae_core.training.curves import COLUMNS
from sae_core.training.distribution import Part
from sae_core.training.processes import share
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


def save_checkpoint(path: Path, trainers: Sequence[Trainer], progressed: Progressed, part: Part) -> None:
    """Write the state of trainers that were given the same batches.

    Raises:
        ElsewhereError: If another process cannot write its file; the checkpoint before this one then stays.
    """
    files = _files(path, progressed.step, part)
    own = list(files)[part.processes.rank] if len(files) > 1 else path
    part.processes.together(lambda: _write(own, trainers, progressed, part) if len(part.written) else None)
    part.processes.first(lambda: _replace_older(path, files))


def load_checkpoint(path: Path, trainers: Sequence[Trainer], part: Part) -> Progressed:
    """Put trainers back to where they were; they stay as they are if there is no checkpoint.

    Raises:
        UserError: If the checkpoint is damaged or belongs to a training with other settings.
        ElsewhereError: If it is so in another process.
    """
    return part.processes.together(lambda: _load(path, trainers, part))


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint, as far as there is one."""
    for file in (_list(path), path, *_parts(path)):
        file.unlink(missing_ok=True)


def _list(path: Path) -> Path:
    return path.with_suffix(".json")


def _parts(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.stem}-*.safetensors"))


def _files(path: Path, step: int, part: Part) -> dict[Path, range]:
    """Where the processes write which members, counted from the first of the group."""
    size, count = part.processes.size, len(part.group)
    if part.splits or size == 1:
        return {path: range(count)}
    names = (f"{path.stem}-{step:09d}-{rank:03d}.safetensors" for rank in range(size))
    return {path.with_name(name): share(range(count), rank, size) for rank, name in enumerate(names)}


def _write(path: Path, trainers: Sequence[Trainer], progressed: Progressed, part: Part) -> None:
    rows = torch.tensor(progressed.rows, dtype=torch.float64).view(-1, len(COLUMNS))
    tensors = {"seconds": torch.tensor(progressed.seconds, dtype=torch.float64), "curves": rows}
    if progressed.mean_square_J is not None:
        tensors["mean_square"] = progressed.mean_square_J
    for number, trainer in _numbered(trainers, part):
        tensors[f"{number}.training"] = _fingerprint(trainer, len(part.group))
        tensors |= {f"{number}.{name}": tensor for name, tensor in trainer.state().items()}
    write_tensors(path, tensors)


def _replace_older(path: Path, files: dict[Path, range]) -> None:
    if path in files:
        _list(path).unlink(missing_ok=True)
    else:
        write_json(_list(path), {file.name: [members.start, members.stop] for file, members in files.items()})
        path.unlink(missing_ok=True)
    for file in _parts(path):
        if file not in files:
            file.unlink(missing_ok=True)


def _load(path: Path, trainers: Sequence[Trainer], part: Part) -> Progressed:
    files = [path] if path.exists() else []
    if _list(path).exists():
        listed = {path.with_name(name): range(*members) for name, members in read_object(_list(path)).items()}
        # Someone who deletes a damaged file wants to start anew.
        files = list(listed) if all(file.exists() for file in listed) else []
        wanted = {number for number, _ in _numbered(trainers, part)}
        files = [file for file in files if wanted.intersection(listed[file])] or files[:1]
    if not files:
        return Progressed()
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_tensors(file)
    for number, trainer in _numbered(trainers, part):
        if not torch.equal(tensors.get(f"{number}.training", torch.empty(0)), _fingerprint(trainer, len(part.group))):
            raise UserError(f"{files[0]} is the checkpoint of a training with other settings; delete it to start anew.")
    for number, trainer in _numbered(trainers, part):
        prefix = f"{number}."
        trainer.load_state({name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)})
    return Progressed(
        trainers[0].done, float(tensors["seconds"]), tensors["curves"].tolist(), tensors.get("mean_square")
    )


def _numbered(trainers: Sequence[Trainer], part: Part) -> list[tuple[int, Trainer]]:
    """Trainers with the place of their member in the group."""
    return list(enumerate(trainers, start=part.members.start - part.group.start))


def _fingerprint(trainer: Trainer, members: int) -> Tensor:
    """Hash [32] of what a member cannot be continued without: number and shape of the members, steps, settings."""
    # Which ensembles are trained, and how they are computed, may change between interruption and continuation.
    free = {"methods", "members", "group", "device", "precision", "kernels", "residuals", "boosting"}
    settings = [trainer.settings.model_dump(), trainer.training.model_dump(exclude=free)]
    text = json.dumps([members, *trainer.sae.W_dec.shape, trainer.steps, *settings], sort_keys=True)
    return torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
