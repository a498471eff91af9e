"""Llama Scope (He et al. 2024, 2410.20526): ``checkpoints/final.safetensors`` and ``hyperparams.json``.

Sources: the loader of SAELens 6.54 and, for norms of atoms, `encode` of Language-Model-SAEs. An activation is scaled so
that √D is its mean norm over the data set; the factor is folded into the weights, as SAELens folds it. The threshold is
said for coefficients before scaling.
"""

from __future__ import annotations

from pathlib import Path

import torch

from sae_core.sae.formats.declaration import Checkpoint, Format, assembled, place_of
from sae_core.sae.formats.foreign_files import Fields, checked, read_safetensors

_SCALED, _PLAIN = "dataset-wise", "inference"


class LlamaScope(Format):
    """A folder such as ``Llama3_1-8B-Base-L15R-8x``."""

    title = "Llama Scope"
    files = ("checkpoints/final.safetensors", "hyperparams.json")

    def read(self, folder: Path) -> Checkpoint:
        """Read the SAE, with the scale of activations folded in."""
        weights, config = (folder / name for name in self.files)
        fields = Fields(config)
        _refuse_what_is_no_sae(fields)
        d_in, width = fields.count("d_model"), fields.count("d_sae")
        found = checked(
            read_safetensors(weights),
            {"encoder.weight": "nd", "encoder.bias": "n", "decoder.weight": "dn", "decoder.bias": "d"},
            weights,
            sizes={"d": (d_in, f"d = {d_in} by d_model"), "n": (width, f"n = {width} by d_sae")},
        )
        scale = _scale(fields, d_in)
        W_dec_ND = found["decoder.weight"].T
        threshold_N = torch.full((width,), fields.number("jump_relu_threshold") * scale)
        if fields.flag("sparsity_include_decoder_norm", False):
            threshold_N = threshold_N / W_dec_ND.norm(dim=1).clamp_min(1e-12)
        tensors = {
            "W_enc": scale * found["encoder.weight"].T,
            "b_enc": found["encoder.bias"],
            "W_dec": W_dec_ND / scale,
            "b_dec": found["decoder.bias"] / scale,
            "threshold": threshold_N,
        }
        subtracts = fields.flag("apply_decoder_bias_to_pre_encoder", False)
        sae = assembled("jumprelu", tensors, subtracts_b_dec=subtracts)
        place = place_of(fields.name("hook_point_in") or "", _model(folder))
        return Checkpoint(sae, self.title, (weights, config), place)


def _refuse_what_is_no_sae(fields: Fields) -> None:
    into, out = fields.name("hook_point_in"), fields.name("hook_point_out")
    if out is not None and out != into:
        raise fields.refuse("hook_point_out", f"it reads {into}, so that it is no autoencoder")
    if (fields.name("act_fn") or "jumprelu").lower() != "jumprelu":
        raise fields.refuse("act_fn", "known is jumprelu")
    if not fields.flag("use_decoder_bias", True):
        raise fields.refuse("use_decoder_bias", "the SAEs of Llama Scope have a decoder bias")
    if (fields.name("norm_activation") or _SCALED) not in (_SCALED, _PLAIN):
        raise fields.refuse("norm_activation", f"known are {_SCALED} and {_PLAIN}")


def _scale(fields: Fields, d_in: int) -> float:
    if fields.name("norm_activation") == _PLAIN:
        return 1.0
    norms = fields.table("dataset_average_activation_norm")
    if norms.values.get("out", norms.values.get("in")) != norms.values.get("in"):
        raise norms.refuse("out", f"it is another norm than that of what is read ({norms.values.get('in')})")
    return float(d_in**0.5 / norms.number("in"))


def _model(folder: Path) -> str | None:
    """The model is in the folder's name alone."""
    return "meta-llama/Llama-3.1-8B" if folder.absolute().name.startswith("Llama3_1-8B-Base-") else None
