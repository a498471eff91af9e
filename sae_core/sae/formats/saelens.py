"""Members on disk as SAELens 6 reads them: cfg.json and sae_weights.safetensors.

What SAELens knows by another name, as BatchTopK by JumpReLU, says in the metadata what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sae_core import __version__
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json, read_tensor, read_tensors, write_json, write_tensors
from sae_core.foundation.folders import CONFIG, WEIGHTS
from sae_core.sae import ARCHITECTURES, SAE
from sae_core.sae.formats.saelens_config import Description, read_description, saelens_name

# Readers of SAELens 6 fall back to legacy rules unless the metadata names a version of at least 6.
_SAELENS_VERSION = "6.0.0"


def save_sae(sae: SAE, folder: Path) -> None:
    """Write one SAE; the configuration comes last, so that a folder that has one is whole.

    Raises:
        UserError: If its class is not the one of its architecture, so that another one would be read back.
    """
    if ARCHITECTURES.get(sae.architecture) is not type(sae):
        raise UserError(
            f"{type(sae).__name__} calls its architecture {sae.architecture}, which is another class; give it a name "
            "of its own (`architecture`)."
        )
    topk = {"k": sae.options["k"], "rescale_acts_by_decoder_norm": False} if sae.saelens == "topk" else {}
    config = {
        "architecture": saelens_name(type(sae)),
        "d_in": sae.d_in,
        "d_sae": sae.width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **topk,
        "metadata": {
            "sae_lens_version": _SAELENS_VERSION,
            "sae_ensemble": {"version": __version__, "architecture": sae.architecture, **sae.options},
        },
    }
    write_tensors(folder / WEIGHTS, sae.to_saelens())
    write_json(folder / CONFIG, config)


def load_sae(folder: Path, device: str = "cpu") -> SAE:
    """Read an SAE that `save_sae`, or SAELens 6 (standard, topk, jumprelu), wrote; ready for inference.

    Settings of SAELens that can be folded into the weights are: whether b_dec is subtracted before encoding, and
    whether preactivations are rescaled by the norms of atoms.

    Raises:
        UserError: If a file is missing or damaged, a setting cannot be followed, or a tensor is missing, unknown, of
            another shape, or holds what is not a number.
    """
    described = read_description(read_json(folder / CONFIG), folder / CONFIG)
    tensors = _checked(read_tensors(folder / WEIGHTS, device=device), described, folder / WEIGHTS)
    if described.rescaled:
        norms_N = tensors["W_dec"].norm(dim=1)
        tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * norms_N, tensors["b_enc"] * norms_N
        tensors["W_dec"] = tensors["W_dec"] / norms_N.clamp_min(1e-12)[:, None]
    if not described.subtracts_b_dec:
        # Here b_dec is always subtracted before encoding; the encoder's bias takes that back.
        tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    sae = described.kind(described.d_in, described.width, **described.options).to(device)
    sae.load_state_dict(tensors)
    return sae.eval()


def load_atoms(folder: Path, device: str = "cpu") -> Tensor:
    """The atoms [N, D] of an SAE in either format, without the rest; on the CPU they are mapped into memory.

    Raises:
        UserError: If the file is missing or damaged.
    """
    atoms_ND = read_tensor(folder / WEIGHTS, "W_dec", device=device)
    if atoms_ND.ndim != 2 or not atoms_ND.is_floating_point():
        raise UserError(f"{folder / WEIGHTS} is damaged: W_dec is {_form(atoms_ND)}, not a table of numbers.")
    return atoms_ND


def _checked(tensors: Mapping[str, Tensor], described: Description, path: Path) -> dict[str, Tensor]:
    """The tensors of an SAE in float32."""
    tensors = dict(tensors)
    factor = tensors.get("scaling_factor")
    if factor is not None and factor.is_floating_point() and bool((factor == 1).all()):
        del tensors["scaling_factor"]  # SAELens wrote it for a while, and leaves it out as well
    expected = _shapes(described, path)
    for wrong, what in ((expected.keys() - tensors.keys(), "lacks"), (tensors.keys() - expected.keys(), "also holds")):
        if wrong:
            raise UserError(
                f"{path} {what} the tensor {min(wrong)}; an SAE of the architecture "
                f"{described.kind.architecture} has {', '.join(expected)}."
            )
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise UserError(
                f"{path}: the tensor {name} is {_form(tensor)}, but d_in {described.d_in} and d_sae {described.width} "
                f"in {CONFIG} need floats of shape {list(shape)}."
            )
        tensors[name] = tensor.float()
        if not all(bool(bound.isfinite()) for bound in tensors[name].aminmax()):
            raise UserError(f"{path}: the tensor {name} holds NaN or infinity; save the SAE again.")
    return described.kind.from_saelens(tensors)


def _shapes(described: Description, path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of an SAE on disk; nothing is allocated."""
    try:
        with torch.device("meta"):
            sae = described.kind(described.d_in, described.width, **described.options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path.with_name(CONFIG)} does not describe a {described.kind.__name__} ({error}).") from None
    return {name: tuple(tensor.shape) for name, tensor in sae.to_saelens().items()}


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {list(tensor.shape)}"
