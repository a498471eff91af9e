"""Members on disk as SAELens 6 reads them: cfg.json and sae_weights.safetensors.

What SAELens knows by another name, as BatchTopK by JumpReLU, says in the metadata what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core import __version__
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json, read_tensor, read_tensors, write_json, write_tensors
from sae_core.foundation.folders import CONFIG, WEIGHTS
from sae_core.sae import ARCHITECTURES, SAE
from sae_core.sae.formats.declaration import Checkpoint, Format, assembled, gated
from sae_core.sae.formats.foreign_files import Fields, checked, form_of, read_safetensors
from sae_core.sae.formats.saelens_config import OF_A_BATCH, Description, read_description, saelens_name

# Readers of SAELens 6 fall back to legacy rules unless the metadata names a version of at least 6.
_SAELENS_VERSION = "6.0.0"
_OF_A_BATCH = {"W_enc": "dn", "b_enc": "n", "W_dec": "nd", "b_dec": "d", "topk_threshold": ""}
_IN_OTHER_FORMS = {
    "gated": {"W_enc": "dn", "W_dec": "nd", "b_dec": "d", "b_gate": "n", "b_mag": "n", "r_mag": "n"},
    **dict.fromkeys(OF_A_BATCH, _OF_A_BATCH),
}
"""The tensors of those architectures that are read as a JumpReLU SAE."""


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
    return _read(read_json(folder / CONFIG), read_tensors(folder / WEIGHTS, device=device), folder)[0]


class SAELens(Format):
    """A folder of SAELens, which is what members of this package are written as, too."""

    title = "SAELens"
    files = (WEIGHTS, CONFIG)

    def read(self, folder: Path) -> Checkpoint:
        """Read the SAE as `load_sae` does, and where its activations come from."""
        files = (folder / WEIGHTS, folder / CONFIG)
        sae, described = _read(Fields(files[1]).values, read_safetensors(files[0]), folder)
        return Checkpoint(sae, f"{self.title} {described.name}", files, described.place)


def _read(config: Any, found: Mapping[str, Tensor], folder: Path) -> tuple[SAE, Description]:
    described = read_description(config, folder / CONFIG)
    tensors = _checked(found, described, folder / WEIGHTS)
    if described.rescaled:
        norms_N = tensors["W_dec"].norm(dim=1)
        tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * norms_N, tensors["b_enc"] * norms_N
        tensors["W_dec"] = tensors["W_dec"] / norms_N.clamp_min(1e-12)[:, None]
    subtracts = described.subtracts_b_dec
    return assembled(described.kind, tensors, subtracts_b_dec=subtracts, **described.options), described


def load_atoms(folder: Path, device: str = "cpu") -> Tensor:
    """The atoms [N, D] of an SAE in either format, without the rest; on the CPU they are mapped into memory.

    Raises:
        UserError: If the file is missing or damaged.
    """
    atoms_ND = read_tensor(folder / WEIGHTS, "W_dec", device=device)
    if atoms_ND.ndim != 2 or not atoms_ND.is_floating_point():
        raise UserError(f"{folder / WEIGHTS} is damaged: W_dec is {form_of(atoms_ND)}, not a table of numbers.")
    return atoms_ND


def _checked(tensors: Mapping[str, Tensor], described: Description, path: Path) -> dict[str, Tensor]:
    """The tensors of an SAE of this package in float32."""
    tensors = dict(tensors)
    factor = tensors.get("scaling_factor")
    if factor is not None and factor.is_floating_point() and bool((factor == 1).all()):
        del tensors["scaling_factor"]  # SAELens wrote it for a while, and leaves it out as well
    sizes = {
        letter: (size, f"{letter} = {size} by {name} in {CONFIG}")
        for letter, size, name in (("d", described.d_in, "d_in"), ("n", described.width, "d_sae"))
    }
    found = checked(tensors, _IN_OTHER_FORMS.get(described.name) or _shapes(described, path), path, sizes=sizes)
    if described.name in OF_A_BATCH:
        threshold_N = found.pop("topk_threshold").clamp_min(0.0).expand(described.width)
        return {**found, "threshold": threshold_N}
    if described.name in _IN_OTHER_FORMS:
        encoder = gated(found["W_enc"], *(found[name] for name in ("b_gate", "b_mag", "r_mag")))
        return {**encoder, "W_dec": found["W_dec"], "b_dec": found["b_dec"]}
    return described.kind.from_saelens(found)


def _shapes(described: Description, path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of an SAE on disk; nothing is allocated."""
    try:
        with torch.device("meta"):
            sae = described.kind(described.d_in, described.width, **described.options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path.with_name(CONFIG)} does not describe a {described.kind.__name__} ({error}).") from None
    return {name: tuple(tensor.shape) for name, tensor in sae.to_saelens().items()}
