"""Write a model of some shape with random weights, which reads as fast as a trained one."""

from __future__ import annotations

from pathlib import Path

import torch

from sae_core.activations.origins.language_model.model.embedded_model import model_folder
from sae_core.activations.origins.language_model.model.loading import quiet
from sae_core.activations.origins.language_model.model.shapes import ModelShape


def write_random_model(shape: ModelShape, folder: Path) -> None:
    """Write a folder in transformers' format: a model of this kind and size with the embedded model's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    config = AutoConfig.for_model(
        shape.kind,
        hidden_size=shape.d_model,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.mlp,
        vocab_size=len(tokenizer),
        max_position_embeddings=max(shape.context, 512),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        use_cache=False,
    )
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
