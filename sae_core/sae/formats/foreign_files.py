"""Read the files of other tools: never unpickled, and every tensor checked against the shape that it must have."""

from __future__ import annotations

import json
import pickle
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_core.foundation.errors import UserError, short
from sae_core.foundation.files.whole_files import parse_json

LARGEST = 2**31
"""No SAE has as many features or dimensions."""
_AGAIN = "fetch or save it again"


class Fields:
    """The settings in a JSON file of another tool; a message about one names the file and the field.

    Args:
        path: The file.
        values: The settings; what the file holds if not given.
        under: The field that holds them, with a dot at its end.
    """

    def __init__(self, path: Path, values: Any = None, under: str = "") -> None:
        self.path, self.under = path, under
        self.values: Any = _read(path, lambda: parse_json(path.read_text("utf-8"))) if values is None else values
        if not isinstance(self.values, dict):
            said = f"the field {under[:-1]}" if under else "it"
            raise UserError(f"{path} describes no SAE: {said} is {short(repr(self.values))}, not a table of settings.")

    def refuse(self, name: str, reason: str) -> UserError:
        """The error that a field cannot be followed."""
        return UserError(f"{self.path}: {self.under}{name} is {short(repr(self.values.get(name)))}; {reason}.")

    def table(self, name: str) -> Fields:
        """A field that holds settings of its own."""
        if name not in self.values:
            raise UserError(f"{self.path} does not say {self.under}{name}; {_AGAIN}.")
        return Fields(self.path, self.values[name], f"{self.under}{name}.")

    def count(self, name: str, *, least: int = 1) -> int:
        """A whole number that must be given."""
        value = self.values.get(name)
        if value is None:
            raise UserError(f"{self.path} does not say {self.under}{name}; {_AGAIN}.")
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < LARGEST:
            raise self.refuse(name, f"it has to be a whole number from {least} to {LARGEST - 1}")
        return value

    def number(self, name: str) -> float:
        """A positive number that must be given."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.refuse(name, "it has to be a positive number")
        return float(value)

    def name(self, name: str) -> str | None:
        """A text; None where none is given."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise self.refuse(name, "it has to be a name")
        return value or None

    def flag(self, name: str, default: bool) -> bool:
        """A field that is true or false."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.refuse(name, "it has to be true or false")
        return default if value is None else value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file."""
    return dict(_read(path, lambda: load_file(path)))


def read_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of ``torch.save``, read with ``weights_only``: code in it is refused and never run."""
    found = _read(path, lambda: torch.load(path, map_location="cpu", weights_only=True))
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{path} holds no table of tensors; give the state of an SAE (its state_dict).")
    return {str(name): tensor for name, tensor in found.items()}


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of a NumPy archive, read with ``allow_pickle=False``."""

    def read() -> dict[str, Tensor]:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
        native = {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}
        return {name: torch.from_numpy(array) for name, array in native.items()}

    found: dict[str, Tensor] = _read(path, read)
    return found


def _read(path: Path, read: Callable[[], Any]) -> Any:
    """What a file holds, or one sentence about it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is not a file; give a checkpoint's folder, or one of its files.")
        return read()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {_AGAIN}.") from None
    except PermissionError as error:
        raise UserError(f"{path} may not be read ({error.strerror}).") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is not only tensors: it would have to be unpickled, which can run any code; save the SAE's "
            "state_dict, or safetensors."
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; {_AGAIN}.") from None
    except (SafetensorError, BadZipFile, ValueError, EOFError, OSError, RuntimeError, KeyError, TypeError) as error:
        what = "object arrays" if "allow_pickle" in str(error) else " ".join(str(error).split())
        shown = what if len(what) <= 120 else f"{what[:119]}…"
        raise UserError(f"{path} is cut off or damaged ({shown.rstrip('.')}); {_AGAIN}.") from None


def checked(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[str | int]],
    path: Path,
    *,
    sizes: Mapping[str, tuple[int, str]] | None = None,
    passed_over: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """The tensors of an SAE in float32, as far as they are asked for; all others but those passed over are refused.

    Args:
        tensors: What a file holds.
        shapes: The dimensions of each tensor, as letters or numbers: ``{"W_enc": "dn", "b_enc": "n"}``.
        path: The file, for messages.
        sizes: The size of letters that a file of settings says, and the words for it.
        passed_over: Tensors that change nothing.

    Raises:
        UserError: If a tensor is missing, unknown, of another shape, not of floats, or holds NaN or infinity.
    """
    for wrong, what in ((shapes.keys() - tensors, "lacks"), (tensors.keys() - shapes.keys() - {*passed_over}, "holds")):
        if wrong:
            more = "also " if what == "holds" else ""
            raise UserError(f"{path} {more}{what} the tensor {min(wrong)}; it should have {', '.join(shapes)}.")
    known: dict[str | int, tuple[int, str]] = dict((sizes or {}).items())
    for name in sorted(shapes, key=lambda name: len(shapes[name])):  # vectors tell which dimension of a matrix is which
        tensor, dimensions = tensors[name], shapes[name]
        fits = tensor.ndim == len(dimensions) and tensor.is_floating_point()
        for letter, size in zip(dimensions, tensor.shape, strict=False) if fits else ():
            there = (
                known.setdefault(letter, (size, f"{letter} = {size} by {name}"))[0]
                if isinstance(letter, str)
                else letter
            )
            fits &= size == there and size > 0
        if not fits:
            told = [known[letter][1] for letter in dict.fromkeys(dimensions) if letter in known]
            told = told or [said for _, said in (sizes or {}).values()]
            shape = "[]" if not dimensions else f"[{', '.join(map(str, dimensions))}]"
            needed = f"floats of shape {shape}" + (f" ({', '.join(told)})" if told else "")
            raise UserError(f"{path}: the tensor {name} is {form_of(tensor)}, but must be {needed}.")
    floats = {name: tensors[name].float() for name in shapes}
    for name, tensor in floats.items():
        if not all(bool(bound.isfinite()) for bound in tensor.aminmax()):
            raise UserError(f"{path}: the tensor {name} holds NaN or infinity; save the SAE again.")
    return floats


def form_of(tensor: Tensor) -> str:
    """The type and shape of a tensor, in words."""
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {list(tensor.shape)}"


def required_k(tensors: Mapping[str, Tensor], k: int, path: Path, said: str) -> None:
    """Refuse a file whose number of active features is another one than the settings say."""
    there = tensors.get("k")
    if there is not None and (there.numel() != 1 or int(there) != k):
        raise UserError(f"{path}: the tensor k is {json.dumps(there.tolist())[:40]}, but {said} is {k}.")
