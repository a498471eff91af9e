"""Loading a Hugging Face model and its tokenizer, from a folder or the hub, with one clear sentence where it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sae_core.activations import embedded, hub
from sae_core.activations.hooked import (
    HookedModel,
    hooked_config,
    hooked_shape,
    is_hooked,
    load_hooked,
    require_transformer_lens,
)
from sae_core.activations.shapes import ModelShape
from sae_core.config import EMBEDDED, ModelSettings
from sae_core.errors import UserError

Result = TypeVar("Result")
_CAUSAL = ("ForCausalLM", "LMHeadModel")


def load_model(settings: ModelSettings, *, device: str) -> tuple[PreTrainedModel | HookedModel, Any]:
    """The model (bfloat16 on a GPU, float32 on the CPU) and its tokenizer. Weights are read from safetensors only.

    Raises:
        UserError: If the model or its tokenizer is missing or unusable, or has no block ``settings.layer``.
    """
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    if is_hooked(settings.name):
        return _load_hooked(settings, device=device, dtype=dtype)
    source, options = _locate(settings)
    config = load_config(settings)
    with _quiet():
        tokenizer = _attempt(
            settings, lambda: AutoTokenizer.from_pretrained(source, **options), what="its tokenizer cannot be loaded"
        )
        kind = AutoModelForCausalLM if is_causal(config) else AutoModel
        model = _attempt(settings, lambda: kind.from_pretrained(source, dtype=dtype, use_safetensors=True, **options))
    return model.eval(), tokenizer


def _load_hooked(settings: ModelSettings, *, device: str, dtype: torch.dtype) -> tuple[HookedModel, Any]:
    require_transformer_lens(settings.name)
    with _quiet():
        model, tokenizer = _attempt(settings, lambda: load_hooked(settings.name, device=device, dtype=dtype))
    _check(model.config, settings)
    return model.eval(), tokenizer


def load_config(settings: ModelSettings) -> Any:
    """The model's configuration, as transformers made it.

    Raises:
        UserError: If the model is missing or unusable, or has no block ``settings.layer``.
    """
    if is_hooked(settings.name):
        require_transformer_lens(settings.name)
        config = _attempt(settings, lambda: hooked_config(settings.name))
        _check(config, settings)
        return config
    source, options = _locate(settings)
    with _quiet():
        config = _attempt(settings, lambda: AutoConfig.from_pretrained(source, **options))
    _check(config, settings)
    return config


def is_causal(config: Any) -> bool:
    """Whether the saved model predicts the next token; else it is an encoder."""
    return any(name.endswith(_CAUSAL) for name in config.architectures or ())


def load_hooked_shape(settings: ModelSettings) -> ModelShape:
    """The shape of a model of TransformerLens, from its configuration.

    Raises:
        UserError: If the package is not installed, or has no such model.
    """
    require_transformer_lens(settings.name)
    return _attempt(settings, lambda: hooked_shape(settings.name))


def block_count(config: Any) -> int:
    """Blocks of the (text part of the) model."""
    return int(config.get_text_config().num_hidden_layers)


def context_length(config: Any, settings: ModelSettings) -> int:
    """Tokens a text is cut to, special ones included: as many as the settings say, but never more than it takes."""
    most = getattr(config.get_text_config(), "max_position_embeddings", None) or settings.context
    return int(min(settings.context, most))


def _locate(settings: ModelSettings) -> tuple[str, dict[str, Any]]:
    """What transformers is to load, and with which options. Without the hub only its local cache is asked."""
    if settings.name == EMBEDDED:
        return str(embedded.model_folder()), {"local_files_only": True}
    folder = Path(settings.name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise UserError(f"The folder {folder} holds no model (no config.json); give one in transformers format.")
        return str(folder), {"local_files_only": True}
    if not hub.is_hub_id(settings.name):
        raise UserError(f"Model {settings.name!r} is neither a folder nor a hub id such as EleutherAI/pythia-70m.")
    return settings.name, {"revision": settings.revision or "main", "local_files_only": not hub.is_reachable()}


def _attempt(settings: ModelSettings, load: Callable[[], Result], *, what: str = "it cannot be loaded") -> Result:
    try:
        return load()
    except Exception as error:  # OSError, ValueError, KeyError, SafetensorError … depending on what is wrong
        local = settings.name == EMBEDDED or Path(settings.name).expanduser().is_dir()
        if not local and not hub.is_reachable():
            raise UserError(
                f"Model {settings.name!r} is neither a folder nor in the local cache, and the hub ({hub.endpoint()}) "
                "cannot be reached; give the path of a model folder, or set model.name to embedded."
            ) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"Model {settings.name!r}: {what} ({reason}); check model.name and model.revision.") from None


def _check(config: Any, settings: ModelSettings) -> None:
    if config.is_encoder_decoder:
        raise UserError(f"Model {settings.name!r} is an encoder-decoder; give a causal language model or an encoder.")
    blocks = getattr(config.get_text_config(), "num_hidden_layers", None)
    if blocks is None:
        raise UserError(f"Model {settings.name!r} ({config.model_type}) is no transformer over text; give another one.")
    if settings.layer >= blocks:
        raise UserError(
            f"Model {settings.name!r} has {blocks} layers, so model.layer must be 0 to {blocks - 1}, "
            f"not {settings.layer}."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing bars and reports: long jobs tell their progress through the callback alone."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
