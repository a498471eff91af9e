"""Loading a Hugging Face model and its tokenizer, from a folder or the hub, with one clear sentence where it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.utils import logging as transformers_logging

from sae_core.activations.origins.language_model.model import embedded_model as embedded
from sae_core.activations.origins.language_model.model.gguf_files import gguf_file, require_gguf, without_gguf_bars
from sae_core.activations.origins.language_model.model.hooked import (
    HookedModel,
    hooked_config,
    hooked_shape,
    is_hooked,
    load_hooked,
    require_transformer_lens,
)
from sae_core.activations.origins.language_model.model.nature import refuse_layer
from sae_core.activations.origins.language_model.model.running import reason_of, run_model
from sae_core.activations.origins.language_model.model.shapes import ModelShape
from sae_core.activations.origins.language_model.model.spreading import refuse_spread, spread_options
from sae_core.activations.origins.language_model.model.stored import refuse_codes, weight_files
from sae_core.activations.origins.language_model.model.weights import Weights
from sae_core.activations.origins.text import hub
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import ModelSettings

Result = TypeVar("Result")


class Loaded(NamedTuple):
    """A model, its tokenizer, and how the files fit it."""

    model: PreTrainedModel | HookedModel
    tokenizer: Any
    weights: Weights


def load_model(settings: ModelSettings, *, device: str) -> Loaded:
    """The model (bfloat16 on a GPU if it runs in that, else float32) and its tokenizer.

    Weights are read from safetensors only; with the head if the files are those of a model that predicts the next
    token, else without one. What the files lack is filled at random by transformers: whoever uses the model must look
    at ``weights``.

    Raises:
        UserError: If the model or its tokenizer is missing or unusable, or has no block ``settings.layer``.
    """
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    if is_hooked(settings.name):
        refuse_spread(settings)
        return _load_hooked(settings, device=device, dtype=dtype)
    source, options = _locate(settings)
    config, spread = load_config(settings), spread_options(settings, device)
    with quiet():
        tokenizer = _attempt(
            settings, lambda: AutoTokenizer.from_pretrained(source, **options), what="its tokenizer cannot be loaded"
        )
        saved_as = _saved_class(config)
        kind: Any = AutoModelForCausalLM if _predicts(config.model_type, saved_as) else AutoModel

        def read(dtype: torch.dtype) -> Any:
            return _attempt(
                settings,
                lambda: kind.from_pretrained(
                    source,
                    dtype=dtype,
                    use_safetensors=True,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # they are looked at like missing ones
                    **options,
                    **spread,
                ),
            )

        model, info = read(dtype)
        fault = None if dtype == torch.float32 else _fault_of(model)
        if fault is not None:  # such as FNet's: there is no Fourier transform of bfloat16
            exact = read(torch.float32)
            fault = fault if _fault_of(exact[0]) is None else None
            model, info = exact if fault is not None else (model, info)
    checked = True
    configs = (config, config.get_text_config())
    # The codes of a GGUF file say what they are, and transformers has turned them into numbers.
    if "gguf_file" not in options and all(getattr(each, "quantization_config", None) is None for each in configs):
        files = weight_files(source, options, named=getattr(config, "transformers_weights", None))
        refuse_codes(files, model, info["unexpected_keys"])
        checked = bool(files)
    for own in {id(each): each for each in (model.config, model.config.get_text_config())}.values():
        own.use_cache = False  # texts are read once, and some models cannot make a cache
    where = f"The folder {source}" if options["local_files_only"] and Path(source).is_dir() else f"Model {source!r}"
    where = f"The file {Path(source) / options['gguf_file']}" if "gguf_file" in options else where
    return Loaded(
        model.eval(),
        tokenizer,
        Weights.of(where, model, info, headed=saved_as is not None, fault=fault, checked=checked),
    )


@torch.no_grad()
def _fault_of(model: Any) -> str | None:
    """Why a model cannot be run on a few ids; None if it can."""
    try:
        run_model(model.base_model, torch.arange(1, 5)[None])
    except Exception as error:  # whatever its code raises
        return reason_of(error)
    return None


def _saved_class(config: Any) -> str | None:
    """The class that the files say they are of; None if they do not say, or it is none of transformers."""
    named = config.architectures
    saved = named[0] if isinstance(named, (list, tuple)) and named else None
    return saved if isinstance(saved, str) and hasattr(transformers, saved) else None


def _predicts(model_type: str, saved: str | None) -> bool:
    """Whether that class predicts the next token; of a model that does not say, its kind decides."""
    classes = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type, ())
    names = {classes} if isinstance(classes, str) else {*classes}
    return bool(names) if saved is None else saved in names


def _load_hooked(settings: ModelSettings, *, device: str, dtype: torch.dtype) -> Loaded:
    require_transformer_lens(settings.name)
    with quiet():
        model, tokenizer = _attempt(settings, lambda: load_hooked(settings.name, device=device, dtype=dtype))
    _check(model.config, settings)
    return Loaded(model.eval(), tokenizer, Weights(f"Model {settings.name!r}"))


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
    with quiet():
        config = _attempt(settings, lambda: AutoConfig.from_pretrained(source, **options))
    _check(config, settings)
    return config


def load_hooked_shape(settings: ModelSettings) -> ModelShape:
    """The shape of a model of TransformerLens, from its configuration.

    Raises:
        UserError: If the package is not installed, or has no such model.
    """
    require_transformer_lens(settings.name)
    return _attempt(settings, lambda: hooked_shape(settings.name))


def _locate(settings: ModelSettings) -> tuple[str, dict[str, Any]]:
    """What transformers is to load, and with which options. Without the hub only its local cache is asked."""
    if settings.is_embedded:
        return str(embedded.model_folder()), {"local_files_only": True}
    folder = Path(settings.name).expanduser()
    file = gguf_file(folder)
    if file is not None:
        require_gguf(file)
        return str(file.parent), {"local_files_only": True, "gguf_file": file.name}
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
        local = settings.is_embedded or Path(settings.name).expanduser().exists()
        if not local and not hub.is_reachable():
            raise UserError(
                f"Model {settings.name!r} is neither a folder nor in the local cache, and the hub ({hub.endpoint()}) "
                "cannot be reached; give the path of a model folder, or set model.name to embedded."
            ) from None
        raise UserError(
            f"Model {settings.name!r}: {what} ({reason_of(error)}); check model.name and model.revision."
        ) from None


def _check(config: Any, settings: ModelSettings) -> None:
    if config.is_encoder_decoder:
        raise UserError(f"Model {settings.name!r} is an encoder-decoder; give a causal language model or an encoder.")
    try:
        text = config.get_text_config()
    except ValueError:  # it has several
        text = None
    blocks, vocabulary = getattr(text, "num_hidden_layers", None), getattr(text, "vocab_size", None)
    if not isinstance(blocks, int) or not isinstance(vocabulary, int):
        raise UserError(f"Model {settings.name!r} ({config.model_type}) is no transformer over text; give another one.")
    most = getattr(text, "max_position_embeddings", None)
    if isinstance(most, int) and most < 1 and most != -1:  # by which XLNet says that it has no limit
        raise UserError(
            f"Model {settings.name!r} takes texts of {most} tokens (max_position_embeddings); mend its config."
        )
    quantized = getattr(config, "quantization_config", None)
    if isinstance(quantized, dict) and not AutoHfQuantizer.supports_quant_method(quantized):
        raise UserError(
            f"Model {settings.name!r} is quantized by {quantized.get('quant_method')!r}, which transformers does not "
            "know and would pass over; give the model in another form."
        )
    if settings.layer >= blocks:
        raise refuse_layer(settings.name, blocks, settings.layer)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing bars and reports: long jobs tell their progress through the callback alone."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with without_gguf_bars():
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
