"""The shape of a language model, without its weights: enough to count what running it up to a layer costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A transformer's dimensions.

    Attributes:
        kind: Its model_type in transformers.
        layers: Blocks.
        d_model: Dimension of the residual stream, D.
        heads: Attention heads.
        kv_heads: Heads of keys and values, fewer where several query heads share them.
        head_dim: Dimension of a head.
        mlp: Width of the MLP.
        mlp_matrices: Matrices of an MLP: 2, or 3 where it is gated.
        vocabulary: Tokens, V.
        context: Tokens it takes at most; 0 if it does not say.
        tied: Whether embedding and unembedding are one matrix.
    """

    kind: str
    layers: int
    d_model: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    mlp_matrices: int
    vocabulary: int
    context: int = 0
    tied: bool = True

    @property
    def block_weights(self) -> int:
        """Entries of the matrices of one block; vectors are left out."""
        attention = self.d_model * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + self.mlp_matrices * self.d_model * self.mlp

    def weights(self, blocks: int | None = None) -> int:
        """Entries of all matrices, or of those that are left once only the first blocks are run."""
        embeddings = self.vocabulary * self.d_model * (1 if self.tied else 2)
        return embeddings + self.block_weights * (self.layers if blocks is None else blocks)

    def forward_flops(self, length: int, blocks: int) -> int:
        """Floating-point operations for one text of ``length`` tokens through the first blocks.

        Two for each entry of a matrix and token, and 4·L²·heads·head_dim for scores and weighted sums of attention,
        which are computed whole and then masked. Norms, softmax and activation functions are not counted.
        """
        return blocks * (2 * length * self.block_weights + 4 * length**2 * self.heads * self.head_dim)


HOOKED = "transformer-lens:"
"""In front of the name of a model that exists in TransformerLens' own format only."""
_PYTHIA: dict[str, Any] = {"kind": "gpt_neox", "mlp_matrices": 2, "vocabulary": 50304, "context": 2048, "tied": False}
KNOWN = {
    "eleutherai/pythia-70m": ModelShape(
        layers=6, d_model=512, heads=8, kv_heads=8, head_dim=64, mlp=2048, **_PYTHIA
    ),  # https://github.com/EleutherAI/pythia, the table of models
    "eleutherai/pythia-160m": ModelShape(
        layers=12, d_model=768, heads=12, kv_heads=12, head_dim=64, mlp=3072, **_PYTHIA
    ),
    "openai-community/gpt2": ModelShape(
        "gpt2", 12, 768, heads=12, kv_heads=12, head_dim=64, mlp=3072, mlp_matrices=2, vocabulary=50257, context=1024
    ),  # Radford et al. 2019
    "google/gemma-2-2b": ModelShape(
        "gemma2", 26, 2304, heads=8, kv_heads=4, head_dim=256, mlp=9216, mlp_matrices=3, vocabulary=256000, context=8192
    ),  # Gemma Team 2024, *Gemma 2*, table 1
    f"{HOOKED}gelu-1l": ModelShape(
        *("gpt2", 1, 512, 8, 8, 64, 2048, 2, 48262), context=1024, tied=False
    ),  # https://huggingface.co/NeelNanda/GELU_1L512W_C4_Code, config.json
}
"""Shapes of models that SAEs are often trained on, so that planning needs no hub; ids in lower case."""
SAME_SHAPE = {"gpt2": "openai-community/gpt2", "google/gemma-2-2b-it": "google/gemma-2-2b"}
"""Other ids of the same shapes."""
