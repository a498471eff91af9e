"""What a task from a file is called in a run, so that no two files share a name and none takes another's place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sae_core.foundation.folders import file_name


def identity_of(path: Path) -> str:
    """What a file is known by in a run: its whole path."""
    return path.expanduser().resolve().as_posix()


def task_name(path: Path, tasks: Iterable[Mapping[str, Any]]) -> str:
    """The name of a file's task: the file's, with as many folders before it as tell it from other tasks.

    Args:
        path: The file.
        tasks: Those that the run has, each with its ``task`` and, if it came from a file, that ``file``. A task of an
            older version does not say which file it came from, and one of the same name takes its place.
    """
    identity, others = identity_of(path), list(tasks)
    for other in others:
        if other.get("file") == identity:
            return str(other["task"])
    # Names that would be the same name of a file are the same.
    taken = {_folded(str(other["task"])) for other in others if "file" in other or other["task"] != path.name}
    parts = Path(identity).parts
    names = ["/".join(parts[-count:]) for count in range(1, len(parts))]
    name = next((name for name in names if _folded(name) not in taken), None)
    number = 2
    while name is None or _folded(name) in taken:
        name, number = f"{names[-1]} ({number})", number + 1
    return name


def _folded(name: str) -> str:
    return file_name(name).casefold()
