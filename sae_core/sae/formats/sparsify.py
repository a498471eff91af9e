"""Checkpoints of sparsify (EleutherAI): ``sae.safetensors`` and ``cfg.json`` in a folder named after the module.

Source: eai-sparsify 1.3.3, `SparseCoder`.
"""

from __future__ import annotations

from pathlib import Path

from sae_core.sae.formats.declaration import Checkpoint, Format, Place, assembled, place_of
from sae_core.sae.formats.foreign_files import Fields, checked, read_safetensors

_KNOWN = {"activation", "expansion_factor", "normalize_decoder", "num_latents", "k", "multi_topk", "d_in"}
"""Settings that are understood, or tell only how it was trained."""
_ELSEWHERE = {
    "transcode": "it predicts what a module gives from what it reads, which is no autoencoder",
    "skip_connection": "it adds a linear map of the activation, which no dictionary holds",
}
_ACTIVATIONS = {"topk": "topk", "groupmax": "groupmax"}
"""The architecture here for each ``activation``."""


class Sparsify(Format):
    """The folder of one hookpoint."""

    title = "sparsify"
    files = ("sae.safetensors", "cfg.json")

    def read(self, folder: Path) -> Checkpoint:
        """Read the SAE as `SparseCoder.load_from_disk` does."""
        weights, config = (folder / name for name in self.files)
        fields = Fields(config)
        for name, reason in _ELSEWHERE.items():
            if fields.flag(name, False):
                raise fields.refuse(name, reason)
        if unknown := sorted(fields.values.keys() - _KNOWN - _ELSEWHERE.keys()):
            raise fields.refuse(unknown[0], "what that changes is not known here, so that the SAE is not read")
        activation = fields.name("activation") or "topk"
        if activation not in _ACTIVATIONS:
            raise fields.refuse("activation", f"known are {', '.join(_ACTIVATIONS)}")
        d_in, k, width = fields.count("d_in"), fields.count("k"), fields.values.get("num_latents") or 0
        said = "num_latents" if width else "d_in times expansion_factor"
        width = fields.count("num_latents") if width else d_in * fields.count("expansion_factor")
        if k > width:
            raise fields.refuse("k", f"the SAE has only {width} features")
        found = checked(
            read_safetensors(weights),
            {"encoder.weight": "nd", "encoder.bias": "n", "W_dec": "nd", "b_dec": "d"},
            weights,
            sizes={"d": (d_in, f"d = {d_in} by d_in"), "n": (width, f"n = {width} by {said}")},
        )
        if activation == "groupmax" and width % k:  # sparsify would not read it either
            raise fields.refuse("k", f"the {width} features do not fall into as many groups of one size")
        tensors = {"W_enc": found["encoder.weight"].T, "b_enc": found["encoder.bias"]}
        tensors |= {name: found[name] for name in ("W_dec", "b_dec")}
        sae = assembled(_ACTIVATIONS[activation], tensors, subtracts_b_dec=True, k=k)
        return Checkpoint(sae, f"{self.title} {activation}", (weights, config), _place(folder))


def _place(folder: Path) -> Place:
    """The folder is named after the module; the training's settings beside it name the model."""
    folder = folder.absolute()
    beside = folder.parent / "config.json"
    model = Fields(beside).name("model") if beside.is_file() else None
    is_module = "." in folder.name or folder.name == "embed_tokens"
    return place_of(folder.name, model) if is_module else Place(model)
