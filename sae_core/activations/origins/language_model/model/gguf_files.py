"""Models in GGUF files, which transformers turns into plain weights where the packages gguf and accelerate are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from transformers import modeling_gguf_pytorch_utils as reading

from sae_core.activations.origins.language_model.model.spreading import require
from sae_core.foundation.errors import UserError

SUFFIX = ".gguf"
_NEEDED = ("gguf", "accelerate")


def gguf_file(place: Path) -> Path | None:
    """The GGUF file that a path names: itself, or the only one of a folder that holds no model of transformers.

    Raises:
        UserError: If the folder holds several, or the file is missing or no GGUF file.
    """
    if place.suffix.lower() == SUFFIX and not place.is_dir():
        return _checked(place)
    if not place.is_dir() or (place / "config.json").exists():
        return None
    found = sorted(path for path in place.iterdir() if path.suffix.lower() == SUFFIX)
    if len(found) > 1:
        raise UserError(f"The folder {place} holds {len(found)} GGUF files; give the path of one, such as {found[0]}.")
    return _checked(found[0]) if found else None


def _checked(file: Path) -> Path:
    try:
        with file.open("rb") as opened:
            is_gguf = opened.read(4) == b"GGUF"
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); give the path of a GGUF file.") from None
    if not is_gguf:
        raise UserError(f"{file} is no GGUF file (it does not begin with GGUF); give one that is.")
    return file


def require_gguf(file: Path) -> None:
    """Refuse a GGUF file where a package that reads it is missing.

    Raises:
        UserError: One sentence that says how to get it.
    """
    require(_NEEDED, f"{file} is a GGUF file", "give a model folder in transformers format")


@contextmanager
def without_gguf_bars() -> Iterator[None]:
    """Keep the reader of GGUF files from drawing its bar, which is not one of those that transformers can turn off."""
    module: Any = reading
    draw = getattr(module, "tqdm", None)
    if draw is None:
        yield
        return
    module.tqdm = partial(draw, disable=True)
    try:
        yield
    finally:
        module.tqdm = draw
