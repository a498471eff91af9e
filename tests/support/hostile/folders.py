"""Faulty folders: models, SAEs, and finished runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hostile.campaign import DEEP, Case, Fate, World, attempt, command, copied, damages
from sae_core.sae.formats.saelens import load_sae

READ_ONLY = (("info",), ("labels", "export"), ("report",))
WRITING = (("index",), ("evaluate",), ("train",))


def _edited(path: Path, **changes: object) -> None:
    """Change or, where the value is ``...``, leave out keys of a JSON file."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def _with_tensors(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def model_folders(world: World) -> Iterator[Case]:
    """Models to read activations from."""

    def case(name: str, folder: Path, fate: Fate = "refused", says: tuple[str, ...] | None = None) -> Case:
        act = command("train", world.new(), *world.training(model=folder))
        says = (str(folder), folder.parent.name) if says is None else says
        return Case(f"model: {name}", act, fate, says, (folder,))

    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        for number in range(len(list(damages(world.model / file, world.chance)))):
            folder = copied(world.model, world.new())
            what, damage = list(damages(folder / file, world.chance))[number]
            damage()
            harmless = file == "tokenizer_config.json" or (file, what) == ("tokenizer.json", "scrambled")
            either = harmless or what in ("scrambled",)
            yield case(f"{file} {what}", folder, "either" if either else "refused")
    for key, values in CONFIGS.items():
        for value, fate in values:
            folder = copied(world.model, world.new())
            _edited(folder / "config.json", **{key: value})
            shown = "left out" if value is ... else repr(value)[:30]
            # A context that holds no token of a text leaves a text without tokens, which may be what is said.
            yield case(
                f"config.json with {key} {shown}", folder, fate, () if key == "max_position_embeddings" else None
            )
    for name, change, fate in WEIGHTS:
        folder = copied(world.model, world.new())
        _with_tensors(folder / "model.safetensors", change)
        yield case(f"weights: {name}", folder, fate, (str(folder), folder.parent.name, "activation"))
    folder = copied(world.model, world.new())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    yield case("weights that would have to be unpickled", folder)
    folder = copied(world.model, world.new())
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    yield case("an index that names a shard that is not there", folder)


CONFIGS: dict[str, list[tuple[Any, Fate]]] = {
    "num_hidden_layers": [(0, "refused"), (-1, "refused"), ("3", "either"), (None, "refused"), (4, "either")],
    "hidden_size": [(0, "refused"), (-32, "refused"), (31, "refused"), (64, "refused"), ("x", "refused")],
    "num_attention_heads": [(0, "refused"), (3, "refused"), (None, "refused")],
    "vocab_size": [(0, "refused"), (-1, "refused"), (100, "refused"), (10_000, "refused")],
    "max_position_embeddings": [(0, "refused"), (-1, "either"), (1, "refused"), (None, "either"), ("x", "refused")],
    "model_type": [
        *((name, "refused") for name in ("clip", "vit", "whisper", "t5", "nonsense", "", None, 5, "bert", ...)),
    ],
    "architectures": [
        ([], "either"),
        (None, "either"),
        ("LlamaForCausalLM", "either"),
        (["X"], "either"),
        (5, "either"),
    ],
    "dtype": [("nonsense", "either"), ("int8", "either"), (5, "either")],
    "pad_token_id": [(10**6, "either"), (-1, "either"), ("x", "either")],
    "is_encoder_decoder": [(True, "refused")],
    "auto_map": [({"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}, "either")],
    "quantization_config": [({"quant_method": "nonsense"}, "refused"), (5, "refused")],
    "rope_parameters": [({"rope_type": "nonsense"}, "refused"), ([], "refused")],
    "hidden_act": [("nonsense", "refused"), (5, "refused")],
}


def _rename(tensors: dict[str, Tensor]) -> None:
    for name in list(tensors):
        tensors[f"other.{name}"] = tensors.pop(name)


def _block(number: int, tensors: dict[str, Tensor]) -> list[str]:
    return [name for name in tensors if f"layers.{number}." in name]


def _drop(tensors: dict[str, Tensor], names: list[str]) -> None:
    for name in names:
        del tensors[name]


def _change(tensors: dict[str, Tensor], part: str, change: Callable[[Tensor], Tensor]) -> None:
    name = _first(tensors, part)
    tensors[name] = change(tensors[name])


def _first(tensors: dict[str, Tensor], part: str) -> str:
    return next(name for name in tensors if part in name)


WEIGHTS: list[tuple[str, Callable[[dict[str, Tensor]], object], Fate]] = [
    ("only the embedding", lambda t: _drop(t, [name for name in t if "embed" not in name]), "refused"),
    ("all named differently", _rename, "refused"),
    ("no embedding", lambda t: t.pop(_first(t, "embed_tokens")), "refused"),
    ("no first block", lambda t: _drop(t, _block(0, t)), "refused"),
    ("the layer that is read missing", lambda t: _drop(t, _block(1, t)), "refused"),
    ("one matrix missing", lambda t: t.pop(_first(t, "layers.0.mlp")), "refused"),
    ("a transposed matrix", lambda t: t.update({n: t[n].T.contiguous() for n in [_first(t, "down_proj")]}), "refused"),
    (
        "a shorter embedding",
        lambda t: t.update({n: t[n][:100].clone() for n in [_first(t, "embed_tokens")]}),
        "refused",
    ),
    ("not finite", lambda t: t[_first(t, "layers.0.mlp")].fill_(torch.nan), "refused"),
    ("infinite embedding", lambda t: t[_first(t, "embed_tokens")].fill_(torch.inf), "refused"),
    ("none at all", lambda t: t.clear(), "refused"),
    ("one more tensor", lambda t: t.update({"more": torch.zeros(3)}), "done"),
]


def sae_folders(world: World) -> Iterator[Case]:
    """SAEs in SAELens' format."""
    member = world.run / "ensembles" / "bagged" / "member_00"

    def case(name: str, folder: Path, fate: Fate = "refused", says: tuple[str, ...] = ()) -> Case:
        return Case(f"SAE: {name}", lambda: attempt(lambda: load_sae(folder)), fate, says or (str(folder),), (folder,))

    for file in ("cfg.json", "sae_weights.safetensors"):
        for number in range(len(list(damages(member / file, world.chance)))):
            folder = copied(member, world.new())
            what, damage = list(damages(folder / file, world.chance))[number]
            damage()
            yield case(f"{file} {what}", folder, "either" if what == "scrambled" else "refused")
    for key, values in {
        "architecture": ("nonsense", "gated", None, 5, [], ...),
        "d_in": (0, -1, 31, "x", None, 1e300),
        "d_sae": (0, -1, 31, "x", None, 2**70),
        "k": (0, -1, 10**6, "x", None, True, 1.5),
        "dtype": ("nonsense", 5),
        "normalize_activations": ("nonsense", 5),
        "reshape_activations": ("nonsense", 5),
        "apply_b_dec_to_input": ("nonsense", 5),
        "rescale_acts_by_decoder_norm": ("nonsense", 5),
        "a_setting_of_the_future": (True,),
    }.items():
        for value in values:
            folder = copied(member, world.new())
            _edited(folder / "cfg.json", **{key: value})
            shown = "left out" if value is ... else repr(value)[:30]
            yield case(f"cfg.json with {key} {shown}", folder, says=(str(folder / "cfg.json"), key))
    weights = "sae_weights.safetensors"
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        for what, change in {
            "missing": lambda t, name=name: t.pop(name),
            "transposed": lambda t, name=name: t.update({name: t[name][None].transpose(-1, 0).contiguous()}),
            "cut off": lambda t, name=name: t.update({name: t[name][:3].clone()}),
            "not finite": lambda t, name=name: t[name].view(-1)[:1].fill_(torch.nan),
            "of whole numbers": lambda t, name=name: t.update({name: t[name].long()}),
        }.items():
            folder = copied(member, world.new())
            _with_tensors(folder / weights, change)
            yield case(f"{name} {what}", folder, says=(str(folder / weights), name))
    folder = copied(member, world.new())
    _with_tensors(folder / weights, lambda t: t.update({"more": torch.zeros(3)}))
    yield case("a tensor that nobody knows", folder, says=("more",))


def run_files(world: World) -> Iterator[Case]:
    """Every file of a finished run, with commands that read it and commands that may write it again."""
    files = sorted(path.relative_to(world.run) for path in world.run.rglob("*") if path.is_file())
    for place, file in enumerate(files):
        ways = len(list(damages(world.run / file, world.chance)))
        for number in {world.chance.randrange(ways) for _ in range(4)}:
            run = copied(world.run, world.new())
            what, damage = list(damages(run / file, world.chance))[number]
            damage()
            reading = READ_ONLY[(place + number) % len(READ_ONLY)]
            writing = WRITING[(place + number) % len(WRITING)]
            # report writes a page beside the run's files, and nothing else.
            own = {run / "report.html", run / "report.json"}
            kept = tuple(path for path in run.rglob("*") if path.is_file() and path not in own)
            says = (str(run), run.parent.name)
            yield Case(f"run: {file} {what}, {' '.join(reading)}", command(*reading, run), "either", says, kept)
            yield Case(f"run: {file} {what}, {' '.join(writing)}", command(*writing, run), "either", says)
    for name, change in {
        "no members": {"members": []},
        "a member outside": {"members": ["../../../../etc", "member_01"]},
        "a member by an absolute path": {"members": ["/etc", "member_01"]},
        "weights that are words": {"weights": ["a", "b"]},
        "weights that are not finite": {"weights": [float("nan"), 1.0]},
        "one weight": {"weights": [1.0]},
        "an unknown wiring": {"wiring": "crossed"},
        "widths of nothing": {"widths": "many"},
        "another method": {"method": ["bagged"]},
    }.items():
        run = copied(world.run, world.new())
        _edited(run / "ensembles" / "bagged" / "ensemble.json", **change)
        (run / "ensembles" / "bagged" / "atoms.parquet").unlink()
        fate = "either" if name in ("widths of nothing", "another method") else "refused"
        yield Case(f"run: ensemble.json with {name}", command("index", run), fate, (str(run), "member", "weight"))
    for name, content in {
        "deeply nested": DEEP,
        "without settings": "{}",
        "with other types": '{"format": 1, "settings": [], "finished": 5}',
    }.items():
        for words in (*READ_ONLY, *WRITING):
            run = copied(world.run, world.new())
            (run / "run.json").write_text(content)
            act = command(*words, run)
            yield Case(f"run: run.json {name}, {' '.join(words)}", act, "refused", (str(run / "run.json"),), (run,))
