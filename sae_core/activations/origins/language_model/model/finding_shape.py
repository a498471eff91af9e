"""Finding the shape of a model: known here, or described by a configuration in a folder or on the hub."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from sae_core.activations.origins.language_model.model.nature import declared_context, refuse_layer
from sae_core.activations.origins.language_model.model.shapes import HOOKED, KNOWN, SAME_SHAPE, ModelShape
from sae_core.foundation.settings.run_settings import ModelSettings


def find_shape(settings: ModelSettings) -> ModelShape:
    """The shape of the model that is named: known here, or from its configuration in a folder or on the hub.

    Raises:
        UserError: If there is no such model, or it has no block ``settings.layer``.
    """
    name = settings.name.lower().removesuffix("-deduped")
    shape = KNOWN.get(SAME_SHAPE.get(name, name))
    if shape is None and name.startswith(HOOKED):
        from sae_core.activations.origins.language_model.model.loading import load_hooked_shape

        shape = load_hooked_shape(settings)
    if shape is None:
        from sae_core.activations.origins.language_model.model.loading import load_config

        shape = shape_of(load_config(settings))
    if settings.layer >= shape.layers:
        raise refuse_layer(settings.name, shape.layers, settings.layer)
    return shape


def shape_of(config: Any) -> ModelShape:
    """The shape that a configuration of transformers describes."""
    text = config.get_text_config()
    d_model, kind = int(text.hidden_size), str(text.model_type)
    heads = int(getattr(text, "num_attention_heads", None) or 1)  # Mamba and RWKV have none
    mlp = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * d_model
    bare = ModelShape(
        kind=kind,
        layers=int(text.num_hidden_layers),
        d_model=d_model,
        heads=heads,
        kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(text, "head_dim", None) or d_model // heads),
        mlp=int(mlp),
        mlp_matrices=0,
        vocabulary=int(text.vocab_size),
        context=declared_context(config) or 0,
        tied=bool(getattr(config, "tie_word_embeddings", True)),
    )
    entries = _block_entries(text)
    matrices = 2 if entries is None else round((entries - bare.block_weights) / (d_model * int(mlp)))
    return replace(bare, mlp_matrices=matrices)


def _block_entries(config: Any) -> int | None:
    """Entries of the matrices of one block, as its code makes them; a configuration does not say if MLPs are gated.

    None where no list of modules has as many entries as there are blocks. Nothing is run: this only serves a plan.
    """
    import torch
    from transformers import AutoModel

    try:
        with torch.device("meta"):  # shapes without memory
            model = AutoModel.from_config(config)
    except Exception:  # a model's code makes no model of a part of its configuration
        return None
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    blocks = next((module for module in lists if len(module) == config.num_hidden_layers), None)
    if blocks is None:
        return None
    return sum(parameter.numel() for parameter in blocks[0].parameters() if parameter.ndim == 2)
