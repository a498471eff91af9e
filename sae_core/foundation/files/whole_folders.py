"""Make folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import naming_faults_of


def place_of(path: Path) -> Path:
    """Where a folder lies or is to lie, with links followed.

    Raises:
        UserError: If no folder can have that name.
    """
    try:
        place = path.resolve()
        place.exists()
    except (OSError, ValueError, RuntimeError):  # a name that no file system takes, or links that go round in circles
        raise UserError(f"{path} cannot be a folder; give another name.") from None
    return place


def require_new(path: Path) -> Path:
    """The place of a new folder.

    Raises:
        UserError: If something is there that is no empty folder, or no folder can have that name.
    """
    place = place_of(path)
    # A folder is put in place by renaming it, after which a shell would stand in the one that was replaced.
    if place == Path.cwd() or (place.exists() and (not place.is_dir() or any(place.iterdir()))):
        raise UserError(f"{path} is there already; give a new folder.")
    return place


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """Yield a temporary folder beside a place; on success it takes the place, else nothing is left of it.

    A folder that is there is replaced. At every moment the old one or the new one lies there or beside it, whole.

    Raises:
        OSError: If the folder cannot be written; its ``filename`` is set.
    """
    with naming_faults_of(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
        old = beside.with_suffix(".old")
        try:
            yield beside
            beside.chmod(0o755)
            if place.exists():
                place.rename(old)
            beside.rename(place)
        finally:
            if old.exists() and not place.exists():
                old.rename(place)
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(beside, ignore_errors=True)
