"""Models that exist only in TransformerLens' own format, such as gelu-1l, made to look like those of transformers.

TransformerLens is an optional extra: ``pip install 'sae-ensemble[transformer-lens]'``. Its weights are taken as they
are, nothing folded or centred, so that activations are those of ``from_pretrained_no_processing``.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from sae_core.activations.origins.language_model.model.shapes import HOOKED, ModelShape
from sae_core.foundation.errors import UserError


@dataclass(frozen=True, slots=True)
class HookedConfig:
    """What is asked of a configuration of transformers."""

    hidden_size: int
    num_hidden_layers: int
    max_position_embeddings: int
    vocab_size: int
    model_type: str
    architectures: tuple[str, ...] = ("HookedForCausalLM",)
    is_encoder_decoder: bool = False

    @classmethod
    def of(cls, cfg: Any) -> HookedConfig:
        """From a configuration of TransformerLens."""
        return cls(cfg.d_model, cfg.n_layers, cfg.n_ctx, cfg.d_vocab, cfg.original_architecture or "hooked")

    def get_text_config(self) -> HookedConfig:
        """The configuration itself, as there is only text."""
        return self


class HookedModel(nn.Module):
    """A HookedTransformer with the few names of a causal language model of transformers that are used here.

    Attributes:
        hooked: The model.
        config: Its configuration.
    """

    def __init__(self, hooked: Any) -> None:
        super().__init__()
        self.hooked = hooked
        self.config = HookedConfig.of(hooked.cfg)

    @property
    def base_model(self) -> HookedModel:
        """The model itself: its blocks are found inside."""
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = False) -> Any:
        """Run it, for ``logits`` [B, L, V]. It needs no mask: padding stands behind every token, where none looks."""
        return SimpleNamespace(logits=self.hooked(input_ids, return_type="logits"))

    def get_input_embeddings(self) -> nn.Module:
        """The embedding, with ``W_E`` [V, D]."""
        embedding: nn.Module = self.hooked.embed
        return embedding

    def get_output_embeddings(self) -> nn.Module:
        """The unembedding, with ``W_U`` [D, V]."""
        unembedding: nn.Module = self.hooked.unembed
        return unembedding


def is_hooked(name: str) -> bool:
    """Whether the settings' name of a model names one of TransformerLens."""
    return name.startswith(HOOKED)


def require_transformer_lens(name: str) -> Any:
    """The package.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import transformer_lens
    except ImportError:
        raise UserError(
            f"Model {name!r} needs the package transformer-lens; run pip install 'sae-ensemble[transformer-lens]'."
        ) from None
    return transformer_lens


def load_hooked(name: str, *, device: str, dtype: torch.dtype) -> tuple[HookedModel, Any]:
    """The model and its tokenizer; faults of the package are let through.

    Raises:
        UserError: If the package is not installed.
    """
    package = require_transformer_lens(name)
    hooked = package.HookedTransformer.from_pretrained_no_processing(
        name.removeprefix(HOOKED), device=device, dtype=dtype, default_padding_side="right"
    )
    return HookedModel(hooked), hooked.tokenizer


def hooked_config(name: str) -> HookedConfig:
    """The model's configuration, without its weights; faults of the package are let through.

    Raises:
        UserError: If the package is not installed.
    """
    return HookedConfig.of(_config(name))


def hooked_shape(name: str) -> ModelShape:
    """The model's dimensions; faults of the package are let through.

    Raises:
        UserError: If the package is not installed.
    """
    cfg = _config(name)
    return ModelShape(
        kind="gpt2",  # what it is timed by where it is not here: two matrices in an MLP, as most of these have
        layers=cfg.n_layers,
        d_model=cfg.d_model,
        heads=cfg.n_heads,
        kv_heads=cfg.n_key_value_heads or cfg.n_heads,
        head_dim=cfg.d_head,
        mlp=cfg.d_mlp or 0,
        mlp_matrices=3 if cfg.gated_mlp else 2,
        vocabulary=cfg.d_vocab,
        context=cfg.n_ctx,
        tied=False,
    )


def _config(name: str) -> Any:
    return require_transformer_lens(name).loading.get_pretrained_model_config(name.removeprefix(HOOKED))
