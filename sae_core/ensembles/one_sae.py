"""An ensemble, or one SAE, with the face that SAEBench and SAELens' evals expect of an SAE."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sae_core.ensembles.coder import Coder
from sae_core.ensembles.ensemble import saes_of
from sae_core.foundation.errors import UserError

HOOKS = {"residual": "hook_resid_post", "mlp": "hook_mlp_out", "attention": "hook_attn_out"}
"""What TransformerLens calls the places that `model.site` names."""


@dataclass
class Metadata:
    """Where the activations come from, as SAELens keeps it. Evals of both tools add attributes to it."""

    model_name: str
    hook_name: str
    hook_head_index: int | None = None
    context_size: int = 256
    prepend_bos: bool = True
    seqpos_slice: tuple[int | None, ...] = (None,)
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class Config:
    """What the evals read of an SAE's configuration: SAEBench from here, SAELens from ``metadata``."""

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    metadata: Metadata
    dtype: str
    device: str
    context_size: int
    architecture: str = "ensemble"
    hook_head_index: int | None = None
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    reshape_activations: str = "none"
    prepend_bos: bool = True
    seqpos_slice: tuple[int | None, ...] = (None,)
    activation_fn_str: str = ""
    activation_fn_kwargs: dict[str, Any] = field(default_factory=dict)
    finetuning_scaling_factor: bool = False
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)
    dataset_path: str = ""
    dataset_trust_remote_code: bool = False
    training_tokens: int = -1
    sae_lens_training_version: str | None = None
    neuronpedia_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


class OneSAE(nn.Module):
    """The features of all members as those of one SAE: coefficients with α folded in, atoms of unit norm.

    ``encode`` runs the whole ensemble, so members of a boosted one read residuals. ``W_enc`` and ``b_enc`` are those
    of the members side by side, for figures of weights alone; they do not encode by themselves.

    Args:
        coder: An ensemble or an SAE.
        model_name: The language model, as TransformerLens names it.
        layer: Index of the block.
        site: Where in the block: residual, mlp or attention.
        context_size: Tokens in a passage.

    Raises:
        UserError: If TransformerLens has no name for the site.
    """

    normalize_activations = "none"
    hook_z_reshaping_mode = False

    def __init__(
        self,
        coder: Coder,
        *,
        model_name: str,
        layer: int,
        site: Literal["residual", "mlp", "attention"] = "residual",
        context_size: int = 256,
    ) -> None:
        super().__init__()
        if site not in HOOKS:
            raise UserError(f"TransformerLens has no hook at {site!r}; the site is one of {', '.join(HOOKS)}.")
        self.coder = coder
        saes = list(saes_of(coder))
        with torch.no_grad():
            self.W_enc = nn.Parameter(torch.cat([sae.W_enc for sae in saes], dim=1), requires_grad=False)
            self.b_enc = nn.Parameter(torch.cat([sae.b_enc for sae in saes]), requires_grad=False)
            self.W_dec = nn.Parameter(coder.dictionary.clone(), requires_grad=False)
            self.b_dec = nn.Parameter(coder.b_dec.detach().clone(), requires_grad=False)
        hook = f"blocks.{layer}.{HOOKS[site]}"
        self.cfg = Config(
            model_name=model_name,
            d_in=coder.d_in,
            d_sae=coder.width,
            hook_layer=layer,
            hook_name=hook,
            metadata=Metadata(model_name, hook, context_size=context_size),
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device),
            context_size=context_size,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' number format."""
        return self.W_dec.dtype

    @property
    def d_in(self) -> int:
        """Dimension of the activations, D."""
        return self.cfg.d_in

    def encode(self, acts: Tensor) -> Tensor:
        """All coefficients [..., M] of activations [..., D]."""
        return self.coder.encode(acts.reshape(-1, self.d_in)).reshape(*acts.shape[:-1], self.cfg.d_sae)

    def decode(self, coefs: Tensor) -> Tensor:
        """The reconstruction [..., D] of all coefficients [..., M]."""
        return self.coder.decode(coefs.reshape(-1, self.cfg.d_sae)).reshape(*coefs.shape[:-1], self.d_in)

    def forward(self, acts: Tensor) -> Tensor:
        """The reconstruction [..., D] of activations [..., D]."""
        return self.decode(self.encode(acts))

    def check_decoder_norms(self) -> bool:
        """Whether all atoms have unit norm, which SAEBench asks before it measures."""
        norms_M = self.W_dec.float().norm(dim=1)
        tolerance = 1e-5 if self.dtype == torch.float32 else 1e-2
        return bool(torch.allclose(norms_M, torch.ones_like(norms_M), atol=tolerance))
