"""Small checkpoints as other tools write them, by format, and what each computes, in plain formulas."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

D, N, K = 6, 24, 3
Tensors = dict[str, Tensor]


def activations() -> Tensor:
    """Activations [40, D]."""
    return torch.randn(40, D, generator=torch.Generator().manual_seed(3))


def drawn(*names: str, seed: int = 0, d: int = D, n: int = N) -> Tensors:
    """Random weights by the names that this package has: W_enc, b_enc, W_dec, b_dec, threshold and those of gates."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (d, n), "W_dec": (n, d), "b_dec": (d,)}
    found = {name: torch.randn(shapes.get(name, (n,)), generator=generator) * 0.5 for name in names}
    if "threshold" in found:
        found["threshold"] = found["threshold"].abs()
    return found


def relu(pre_BN: Tensor, _: Tensors) -> Tensor:
    """Positive preactivations."""
    return pre_BN.relu()


def topk(pre_BN: Tensor, _: Tensors) -> Tensor:
    """The K largest of them."""
    return torch.zeros_like(pre_BN).scatter_(1, *pre_BN.topk(K)[::-1]).relu()


def jump(pre_BN: Tensor, tensors: Tensors) -> Tensor:
    """Those above a threshold."""
    return pre_BN.relu() * (pre_BN > tensors["threshold"])


def computed(
    tensors: Tensors, activate: Callable[[Tensor, Tensors], Tensor], *, subtracts: bool
) -> tuple[Tensor, Tensor]:
    """Coefficients [B, N] and reconstruction [B, D] of `activations`."""
    centred_BD = activations() - tensors["b_dec"] * subtracts
    coefs_BN = activate(centred_BD @ tensors["W_enc"] + tensors["b_enc"], tensors)
    return coefs_BN, coefs_BN @ tensors["W_dec"] + tensors["b_dec"]


def through_gates(tensors: Tensors) -> tuple[Tensor, Tensor]:
    """The same of a gated SAE."""
    z_BN = (activations() - tensors["b_dec"]) @ tensors["W_enc"]
    opened_BN = z_BN + tensors["b_gate"] > 0
    coefs_BN = opened_BN * (tensors["r_mag"].exp() * z_BN + tensors["b_mag"]).relu()
    return coefs_BN, coefs_BN @ tensors["W_dec"] + tensors["b_dec"]


@dataclass(frozen=True, slots=True)
class Written:
    """One checkpoint.

    Attributes:
        folder: Where it lies.
        kind: What reading it says that it is.
        coefs_BN: What it makes of `activations`.
        recon_BD: The same.
        place: The model, layer and site that it says.
    """

    folder: Path
    kind: str
    coefs_BN: Tensor
    recon_BD: Tensor
    place: tuple[str | None, int | None, str | None] = field(default=(None, None, None))


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _linear(found: Tensors) -> Tensors:
    """The tensors of torch's linear layers."""
    return {
        "encoder.weight": found["W_enc"].T.contiguous(),
        "encoder.bias": found["b_enc"],
        "decoder.weight": found["W_dec"].T.contiguous(),
    }


def dictionary_learning(folder: Path, kind: str) -> Written:
    """A trainer's folder."""
    plain, gates = ("W_enc", "b_enc", "W_dec", "b_dec"), ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")
    found = drawn(*(gates if kind == "GatedAutoEncoder" else plain), "threshold")
    k: Mapping[str, Any] = {}
    if kind == "AutoEncoder":
        tensors, out = {**_linear(found), "bias": found["b_dec"]}, computed(found, relu, subtracts=True)
        out = out[0] * found["W_dec"].norm(dim=1), out[1]  # load_dictionary makes atoms of unit norm
    elif kind == "AutoEncoderNew":
        tensors, out = {**_linear(found), "decoder.bias": found["b_dec"]}, computed(found, relu, subtracts=False)
    elif kind == "GatedAutoEncoder":
        named = {"decoder_bias": "b_dec", "r_mag": "r_mag", "gate_bias": "b_gate", "mag_bias": "b_mag"}
        tensors = {"encoder.weight": found["W_enc"].T.contiguous(), "decoder.weight": found["W_dec"].T.contiguous()}
        tensors, out = {**tensors, **{one: found[own] for one, own in named.items()}}, through_gates(found)
    elif kind == "JumpReluAutoEncoder":
        tensors, out = dict(found), computed(found, jump, subtracts=False)
    else:
        k, found["threshold"] = {"k": K}, torch.tensor(0.7)
        out = computed(found, topk if kind == "AutoEncoderTopK" else jump, subtracts=True)
        matryoshka = kind == "MatryoshkaBatchTopKSAE"
        tensors = {name: found[name] for name in plain} if matryoshka else {**_linear(found), "b_dec": found["b_dec"]}
        tensors |= {"k": torch.tensor(K, dtype=torch.int), "threshold": found["threshold"]}
        tensors |= {"group_sizes": torch.tensor([8, 16])} if matryoshka else {}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / "ae.pt")
    names = {"lm_name": "EleutherAI/pythia-70m", "layer": 3, "submodule_name": "mlp_layer_3"}
    trainer = {"dict_class": kind, "activation_dim": D, "dict_size": N, **names, **k}
    _json(folder / "config.json", {"trainer": trainer, "buffer": {"ctx_len": 128}})
    return Written(folder, f"dictionary_learning {kind}", *out, ("EleutherAI/pythia-70m", 3, "mlp"))


def groupmax(pre_BN: Tensor, _: Tensors) -> Tensor:
    """The largest of each of K groups of neighbours."""
    groups_BKG = pre_BN.unflatten(1, (K, N // K))
    return (groups_BKG * (groups_BKG == groups_BKG.amax(dim=2, keepdim=True))).flatten(1).relu()


def sparsify(folder: Path, activation: str = "topk") -> Written:
    """The folder of a hookpoint, with the training's settings beside it."""
    found = drawn("W_enc", "b_enc", "W_dec", "b_dec")
    folder = folder / "layers.5"
    settings = {"activation": activation, "expansion_factor": 4, "normalize_decoder": True, "num_latents": 0, "k": K}
    _json(
        folder / "cfg.json", {**settings, "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D}
    )
    _json(folder.parent / "config.json", {"model": "EleutherAI/pythia-160m"})
    tensors = _linear(found) | {"W_dec": found["W_dec"], "b_dec": found["b_dec"]}
    del tensors["decoder.weight"]
    save_file(tensors, folder / "sae.safetensors")
    out = computed(found, topk if activation == "topk" else groupmax, subtracts=True)
    return Written(folder, f"sparsify {activation}", *out, ("EleutherAI/pythia-160m", 5, "residual"))


def gemma_scope(folder: Path, _: str = "") -> Written:
    """An archive of NumPy in folders that say which activations it is of."""
    found = drawn("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    folder = folder / "gemma-scope-2b-pt-res" / "layer_12" / "width_16k" / "average_l0_82"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in found.items()})  # type: ignore[arg-type]
    out = computed(found, jump, subtracts=False)
    return Written(folder, "Gemma Scope", *out, ("google/gemma-2-2b", 12, "residual"))


def gemma_scope_2(folder: Path, _: str = "") -> Written:
    """The same for Gemma 3."""
    found = drawn("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    said = {"architecture": "jump_relu", "model_name": "gemma-v3-270m-pt", "hf_hook_point_in": "model.layers.5.output"}
    _json(folder / "config.json", said)
    save_file({name.lower(): tensor for name, tensor in found.items()}, folder / "params.safetensors")
    out = computed(found, jump, subtracts=False)
    return Written(folder, "Gemma Scope 2", *out, ("google/gemma-3-270m", 5, "residual"))


def llama_scope(folder: Path, _: str = "") -> Written:
    """Activations scaled to a mean norm of √D."""
    found, norm = drawn("W_enc", "b_enc", "W_dec", "b_dec"), 2.0
    folder, scale = folder / "Llama3_1-8B-Base-L15R-8x", D**0.5 / norm
    names = {"hook_point_in": "blocks.15.hook_resid_post", "hook_point_out": "blocks.15.hook_resid_post"}
    said = {
        "d_model": D,
        "d_sae": N,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.4,
        "norm_activation": "dataset-wise",
    }
    norms = {"dataset_average_activation_norm": {"in": norm, "out": norm}}
    _json(folder / "hyperparams.json", {**said, **norms, **names, "use_decoder_bias": True, "top_k": 50})
    (folder / "checkpoints").mkdir()
    save_file({**_linear(found), "decoder.bias": found["b_dec"]}, folder / "checkpoints" / "final.safetensors")
    pre_BN = scale * activations() @ found["W_enc"] + found["b_enc"]
    coefs_BN = pre_BN.relu() * (pre_BN > 0.4 * scale)
    recon_BD = (coefs_BN @ found["W_dec"] + found["b_dec"]) / scale
    return Written(folder, "Llama Scope", coefs_BN, recon_BD, ("meta-llama/Llama-3.1-8B", 15, "residual"))


def saelens(folder: Path, kind: str = "gated") -> Written:
    """A folder of SAELens; of what a training saved, the threshold of the whole batch."""
    said = {"architecture": kind, "d_in": D, "d_sae": N, "dtype": "float32", "normalize_activations": "none"}
    place = {"model_name": "EleutherAI/pythia-70m", "hook_name": "blocks.3.hook_resid_pre"}
    if kind == "gated":
        found = drawn("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")
        out = through_gates(found)
    else:
        found = drawn("W_enc", "b_enc", "W_dec", "b_dec")
        out = computed({**found, "threshold": torch.tensor(0.3)}, jump, subtracts=True)
        found["topk_threshold"] = torch.tensor(0.3, dtype=torch.float64)
        said |= {"k": 2.5, "rescale_acts_by_decoder_norm": False, "topk_threshold_lr": 0.01}
        said |= {"matryoshka_widths": [8, N]} if kind.startswith("matryoshka") else {}
    _json(folder / "cfg.json", {**said, "metadata": {"sae_lens_version": "6.54.0", **place}})
    save_file(found, folder / "sae_weights.safetensors")
    return Written(folder, f"SAELens {kind}", *out, ("EleutherAI/pythia-70m", 2, "residual"))


CLASSES = (
    *("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "AutoEncoderTopK"),
    *("BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"),
)
"""Those of dictionary_learning."""
WRITERS: dict[str, tuple[Callable[[Path, str], Written], str]] = {
    **{f"dictionary_learning {kind}": (dictionary_learning, kind) for kind in CLASSES},
    "sparsify": (sparsify, "topk"),
    "sparsify groupmax": (sparsify, "groupmax"),
    "gemma_scope": (gemma_scope, ""),
    "gemma_scope_2": (gemma_scope_2, ""),
    "llama_scope": (llama_scope, ""),
    **{f"saelens {kind}": (saelens, kind) for kind in ("gated", "batchtopk", "matryoshka_batchtopk")},
}


def written(name: str, folder: Path) -> Written:
    """Write the checkpoint of that name."""
    write, kind = WRITERS[name]
    return write(folder, kind)
