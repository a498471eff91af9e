"""Members on disk as SAELens 6 reads them: cfg.json and sae_weights.safetensors.

BatchTopK is stored as JumpReLU with one constant threshold, as the field does; what it was is kept in the metadata.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sae_core import __version__
from sae_core.errors import UserError
from sae_core.files import read_json, read_tensor, read_tensors, write_json, write_tensors
from sae_core.folders import CONFIG, WEIGHTS
from sae_core.sae.base import SAE
from sae_core.sae.batch_topk import BatchTopKSAE
from sae_core.sae.jumprelu import JumpReLUSAE
from sae_core.sae.relu import ReLUSAE
from sae_core.sae.topk import TopKSAE

_SAELENS_NAMES = {"relu": "standard", "topk": "topk", "batchtopk": "jumprelu", "jumprelu": "jumprelu"}
# Readers of SAELens 6 fall back to legacy rules unless the metadata names a version of at least 6.
_SAELENS_VERSION = "6.0.0"


def save_sae(sae: SAE, folder: Path) -> None:
    """Write one SAE; the configuration comes last, so that a folder that has one is whole."""
    tensors = {name: getattr(sae, name).detach().float() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    options: dict[str, Any] = {}
    if isinstance(sae, TopKSAE):
        options = {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    elif isinstance(sae, JumpReLUSAE):
        tensors["threshold"] = sae.threshold.detach().float()
    elif isinstance(sae, BatchTopKSAE):
        tensors["threshold"] = sae.threshold.detach().float().clamp_min(0.0).expand(sae.width)
    config = {
        "architecture": _SAELENS_NAMES[sae.architecture],
        "d_in": sae.d_in,
        "d_sae": sae.width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **options,
        "metadata": {
            "sae_lens_version": _SAELENS_VERSION,
            "sae_ensemble": {
                "version": __version__,
                "architecture": sae.architecture,
                "k": getattr(sae, "k", None),
                "bandwidth": getattr(sae, "bandwidth", None),
            },
        },
    }
    write_tensors(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, config)


def load_sae(folder: Path, device: str = "cpu") -> SAE:
    """Read an SAE that `save_sae`, or SAELens 6 (standard, topk, jumprelu), wrote; ready for inference.

    Raises:
        UserError: If a file is missing or damaged, or the architecture or a shape is not one this reader knows.
    """
    config, tensors = read_json(folder / CONFIG), read_tensors(folder / WEIGHTS, device=device)
    try:
        sae = _empty_sae(config, folder)
        if isinstance(sae, BatchTopKSAE):
            tensors["threshold"] = tensors["threshold"].max()
        if not config.get("apply_b_dec_to_input", False):
            # Here b_dec is always subtracted before encoding; the encoder's bias takes that back.
            tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
        sae.to(device).load_state_dict(tensors)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{folder} does not hold an SAE in SAELens 6 format ({reason}).") from None
    return sae.eval()


def load_atoms(folder: Path, device: str = "cpu") -> torch.Tensor:
    """The atoms [N, D] of an SAE in either format, without the rest; on the CPU they are mapped into memory.

    Raises:
        UserError: If the file is missing or damaged.
    """
    return read_tensor(folder / WEIGHTS, "W_dec", device=device)


def _empty_sae(config: dict[str, Any], folder: Path) -> SAE:
    ours = config.get("metadata", {}).get("sae_ensemble", {})
    architecture = ours.get("architecture") or {"standard": "relu"}.get(config["architecture"], config["architecture"])
    d_in, width = int(config["d_in"]), int(config["d_sae"])
    with torch.random.fork_rng(devices=[]):
        match architecture:
            case "relu":
                return ReLUSAE(d_in, width)
            case "topk":
                return TopKSAE(d_in, width, k=int(config["k"]))
            case "batchtopk":
                return BatchTopKSAE(d_in, width, k=int(ours["k"]))
            case "jumprelu":
                return JumpReLUSAE(d_in, width, bandwidth=float(ours.get("bandwidth") or 0.03))
    raise UserError(f"{folder / CONFIG} names the architecture {architecture!r}; known: standard, topk, jumprelu.")
