"""Faulty checkpoints of other tools: each ends in a sentence that names the file and, where it is one, the field."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import WRITERS, written
from safetensors.torch import load_file, save_file
from torch import Tensor

from hostile.campaign import Case, Fate, World, attempt, damages
from sae_core.sae.formats.declaration import formats, read_checkpoint

ONCE = (
    "dictionary_learning AutoEncoderTopK",
    "sparsify",
    "gemma_scope",
    "gemma_scope_2",
    "llama_scope",
    "saelens gated",
)
"""One of each format; what is special about the others is below."""


def _load(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".pt":
        return dict(torch.load(path, weights_only=True))
    if path.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    return dict(load_file(path))


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if path.suffix == ".pt":
        torch.save(tensors, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})  # type: ignore[arg-type]
    else:
        save_file(tensors, path)


def foreign_saes(world: World) -> Iterator[Case]:
    """Checkpoints of every format."""
    for name in ONCE:
        for file in _files(name, world):
            yield from _damaged(name, file, world)
        yield from _tensors(name, world)
    yield from _settings(world)
    yield from code_in_files(world)


_FILES: dict[str, list[Path]] = {}


def _files(name: str, world: World) -> list[Path]:
    """The files of a format, within its folder, the weights first."""
    if name not in _FILES:
        _FILES[name] = _found_files(name, world)
    return _FILES[name]


def _found_files(name: str, world: World) -> list[Path]:
    folder = written(name, world.new()).folder
    return [Path(file) for each in formats() if each.folder_of(folder) for file in each.files]


def _case(name: str, folder: Path, fate: Fate = "refused", says: tuple[str, ...] = ()) -> Case:
    kept = tuple(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return Case(
        f"checkpoint: {name}", lambda: attempt(lambda: read_checkpoint(folder)), fate, says or (str(folder),), kept
    )


def _damaged(name: str, file: Path, world: World) -> Iterator[Case]:
    ways = len(list(damages(written(name, world.new()).folder / file, world.chance)))
    for number in range(ways):
        folder = written(name, world.new()).folder
        what, damage = list(damages(folder / file, world.chance))[number]
        damage()
        yield _case(f"{name}: {file} {what}", folder, "either" if what == "scrambled" else "refused")


def _tensors(name: str, world: World) -> Iterator[Case]:
    weights = _files(name, world)[0]
    names = [key for key in _load(written(name, world.new()).folder / weights) if key not in ("k", "threshold")]
    changes: dict[str, Callable[[Tensor], Tensor | None]] = {
        "missing": lambda _: None,
        "with its axes in the other order": lambda tensor: (
            tensor[None].transpose(-1, 0) if tensor.ndim < 2 else tensor.T
        ),
        "cut off": lambda tensor: tensor[:3].clone(),
        "empty": lambda tensor: tensor[:0].clone(),
        "with NaN": lambda tensor: torch.where(tensor == tensor.max(), torch.nan, tensor),
        "with infinity": lambda tensor: torch.where(tensor == tensor.max(), torch.inf, tensor),
        "of whole numbers": lambda tensor: tensor.long(),
        "too large for float32": lambda tensor: tensor.double() * 1e300,
    }
    for key in names:
        for what, change in changes.items():
            folder = written(name, world.new()).folder
            tensors = _load(folder / weights)
            found = change(tensors.pop(key))
            _save(folder / weights, tensors | ({} if found is None else {key: found}))
            yield _case(f"{name}: {key} {what}", folder, says=(f"{folder / weights}",))
    folder = written(name, world.new()).folder
    _save(folder / weights, {**_load(folder / weights), "secret": torch.zeros(3)})
    yield _case(f"{name}: a tensor that nobody knows", folder, says=("the tensor secret",))


SETTINGS: dict[str, dict[str, tuple[Any, ...]]] = {
    "dictionary_learning AutoEncoderTopK": {
        "trainer": (..., None, [], "x", {}),
        "trainer.dict_class": ("CrossCoder", "IdentityDict", None, 5, ...),
        "trainer.activation_dim": (7, 0, -1, "6", None, 1.5, True, 2**40),
        "trainer.dict_size": (23, 2**31, ...),
        "trainer.k": (4, 0, 25, "3", ...),
        "trainer.lm_name": (5,),
    },
    "sparsify": {
        "activation": ("relu", 5),
        "d_in": (7, 0, None, ...),
        "expansion_factor": (5, 0, 2**40, "4", ...),
        "num_latents": (25, -1, "x"),
        "k": (0, 25, None),
        "transcode": (True, "yes"),
        "skip_connection": (True,),
        "a_setting_of_the_future": (1,),
    },
    "gemma_scope_2": {
        "architecture": ("topk", None, ...),
        "affine_connection": (True,),
        "hf_hook_point_out": ("model.layers.5.mlp",),
        "model_name": (5,),
    },
    "llama_scope": {
        "d_model": (7, None, ...),
        "d_sae": (23, 0),
        "act_fn": ("topk", 5),
        "jump_relu_threshold": (None, -1, "x", ...),
        "norm_activation": ("token-wise", 5),
        "dataset_average_activation_norm": (..., 5, {}, {"in": 0}, {"in": "x"}, {"in": 2.0, "out": 3.0}),
        "hook_point_out": ("blocks.15.hook_mlp_out",),
        "use_decoder_bias": (False,),
    },
    "saelens gated": {
        "architecture": ("temporal", "batchtopk", "standard", None),
        "normalize_activations": ("layer_norm", "constant_norm_rescale", "covariance_whitening"),
        "d_in": (7,),
        "rescale_acts_by_decoder_norm": (True,),
    },
}
"""Values of settings that contradict the tensors, cannot be followed, or are of another kind."""


def _settings(world: World) -> Iterator[Case]:
    for name, fields in SETTINGS.items():
        config = _files(name, world)[1]
        for dotted, values in fields.items():
            for value in values:
                folder = written(name, world.new()).folder
                content = json.loads((folder / config).read_text())
                *outer, field = dotted.split(".")
                table = content[outer[0]] if outer else content
                table.update({field: value})
                if value is ...:
                    del table[field]
                (folder / config).write_text(json.dumps(content))
                shown = "left out" if value is ... else repr(value)[:30]
                weights = "sae_weights.safetensors"  # another architecture has other tensors
                says = (f"{dotted}", weights) if field == "architecture" else (dotted,)
                yield _case(f"{name}: {dotted} {shown}", folder, says=says)


class _Harm:
    """What a pickle can hold: a call of any function."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def code_in_files(world: World) -> Iterator[Case]:
    """Files that would do harm when they are unpickled; what they would make must not be there."""
    name = "dictionary_learning AutoEncoderTopK"
    for what in ("in the place of a tensor", "in the place of all"):
        folder, marker = written(name, world.new()).folder, world.new("_marker")
        content: Any = _Harm(marker) if what.endswith("all") else {"encoder.weight": _Harm(marker)}
        torch.save(content, folder / "ae.pt")
        yield _harmless(f"{name}: code {what}", folder, marker, folder / "ae.pt")
    for what, content in {"a list": [torch.zeros(3)], "a number": 5, "a module's name": {"a": "b"}}.items():
        folder = written(name, world.new()).folder
        torch.save(content, folder / "ae.pt")
        yield _case(f"{name}: {what} in the place of tensors", folder, says=("holds no table of tensors",))
    folder, marker = written("gemma_scope", world.new()).folder, world.new("_marker")
    arrays = dict(np.load(folder / "params.npz")) | {"W_enc": np.array([_Harm(marker)], dtype=object)}
    np.savez(folder / "params.npz", **arrays)  # type: ignore[arg-type]
    yield _harmless("gemma_scope: code in an array", folder, marker, folder / "params.npz")
    folder = written("gemma_scope", world.new()).folder
    with zipfile.ZipFile(folder / "params.npz", "w") as file:
        file.writestr("W_enc.npy", b"no array at all")
    yield _case("gemma_scope: an archive of something else", folder, says=(str(folder / "params.npz"),))


def _harmless(name: str, folder: Path, marker: Path, weights: Path) -> Case:
    case = _case(name, folder, says=(str(weights),))

    def act() -> Any:
        outcome = case.act()
        assert not marker.exists(), "code in a checkpoint was run"
        return outcome

    return Case(case.name, act, case.fate, case.says, case.kept)


assert set(ONCE) | set(SETTINGS) <= set(WRITERS)
