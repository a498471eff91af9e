"""Name the task of a file in a run, so that no two files share a name and no task replaces another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sae_core.foundation.folders import file_name


def identity_of(path: Path) -> str:
    """The identity of a file in a run: its full path."""
    return path.expanduser().resolve().as_posix()


def task_name(path: Path, tasks: Iterable[Mapping[str, Any]]) -> str:
    """Name a file's task after the file, with as many parent folders as distinguish it from other tasks.

    Args:
        path: The file.
        tasks: The tasks of the run, each with its ``task`` and, if it came from a file, the ``file``. Older versions
            did not record the file, so a new task of the same name replaces an old one.
    """
    identity, others = identity_of(path), list(tasks)
    for other in others:
        if other.get("file") == identity:
            return str(other["task"])
    # Two names are the same if they give the same file name.
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
