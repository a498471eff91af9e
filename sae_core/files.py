"""Writing files so that each appears whole or not at all, and reading them back without surprises."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from sae_core.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed and renamed into place, on failure removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
        raise UserError(f"{path} does not exist; is the run folder complete?") from None
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
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is the run folder complete?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run the command again.") from None


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        save_file(contiguous, partial, metadata=dict(metadata or {}))


def read_tensors(path: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file.

    Raises:
        UserError: If the file is missing or cut off.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; is the run folder complete?")
    try:
        return dict(load_file(path, device=device))
    except Exception as error:  # safetensors raises its own SafetensorError, which is no subclass of ValueError
        raise UserError(f"{path} is damaged ({error}); delete it and run the command again.") from None
