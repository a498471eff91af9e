"""A training that breaks off at each file that it writes, and then goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sae_core.foundation.run import Run


def broken_off_at_each_file(
    make: Callable[[str], Run], train: Callable[[Run], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Run, list[str]]]:
    """Runs that were broken off at their first file, their second, …, each then trained to its end.

    Every file is renamed into its place, and here each of these renamings fails once.

    Args:
        make: Makes a new run of a name.
        train: Trains a run, or goes on with it.
        monkeypatch: Lets renaming fail.

    Yields:
        A run, and the names of the files that were in place when it broke off.
    """
    rename = Path.replace
    for limit in itertools.count():
        written: list[str] = []

        def failing(self: Path, target: Path, limit: int = limit, written: list[str] = written) -> Path:
            if len(written) == limit:
                raise ZeroDivisionError
            written.append(target.name)
            return rename(self, target)

        run = make(str(limit))
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", failing)
            try:
                train(run)
                return
            except ZeroDivisionError:
                pass
        train(run)
        yield run, written
