"""Make thumbnails of the images that rows name, and write them into the run, which needs the images no more.

Only files under the folder that is named are read, whatever a path or a link says, and nothing is fetched.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_core.foundation.errors import UserError, short
from sae_core.foundation.files.whole_files import write_tensors

THUMBNAIL = 96
"""Pixels of the longer side of a thumbnail, at most."""
_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")
_MOST_PIXELS = 100_000_000


def image_paths(folder: str | None, names: NDArray[Any], told: str) -> list[Path]:
    """The files of images, each of which lies under the folder.

    Args:
        folder: The folder that is named; without it there is no image.
        names: A path within the folder for each row.
        told: The column and its file, for messages.

    Raises:
        UserError: If no folder is named, or a path is missing, leads out of the folder or names no image.
    """
    if folder is None:
        raise UserError(f"{told} names images; say by --images FOLDER under which folder they lie.")
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"The folder of images {root} does not exist; check --images.")
    root, found, known = root.resolve(), [], dict[str, Path]()
    for number, given in enumerate(names, start=1):
        name = str(given or "")
        if name not in known:
            known[name] = _image_path(root, name, f"{told}, row {number},")
        found.append(known[name])
    return found


def _image_path(root: Path, name: str, told: str) -> Path:
    if not name:
        raise UserError(f"{told} is empty; give the path of an image, or leave the column out.")
    if "://" in name or name.startswith("data:"):
        raise UserError(f"{told} holds the address {short(name)}; images are local files, never fetched.")
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise UserError(f"{told} names {short(name)}, which lies outside of {root}; give files under that folder.")
        if not path.is_file():
            raise UserError(f"{told} names {short(name)}, which is no file under {root}; check the path.")
    except (OSError, ValueError, RuntimeError):  # a name that no file system takes, or links that go round in circles
        raise UserError(f"{told} names {short(name)}, which is no path of a file; check it.") from None
    if path.suffix.lower() not in _ENDINGS:
        raise UserError(f"{told} names {short(name)}, which is no image; give files that end in {', '.join(_ENDINGS)}.")
    return path


def write_thumbnails(paths: list[Path], to: Path, tell: Callable[[int], None]) -> None:
    """Write the thumbnails of images one after another: ``bytes`` uint8, ``offsets`` int64 [images + 1].

    Raises:
        UserError: If one cannot be read.
    """
    made: dict[Path, bytes] = {}
    pieces: list[bytes] = []
    for number, path in enumerate(paths, start=1):
        if path not in made:
            made[path] = _thumbnail(path)
        pieces.append(made[path])
        tell(number)
    offsets = np.cumsum([0, *map(len, pieces)])
    content = np.frombuffer(b"".join(pieces), np.uint8).copy()
    write_tensors(to, {"offsets": torch.from_numpy(offsets), "bytes": torch.from_numpy(content)})


def _thumbnail(path: Path) -> bytes:
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if image.width * image.height > _MOST_PIXELS:
                raise UserError(
                    f"{path} has {image.width} × {image.height} pixels, too many to be read; make it smaller."
                )
            image.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
            shown = image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
            small = max(shown.size) <= THUMBNAIL
            shown.thumbnail((THUMBNAIL, THUMBNAIL))
            written = io.BytesIO()
            if small or shown.mode == "RGBA":
                shown.save(written, "PNG")
            else:
                shown.save(written, "JPEG", quality=80)
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged file brings about
        raise UserError(f"{path} cannot be read as an image ({short(str(error))}); check the file.") from None
    return written.getvalue()
