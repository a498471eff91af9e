"""What a cfg.json of SAELens says: every key is understood, known to change nothing, or refused by its name.

Sources: the configuration classes of SAELens 6 and, for files without its version, `handle_pre_6_0_config` there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import sae_settings
from sae_core.sae import ARCHITECTURES, SAE
from sae_core.sae.formats.declaration import Place, place_of

_DTYPES = ("float32", "float16", "bfloat16", "float64")
_UNDERSTOOD = {
    *("architecture", "d_in", "d_sae", "dtype", "apply_b_dec_to_input", "metadata", "sae_lens_version"),
    *("normalize_activations", "reshape_activations", "k", "rescale_acts_by_decoder_norm", "finetuning_scaling_factor"),
    *("activation_fn", "activation_fn_str", "activation_fn_kwargs"),
}
_ORIGIN = {
    *("device", "model_name", "model_class_name", "hook_name", "hook_point", "hook_layer", "hook_point_layer"),
    *("hook_head_index", "hook_point_head_index", "hf_hook_name", "prepend_bos", "exclude_special_tokens"),
    *("dataset_path", "dataset_trust_remote_code", "context_size", "seqpos_slice", "model_from_pretrained_kwargs"),
    *("neuronpedia_id", "sae_lens_training_version", "from_pretrained_path", "sparsity_link_path", "filepath"),
}
"""Which activations it was trained on, and where it lies: these change nothing of what it computes."""
_TRAINING = {
    *("decoder_init_norm", "noise_standard_deviation", "l1_coefficient", "lp_norm", "l1_warm_up_steps"),
    *("aux_loss_coefficient", "use_sparse_activations", "jumprelu_init_threshold", "jumprelu_bandwidth"),
    *("jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale", "jumprelu_ste_to_input", "l0_coefficient"),
    *("l0_warm_up_steps", "pre_act_loss_coefficient", "target_l0", "topk_threshold_lr", "mse_loss_normalization"),
    *("scale_sparsity_penalty_by_decoder_norm", "training_tokens", "lr", "seed"),
    *("matryoshka_widths", "use_matryoshka_aux_loss"),
}
"""How it was trained, which changes nothing either."""
_SCALED = "fold the normalisation into the weights before you save it (SAELens has functions for that)"
_PER_TOKEN = "it scales every activation by a factor of its own, which no fixed dictionary undoes"
_REFUSED = {
    "normalize_activations": {
        "expected_average_only_in": f"the factor is not in the folder; {_SCALED}",
        "covariance_whitening": f"the matrices are not in the folder; {_SCALED}",
        "constant_norm_rescale": _PER_TOKEN,
        "layer_norm": _PER_TOKEN,
    },
    "reshape_activations": {"hook_z": "it reads the heads of an attention layer, which no site here gives"},
}


@dataclass(frozen=True, slots=True)
class Description:
    """What a cfg.json says.

    Attributes:
        kind: The class of the SAE.
        d_in: Dimension of the activations, D.
        width: Features, N.
        options: What the class takes beside these.
        name: The architecture, as SAELens calls it.
        place: Which activations it was trained on.
        subtracts_b_dec: Whether b_dec is subtracted before encoding.
        rescaled: Whether preactivations are multiplied by the norms of their atoms before the largest are chosen.
    """

    kind: type[SAE]
    d_in: int
    width: int
    options: dict[str, Any]
    subtracts_b_dec: bool
    rescaled: bool
    name: str
    place: Place


def read_description(config: Any, path: Path) -> Description:
    """What a configuration says.

    Args:
        config: The content of a cfg.json.
        path: Where it lies, for messages.

    Raises:
        UserError: If a key or a value is not one that can be followed; the sentence names it.
    """
    return _Reader(config, path).description()


class _Reader:
    def __init__(self, config: Any, path: Path) -> None:
        self.path = path
        if not isinstance(config, dict):
            raise UserError(f"{path} does not hold an SAE's settings, but {_short(config)}; give an SAELens 6 folder.")
        self.config = config
        if "metadata" in config and not isinstance(config["metadata"], dict):
            raise self.refuse("metadata", config["metadata"], "it has to be a table of settings")
        self.metadata = config.get("metadata", {})
        self.ours = self.of_type("sae_ensemble", dict, {}, of=self.metadata)
        version = config.get("sae_lens_version") or self.metadata.get("sae_lens_version")
        self.legacy = not str(version or "0").split(".")[0].isdigit() or int(str(version or "0").split(".")[0]) < 6

    def refuse(self, key: str, value: Any, reason: str) -> UserError:
        return UserError(f"{self.path}: {key} is {_short(value)}; {reason}.")

    def of_type(self, key: str, kind: type, default: Any, *, of: dict[str, Any]) -> Any:
        value = of.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            names = {dict: "a table of settings", bool: "true or false", int: "a whole number", str: "a name"}
            raise self.refuse(key, value, f"it has to be {names[kind]}")
        return value

    def count(self, key: str, of: dict[str, Any]) -> int:
        value = self.of_type(key, int, None, of=of)
        if value is None:
            raise UserError(f"{self.path} does not say {key}; it is no SAE of SAELens 6, or is damaged.")
        if not 0 < value < 2**31:
            raise self.refuse(key, value, "it has to be positive and smaller than 2^31")
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        return bool(self.of_type(key, bool, default, of=self.config))

    def description(self) -> Description:
        unknown = sorted(self.config.keys() - _UNDERSTOOD - _ORIGIN - _TRAINING)
        if unknown:
            value = self.config[unknown[0]]
            raise self.refuse(unknown[0], value, "what that changes is not known here, so that the SAE is not read")
        self._refuse_normalisation()
        name, kind = self._kind()
        d_in, width = self.count("d_in", self.config), self.count("d_sae", self.config)
        options = self._options(kind)
        if options.get("k", 0) > width:
            raise self.refuse("k", options["k"], f"the SAE has only {width} features (d_sae)")
        rescaled = self.flag("rescale_acts_by_decoder_norm", False)
        if rescaled and not {kind.saelens, name} & {"topk", *OF_A_BATCH}:
            raise self.refuse("rescale_acts_by_decoder_norm", True, "only the architecture topk has that")
        dtype = self.of_type("dtype", str, "float32", of=self.config).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise self.refuse("dtype", dtype, f"known are {', '.join(_DTYPES)}")
        subtracts = self.flag("apply_b_dec_to_input", True)
        return Description(kind, d_in, width, options, subtracts, rescaled, name, self._place())

    def _place(self) -> Place:
        """What the metadata says, or before SAELens 6 the settings themselves."""
        known = {**self.config, **self.metadata}
        words = [known.get(name) for name in ("model_name", "hook_name", "hook_point")]
        model, hook, older = (word if isinstance(word, str) else None for word in words)
        hook = hook or older
        return Place(model) if hook is None else place_of(hook, model)

    def _refuse_normalisation(self) -> None:
        config = dict(self.config)
        if isinstance(config.get("normalize_activations"), bool):  # before SAELens 6
            config["normalize_activations"] = "expected_average_only_in" if config["normalize_activations"] else "none"
        hook = str(config.get("hook_name", config.get("hook_point", "")))
        if self.legacy and config.get("reshape_activations") is None and "hook_z" in hook:
            config["reshape_activations"] = "hook_z"
        for key, reasons in _REFUSED.items():
            value = config.get(key)
            if value not in (None, "none"):
                known = f"known are none, {', '.join(reasons)}"
                raise self.refuse(key, value, reasons.get(value, known) if isinstance(value, str) else known)
        if self.config.get("finetuning_scaling_factor"):
            raise self.refuse("finetuning_scaling_factor", self.config["finetuning_scaling_factor"], "fold it first")

    def _kind(self) -> tuple[str, type[SAE]]:
        default = "standard" if self.legacy and "architecture" not in self.config else None
        name = self.of_type("architecture", str, default, of=self.config)
        activation = self.config.get("activation_fn", self.config.get("activation_fn_str"))
        if activation not in (None, "relu", "topk"):
            raise self.refuse("activation_fn", activation, "known are relu and topk")
        if activation == "topk" and name == "standard":
            name = "topk"
        own = self.of_type("architecture", str, None, of=self.ours)
        if own:
            kind = ARCHITECTURES.get(own)
            kind = kind if kind is not None and name == saelens_name(kind) else None
        else:
            kind = ARCHITECTURES["jumprelu"] if name in _AS_JUMPRELU else _BY_SAELENS.get(name)
        if kind is None:
            known = ", ".join((*_BY_SAELENS, *_AS_JUMPRELU))
            raise UserError(f"{self.path} names the architecture {_short(own or name)}; known: {known}.")
        return name, kind

    def _options(self, kind: type[SAE]) -> dict[str, Any]:
        """What this package has written of an SAE of its own, and what SAELens says of one of its."""
        version = ("version", "architecture")
        options = {name: value for name, value in self.ours.items() if name not in version and value is not None}
        if kind.saelens == "topk":
            arguments = self.of_type("activation_fn_kwargs", dict, {}, of=self.config)
            options["k"] = self.count("k", self.config if "k" in self.config else arguments)
        elif "k" in options or "k" in kind.settings:
            options["k"] = self.count("k", self.ours)
        for name in options.keys() & set(kind.settings):
            try:
                sae_settings().model_validate({name: options[name]}, strict=True)
            except ValidationError as error:
                raise self.refuse(name, options[name], error.errors()[0]["msg"]) from None
        return options


OF_A_BATCH = ("batchtopk", "matryoshka_batchtopk")
"""What SAELens saves of a training that is not turned into JumpReLU yet; their threshold is one number."""
_AS_JUMPRELU = ("gated", *OF_A_BATCH)
"""Architectures of SAELens that compute what a JumpReLU SAE does, with other tensors."""
_BY_SAELENS = {kind.saelens: kind for kind in ARCHITECTURES.values() if kind.saelens}
"""What SAELens means by its names."""


def saelens_name(kind: type[SAE]) -> str:
    """The architecture under which a class is saved: SAELens' own for what is the same, else a name of the class."""
    return kind.saelens or kind.saved_as or kind.__name__


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
