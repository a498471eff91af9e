"""Measure how much more memory this process may take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def free_host_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still allocate, read from Linux's files below ``root``; None if these are missing.

    Two limits apply, and the smaller one counts: the memory that Linux calls available, and the memory that the
    process's control groups (of a container, for example) still allow. Both include cached file pages, since the
    system can drop them.
    """
    lines = _text(root / "proc/meminfo").splitlines()
    available = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return min([*available, *_left_in_groups(root)], default=None)


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield the bytes left in each control group (version 2 or 1) that limits this process."""
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
        # In a container the path is the host's path, but the limit in force is the one at the top.
        own = top / path.strip("/")
        for group in (own, *(parent for parent in own.parents if parent.is_relative_to(top))):
            values = [_text(group / name).strip() for name in (limit, used)]
            if all(value.isdecimal() for value in values):
                # Linux counts cached files as used memory, although it drops them when memory is needed.
                stat = dict(entry.split() for entry in _text(group / "memory.stat").splitlines())
                yield int(values[0]) - int(values[1]) + int(stat.get(cache, 0))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
