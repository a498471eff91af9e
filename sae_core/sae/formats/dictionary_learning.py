"""Checkpoints of dictionary_learning (Marks, Karvonen, Mueller): ``ae.pt``, a state_dict, and ``config.json``.

Source: dictionary_learning 0.1.0, `dictionary.py`, `trainers/` and `utils.load_dictionary`.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from sae_core.foundation.settings.run_settings import Site
from sae_core.sae import SAE
from sae_core.sae.formats.declaration import Checkpoint, Format, Place, assembled, gated
from sae_core.sae.formats.foreign_files import Fields, checked, read_torch, required_k

_LINEAR = {"encoder.weight": "nd", "encoder.bias": "n", "decoder.weight": "dn"}
_PLAIN = {"W_enc": "dn", "b_enc": "n", "W_dec": "nd", "b_dec": "d"}
_SHAPES = {
    "AutoEncoder": {**_LINEAR, "bias": "d"},
    "AutoEncoderNew": {**_LINEAR, "decoder.bias": "d"},
    "GatedAutoEncoder": {
        **{"encoder.weight": "nd", "decoder.weight": "dn", "decoder_bias": "d"},
        **{"r_mag": "n", "gate_bias": "n", "mag_bias": "n"},
    },
    "AutoEncoderTopK": {**_LINEAR, "b_dec": "d"},
    "BatchTopKSAE": {**_LINEAR, "b_dec": "d", "threshold": ""},
    "MatryoshkaBatchTopKSAE": {**_PLAIN, "threshold": ""},
    "JumpReluAutoEncoder": {**_PLAIN, "threshold": "n"},
}
"""The tensors of each class (``dict_class``) that `load_dictionary` knows: n features, d dimensions."""
_PASSED_OVER = ("k", "threshold", "group_sizes")
"""Tensors that may lie beside them: ``k`` is checked, a TopK SAE does not use its threshold, groups are of training."""


class DictionaryLearning(Format):
    """One trainer's folder."""

    title = "dictionary_learning"
    files = ("ae.pt", "config.json")

    def read(self, folder: Path) -> Checkpoint:
        """Read the SAE as `load_dictionary` does; that of the class AutoEncoder gets atoms of unit norm, as there."""
        weights, config = (folder / name for name in self.files)
        trainer = Fields(config).table("trainer")
        kind = trainer.name("dict_class")
        if kind not in _SHAPES:
            raise trainer.refuse("dict_class", f"known are {', '.join(_SHAPES)}")
        sizes = {
            letter: (trainer.count(name), f"{letter} = {trainer.count(name)} by trainer.{name}")
            for letter, name in (("d", "activation_dim"), ("n", "dict_size"))
        }
        tensors = read_torch(weights)
        options = {}
        if kind in ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
            options["k"] = trainer.count("k")
            if options["k"] > sizes["n"][0]:
                raise trainer.refuse("k", f"the SAE has only {sizes['n'][0]} features")
            required_k(tensors, options["k"], weights, f"trainer.k in {config.name}")
        found = checked(tensors, _SHAPES[kind], weights, sizes=sizes, passed_over=_PASSED_OVER)
        sae = _sae(kind, found, options)
        remarks = (
            (f"The threshold of {weights} is not set, so that every positive preactivation is active.",)
            if "k" in options and "threshold" in found and float(found["threshold"]) < 0
            else ()
        )
        return Checkpoint(sae, f"{self.title} {kind}", (weights, config), _place(trainer), remarks)


def _sae(kind: str, found: dict[str, Tensor], options: dict[str, int]) -> SAE:
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        architecture = "jumprelu" if kind == "JumpReluAutoEncoder" else "batchtopk"
        return assembled(architecture, found, subtracts_b_dec=architecture == "batchtopk", **options)
    W_enc_DN, W_dec_ND = found["encoder.weight"].T, found["decoder.weight"].T
    if kind == "GatedAutoEncoder":
        encoder = gated(W_enc_DN, found["gate_bias"], found["mag_bias"], found["r_mag"])
        return assembled(
            "jumprelu", {**encoder, "W_dec": W_dec_ND, "b_dec": found["decoder_bias"]}, subtracts_b_dec=True
        )
    b_enc_N, b_dec_D = found["encoder.bias"], found[next(name for name in _BIASES if name in found)]
    if kind == "AutoEncoder":
        norms_N = W_dec_ND.norm(dim=1).clamp_min(1e-12)
        W_enc_DN, b_enc_N, W_dec_ND = W_enc_DN * norms_N, b_enc_N * norms_N, W_dec_ND / norms_N[:, None]
    tensors = {"W_enc": W_enc_DN, "b_enc": b_enc_N, "W_dec": W_dec_ND, "b_dec": b_dec_D}
    if kind == "BatchTopKSAE":
        tensors["threshold"] = found["threshold"]
    return assembled(_HERE[kind], tensors, subtracts_b_dec=kind != "AutoEncoderNew", **options)


_BIASES = ("bias", "b_dec", "decoder.bias")
_HERE = {"AutoEncoder": "relu", "AutoEncoderNew": "relu", "AutoEncoderTopK": "topk", "BatchTopKSAE": "batchtopk"}


def _place(trainer: Fields) -> Place:
    """The model, the layer, and the site as far as ``submodule_name`` says it."""
    model, hook, layer = trainer.name("lm_name"), trainer.name("submodule_name"), trainer.values.get("layer")
    numbered = isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0
    begins: dict[str, Site] = {"resid_post": "residual", "mlp": "mlp", "att": "attention"}
    site = next((site for word, site in begins.items() if (hook or "").startswith(word)), None)
    return Place(model, layer if numbered else None, site, hook)
