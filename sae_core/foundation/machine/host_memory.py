"""How much memory of the machine this process may still take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def free_host_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take, from the files of Linux below ``root``; None if they do not say.

    The smaller one of what Linux counts as available and of what control groups, which containers are made with, still
    allow; pages of files that the system can give up are included.
    """
    lines = _text(root / "proc/meminfo").splitlines()
    available = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return min([*available, *_left_in_groups(root)], default=None)


def _left_in_groups(root: Path) -> Iterator[int]:
    """Bytes left in each control group, of version 2 or 1, that this process is in and that has a limit."""
    mounted = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, limit, used, cache = mounted, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, used = mounted / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        # In a container the path is that of the host, while the limit that holds stands at the top.
        own = top / path.strip("/")
        for group in (own, *(parent for parent in own.parents if parent.is_relative_to(top))):
            values = [_text(group / name).strip() for name in (limit, used)]
            if all(value.isdecimal() for value in values):
                # Files that were read and are kept in memory count as used, but make room.
                stat = dict(entry.split() for entry in _text(group / "memory.stat").splitlines())
                yield int(values[0]) - int(values[1]) + int(stat.get(cache, 0))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
