"""A table of arrays in one safetensors file, mapped into memory: its class declares, opens and checks it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, get_args, get_type_hints

import numpy as np

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import map_tensors


@dataclass(frozen=True, slots=True)
class MappedTable:
    """An open table; its arrays are maps of the file, so it takes almost no memory.

    A subclass is a frozen dataclass. Its fields are arrays, annotated with their types (``NDArray[np.int32]``), and
    whole numbers (``int``), which stand in the file's header.
    """

    FORMAT: ClassVar[str]
    """The ``format`` that the header names."""
    TITLE: ClassVar[str]
    """What the file is, in messages: ``an activation index``."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a table.

        Raises:
            UserError: If the file is missing, cut off or something else, or its arrays do not fit each other.
        """
        arrays, metadata = map_tensors(path)
        try:
            if metadata["format"] != cls.FORMAT:
                raise ValueError(f"format {metadata['format']!r} instead of {cls.FORMAT!r}")
            types = cls._types()
            if any(arrays[name].dtype != dtype for name, dtype in types.items()):
                raise ValueError("an array has the wrong type")
            names = [field.name for field in fields(cls)]
            table = cls(**{name: arrays[name] if name in types else int(metadata[name]) for name in names})
            table.check()
        except (KeyError, ValueError, IndexError) as error:
            raise UserError(f"{path} is not {cls.TITLE} ({error}); delete it and index again.") from None
        return table

    def check(self) -> None:
        """Raise a ValueError or IndexError if the arrays do not fit each other."""

    @classmethod
    def layout(cls, **shapes: tuple[int, ...]) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """The layout for `writing_tensors`, from the shape of each array."""
        return {name: (dtype, shapes[name]) for name, dtype in cls._types().items()}

    @classmethod
    def header(cls, **numbers: int) -> dict[str, str]:
        """The metadata for `writing_tensors`, from the whole numbers."""
        return {"format": cls.FORMAT, **{name: str(number) for name, number in numbers.items()}}

    @classmethod
    def _types(cls) -> dict[str, np.dtype[Any]]:
        """The type of each array, the widest first, so that all arrays of a file stay aligned."""
        hints = get_type_hints(cls)
        arrays = {field.name: get_args(hints[field.name]) for field in fields(cls) if hints[field.name] is not int}
        types = {name: np.dtype(get_args(of)[0]) for name, (_, of) in arrays.items()}
        return dict(sorted(types.items(), key=lambda each: -each[1].itemsize))
