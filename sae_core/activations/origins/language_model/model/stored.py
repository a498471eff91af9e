"""Which kinds of numbers a model's files hold: weights that are stored as codes would be read as plain numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from torch import nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from sae_core.foundation.errors import UserError

NUMBERS = ("F64", "F32", "F16", "BF16")
"""What a safetensors file calls numbers that mean what they are. Others, 8-bit floats too, need scales or a code."""


def weight_files(source: str, options: Mapping[str, Any], *, named: str | None = None) -> list[Path]:
    """The safetensors files of a model that has been loaded, from its folder or the local cache; none if not found.

    If the hub's main revision holds no safetensors, transformers reads their conversion from a pull request, so the
    pull requests in the cache are looked through as well.

    Args:
        source: The folder, or the model's name on the hub.
        options: As transformers was given them.
        named: The file that the model's configuration names, if it names one.
    """
    names = (named,) if named else (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    conversions = [{**options, "revision": revision} for revision in _cached_pull_requests(source)]
    for where, name in product((options, *conversions), names):
        path = _here(source, name, where)
        if path is None:
            continue
        if not name.endswith(".json"):
            return [path]
        shards = sorted({*json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()})
        found = [_here(source, shard, where) for shard in shards]
        return [shard for shard in found if shard is not None]
    return []


def _cached_pull_requests(source: str) -> list[str]:
    """The pull requests of a hub model that are in the local cache, the one read last first."""
    if Path(source).is_dir():
        return []
    references = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="model") / "refs"
    found = sorted(references.glob("refs/pr/*"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.relative_to(references).as_posix() for path in found]


def _here(source: str, name: str, options: Mapping[str, Any]) -> Path | None:
    found = cached_file(
        source,
        name,
        **{**options, "local_files_only": True},
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if found is None else Path(found)


def refuse_codes(files: Iterable[Path], model: nn.Module, unexpected: Iterable[str]) -> None:
    """Refuse files that hold something else than floating-point numbers for a weight that is one in the model.

    transformers converts whatever it finds, so that a quantized model whose configuration does not say so is read as
    if its codes were its weights.

    Args:
        files: The safetensors files.
        model: The model that was made of them.
        unexpected: Tensors in the files that the model has no place for.

    Raises:
        UserError: If there is such a weight; the first is named, with its file.
    """
    plain = {name: tensor.is_floating_point() for name, tensor in _tensors(model)}
    for file in files:
        for name, kind in stored_kinds(file):
            if kind not in NUMBERS and _is_read_as_number(name, plain, model, [*unexpected]):
                raise UserError(
                    f"{file} holds {name} as {kind}, not as floating-point numbers, and the model's configuration does "
                    "not say how it is quantized (quantization_config); give the model in float32, float16 or bfloat16."
                )


def stored_kinds(file: Path) -> Iterator[tuple[str, str]]:
    """(name, kind of numbers) of the tensors of a safetensors file, from its header alone."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    for name, entry in header.items():
        if name != "__metadata__":
            yield name, str(entry["dtype"])


def _tensors(model: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _is_read_as_number(name: str, plain: Mapping[str, bool], model: nn.Module, unexpected: list[str]) -> bool:
    """Whether a tensor of a file becomes a floating-point tensor of the model.

    A model with a head calls its weights otherwise than one without, by a prefix. A name that is neither the model's
    nor left over is one that transformers has changed, so that it becomes a weight, too.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    names = (name, f"{prefix}{name}", name.removeprefix(prefix))
    for own in names:
        if own in plain:
            return plain[own]
    ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    if any(re.search(pattern, own) for pattern in ignored for own in names):
        return False
    return not any(
        left == own or left.endswith(f".{own}") or own.endswith(f".{left}") for left in unexpected for own in names
    )
