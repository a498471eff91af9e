"""Gemma Scope (Lieberum et al. 2024) and Gemma Scope 2: JumpReLU SAEs that do not subtract b_dec before encoding.

Sources: the tutorial of the first and the loaders of SAELens 6.54. The files do not say which activations they are
of: the folders and the repository are named after the place, and in the second a ``config.json`` is.
"""

from __future__ import annotations

import re
from pathlib import Path

from sae_core.sae.formats.declaration import Checkpoint, Format, Place, assembled, place_of
from sae_core.sae.formats.foreign_files import Fields, checked, read_npz, read_safetensors

_SHAPES = {"W_enc": "dn", "b_enc": "n", "W_dec": "nd", "b_dec": "d", "threshold": "n"}


class GemmaScope(Format):
    """A folder such as ``layer_12/width_16k/average_l0_82``."""

    title = "Gemma Scope"
    files = ("params.npz",)

    def read(self, folder: Path) -> Checkpoint:
        """Read the parameters."""
        weights = folder / self.files[0]
        found = checked(read_npz(weights), _SHAPES, weights)
        return Checkpoint(assembled("jumprelu", found, subtracts_b_dec=False), self.title, (weights,), _place(weights))


class GemmaScope2(Format):
    """A folder such as ``resid_post/layer_12_width_16k_l0_small``."""

    title = "Gemma Scope 2"
    files = ("params.safetensors", "config.json")

    def read(self, folder: Path) -> Checkpoint:
        """Read the parameters, whose names are in small letters."""
        weights, config = (folder / name for name in self.files)
        fields = Fields(config)
        if fields.name("architecture") != "jump_relu":
            raise fields.refuse("architecture", "known is jump_relu")
        if fields.flag("affine_connection", False):
            raise fields.refuse(
                "affine_connection", "it adds a linear map of the activation, which no dictionary holds"
            )
        into, out = fields.name("hf_hook_point_in") or "", fields.name("hf_hook_point_out") or ""
        if out and into and out != into:
            raise fields.refuse("hf_hook_point_out", f"it reads {into}, so that it is no autoencoder")
        shapes = {name.lower(): letters for name, letters in _SHAPES.items()}
        found = checked(read_safetensors(weights), shapes, weights)
        sae = assembled("jumprelu", {name: found[name.lower()] for name in _SHAPES}, subtracts_b_dec=False)
        model = _hub_name(fields.name("model_name"))
        place = place_of(into, model) if into else Place(model)
        return Checkpoint(sae, self.title, (weights, config), place)


def _hub_name(model: str | None) -> str | None:
    """The hub's name for a model that the files call ``gemma-v3-1b-it``; the smallest has no ``-pt`` there."""
    if model is None:
        return None
    name = model.replace("-v3", "-3").removeprefix("google/")
    return f"google/{name.removesuffix('-pt') if '270m' in name else name}"


def _place(weights: Path) -> Place:
    """What the names of the folders say: ``gemma-scope-2b-pt-res/layer_12/…``."""
    named = weights.absolute().as_posix()  # links are not followed: the hub's cache is made of them
    layer, scope = re.search(r"/layer_(\d+)/", named), re.search(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att)\b", named)
    number = int(layer[1]) if layer else None
    if scope is None:
        return Place(layer=number)
    model = f"google/gemma-2-{scope[1]}" + ("-it" if scope[2] == "it" else "")
    if scope[3] == "att":  # of the heads, before they are added up
        return Place(model, hook=f"blocks.{number}.attn.hook_z")
    return Place(model, number, "residual" if scope[3] == "res" else "mlp", scope[0])
