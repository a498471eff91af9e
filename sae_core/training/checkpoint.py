"""Write and load checkpoints: safetensors files with the whole state of a training, replaced as a whole.

One process, or several processes with the same state, write one file. If members are spread over processes, each
process writes its own file. A list of these files, written last, makes them one checkpoint. Any number of processes can
continue from either form.
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
    """The progress of a stage.

    Attributes:
        step: Number of steps done.
        seconds: Seconds that these steps took.
        rows: The rows of the training curves.
        mean_square_J: The mean squares that a pipeline of stages has measured.
    """

    step: int = 0
    seconds: float = 0.0
    rows: Sequence[Sequence[float]] = ()
    mean_square_J: Tensor | None = None


def save_checkpoint(path: Path, trainers: Sequence[Trainer], progressed: Progressed, part: Part) -> None:
    """Write the state of trainers that read the same batches.

    Raises:
        ElsewhereError: If another process cannot write its file; the previous checkpoint then stays.
    """
    files = _files(path, progressed.step, part)
    own = list(files)[part.processes.rank] if len(files) > 1 else path
    part.processes.together(lambda: _write(own, trainers, progressed, part) if len(part.written) else None)
    part.processes.first(lambda: _replace_older(path, files))


def load_checkpoint(path: Path, trainers: Sequence[Trainer], part: Part) -> Progressed:
    """Restore the state of trainers from a checkpoint; without a checkpoint, leave them unchanged.

    Raises:
        UserError: If the checkpoint is damaged or belongs to a training with other settings.
        ElsewhereError: If another process finds such a fault.
    """
    return part.processes.together(lambda: _load(path, trainers, part))


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint, or the parts of one."""
    for file in (_list(path), path, *_parts(path)):
        file.unlink(missing_ok=True)


def _list(path: Path) -> Path:
    return path.with_suffix(".json")


def _parts(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.stem}-*.safetensors"))


def _files(path: Path, step: int, part: Part) -> dict[Path, range]:
    """The file of each process, with the members in it, counted from the first member of the group."""
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
        # If somebody has deleted a damaged file, start anew.
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
    """Pair each trainer with the place of its member in the group."""
    return list(enumerate(trainers, start=part.members.start - part.group.start))


def _fingerprint(trainer: Trainer, members: int) -> Tensor:
    """Hash [32] of everything that must not change: number and shape of the members, steps, settings."""
    # The list of ensembles, the kernels and the device may change between interruption and continuation.
    free = {"methods", "members", "group", "device", "precision", "kernels", "residuals", "boosting"}
    settings = [trainer.settings.model_dump(), trainer.training.model_dump(exclude=free)]
    text = json.dumps([members, *trainer.sae.W_dec.shape, trainer.steps, *settings], sort_keys=True)
    return torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
