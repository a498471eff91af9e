"""Write files that appear whole or not at all, and read them with checks.

The functions import torch and pandas themselves, so commands that read only a run's manifest start in half a second.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_core.foundation.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import torch


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush the file and rename it to ``path``, else remove it.

    Raises:
        OSError: If the file cannot be written; its ``filename`` is set.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with naming_faults_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def naming_faults_of(path: Path) -> Iterator[None]:
    """Raise every disk error of a block as an `OSError` that names a file.

    A failed write to an open file raises an error without a file name. Libraries written in Rust (safetensors,
    tokenizers) raise exceptions of another type, whose text holds the error number.

    Raises:
        OSError: With ``path`` as its ``filename`` unless the error names a file already.
    """
    try:
        yield
    except OSError as error:
        # Keep the name of a folder that could not be made, since people need to know it; replace a temporary name.
        if error.filename is None or str(error.filename).endswith(".partial"):
            error.filename = str(path)
        raise
    except UserError:
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with a final newline. NaN and infinity are refused, since JSON has neither."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON as strictly as `parse_json`.

    Raises:
        UserError: If the file is missing, is not a regular file, or is not JSON.
    """
    with reading(path):
        return parse_json(path.read_text(encoding="utf-8"))


def read_object(path: Path, **needs: type) -> dict[str, Any]:
    """Read a JSON object that must hold certain values.

    Args:
        path: The file.
        needs: The type of each value that the object must hold, by its name.

    Raises:
        UserError: As `read_json`, or if the file holds no such object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(damaged(path, f"it holds a {type(content).__name__} and not an object"))
    for name, kind in needs.items():
        if not isinstance(content.get(name), kind):
            raise UserError(damaged(path, f"it lacks {name}"))
    return content


def parse_json(text: str) -> Any:
    """Parse JSON strictly.

    Raises:
        ValueError: If the text is not JSON, or holds NaN, infinity, an integer beyond 64 bits, a name twice in one
            object, or more levels than Python's parser can follow.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (number := int(digits)) < 2**64:
        raise ValueError(f"the number {digits[:24]} has more than 64 bits")
    return number


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:24]} is too large")
    return number


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:40]!r} stands twice in one object")
    return found


_DECODER = json.JSONDecoder(parse_int=_whole, parse_float=_finite, parse_constant=_no_number, object_pairs_hook=_once)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Read a file of a run in a block, and say in one sentence what is wrong with the file.

    Raises:
        UserError: If the file is missing, is not a regular file (reading a pipe would wait for ever), or is damaged.
        OSError: If this process may not read the file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is not a file; remove it and run the command again.")
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; train, index and evaluate write again what a run lacks.") from None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise
        raise UserError(damaged(path, error.strerror or error)) from None
    except (ValueError, MemoryError) as error:  # errors of pyarrow, JSON and UTF-8 are ValueErrors
        raise UserError(damaged(path, error)) from None


def damaged(path: Path, reason: object) -> str:
    """The sentence for a damaged file of a run."""
    short = " ".join(str(reason).split())
    short = short if len(short) <= 200 else f"{short[:199]}…"
    return f"{path} is damaged ({short}); delete it and run the command again."


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet."""
    with replacing(path) as partial:
        table.to_parquet(partial, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet table.

    Raises:
        UserError: If the file is missing or cut off.
    """
    import pandas as pd

    with reading(path):
        try:
            return pd.read_parquet(path)
        except Exception as error:  # damaged bytes reach many parts of pyarrow and pandas
            raise UserError(damaged(path, error)) from None


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors."""
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        # safetensors ignores the umask and makes files that only their owner can read, but runs are shared.
        partial.touch()
        mode = partial.stat().st_mode & 0o777
        save_file(contiguous, partial, metadata=dict(metadata or {}))
        partial.chmod(mode)


def read_tensors(path: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file.

    Raises:
        UserError: If the file is missing or cut off.
    """
    from safetensors.torch import load_file

    with reading(path):
        try:
            return dict(load_file(path, device=device))
        except Exception as error:  # safetensors raises SafetensorError, which is no subclass of ValueError
            raise UserError(damaged(path, error)) from None


def read_tensor(path: Path, name: str, device: str = "cpu") -> torch.Tensor:
    """Read one tensor of a safetensors file. On the CPU the tensor is mapped, and each part is read when used.

    Raises:
        UserError: If the file is missing or cut off, or lacks the tensor.
    """
    from safetensors import safe_open

    with reading(path):
        try:
            with safe_open(path, framework="pt", device=device) as file:
                tensor: torch.Tensor = file.get_tensor(name)
        except Exception as error:
            raise UserError(damaged(path, error)) from None
    return tensor


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text without changing line ends."""
    with replacing(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def read_text(path: Path) -> str:
    """Read UTF-8 text without changing line ends; drop a byte order mark.

    Raises:
        UserError: If the file is missing or is not UTF-8.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is not a file; give the path of an existing file.")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the path of an existing file.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8 and try again.") from None
