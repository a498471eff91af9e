"""Checksums of files: computed once, and not again as long as a file is the same one and nobody wrote to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json, write_json
from sae_core.foundation.progress import Progress, Tick, silent

_REMEMBERED = "verified.json"


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Verified:
    """The files of a folder whose checksums were found right.

    A file is known by inode, size and the times of the last change of its content and of its state. The last cannot be
    set, so a copy, also one that keeps its times, is read again.

    Args:
        folder: The folder; what is known is kept in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._changed = folder, False
        try:
            self._known: dict[str, list[object]] = dict(read_json(folder / _REMEMBERED))
        except (UserError, TypeError, ValueError):  # then everything is read again
            self._known = {}

    def record(self, name: str) -> str:
        """The checksum of a file that was just written, which is remembered as right."""
        checksum = file_checksum(self._folder / name)
        self._remember(name, checksum)
        return checksum

    def trust(self, name: str, checksum: str) -> None:
        """Remember a file as right that is a new name of one that was found right."""
        self._remember(name, checksum)

    def is_right(self, name: str, checksum: str) -> bool:
        """Whether the file is there and has this checksum."""
        path = self._folder / name
        if not path.exists():
            return False
        if self._known.get(name) == self._stamp(name, checksum):
            return True
        if file_checksum(path) != checksum:
            return False
        self._remember(name, checksum)
        return True

    def _remember(self, name: str, checksum: str) -> None:
        self._known[name], self._changed = self._stamp(name, checksum), True

    def _stamp(self, name: str, checksum: str) -> list[object]:
        status = (self._folder / name).stat()
        return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, checksum]

    def save(self) -> None:
        """Keep what was found for the next time, unless the folder may not be written to."""
        if not self._changed:
            return
        try:
            write_json(self._folder / _REMEMBERED, self._known)
        except OSError:
            return


def verify(folder: Path, checksums: Mapping[str, str], *, progress: Progress = silent) -> None:
    """Check files against their checksums; those that are known to be right are not read.

    Args:
        folder: Where they lie.
        checksums: SHA-256 by file name.
        progress: Told the number of files done.

    Raises:
        UserError: If one is missing or has another checksum.
    """
    verified = Verified(folder)
    for done, (name, checksum) in enumerate(checksums.items()):
        progress(Tick("verify activations", done, len(checksums), "files"))
        if not verified.is_right(name, checksum):
            path = folder / name
            fault = "is damaged (its checksum is not the recorded one)" if path.exists() else "is missing"
            verified.save()
            raise UserError(
                f"The shard {path} of the activation cache {fault}; delete that file and run the command again, which "
                "makes it anew and keeps the others."
            )
    verified.save()
