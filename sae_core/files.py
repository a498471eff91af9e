"""Writing files so that each appears whole or not at all, and reading them back without surprises.

torch and pandas are imported where they are used: commands that only look at a run's manifest start in half a second.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import torch


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed and renamed into place, on failure removed.

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
    """Give faults of the disk the type and the file name that those who report them need.

    Writes to an open file fail without a name, and the libraries written in Rust (safetensors, tokenizers) raise
    exceptions of their own in which only the text holds the error number.

    Raises:
        OSError: With ``path`` as its ``filename`` unless it names a file already.
    """
    try:
        yield
    except OSError as error:
        # A folder that could not be made is what a person must know about; a temporary name is not.
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
    """Read JSON.

    Raises:
        UserError: If the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; train, index and evaluate write again what a run lacks.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run the command again.") from None


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

    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; train, index and evaluate write again what a run lacks.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run the command again.") from None


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors."""
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        # safetensors makes files that only their owner can read, whatever the umask; a run is there to be shared.
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

    if not path.exists():
        raise UserError(f"{path} does not exist; train, index and evaluate write again what a run lacks.")
    try:
        return dict(load_file(path, device=device))
    except Exception as error:  # safetensors raises its own SafetensorError, which is no subclass of ValueError
        raise UserError(f"{path} is damaged ({error}); delete it and run the command again.") from None


def read_tensor(path: Path, name: str, device: str = "cpu") -> torch.Tensor:
    """Read one tensor of a safetensors file. On the CPU it is mapped: parts are read when they are used.

    Raises:
        UserError: If the file is missing or cut off, or holds no such tensor.
    """
    from safetensors import safe_open

    if not path.exists():
        raise UserError(f"{path} does not exist; train, index and evaluate write again what a run lacks.")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            tensor: torch.Tensor = file.get_tensor(name)
    except Exception as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run the command again.") from None
    return tensor


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, line ends as they are."""
    with replacing(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def read_text(path: Path) -> str:
    """Read UTF-8 text, line ends as they are; a byte order mark is dropped.

    Raises:
        UserError: If the file is missing or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the path of an existing file.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8 and try again.") from None
