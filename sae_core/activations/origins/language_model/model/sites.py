"""Where in a block activations are read: its output, what attention and MLP add to the stream, or any module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sae_core.activations.origins.language_model.model.blocks import Block
from sae_core.activations.origins.language_model.model.running import first_output
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import Site, is_pattern

TOLERANCE = 0.02
"""Relative error up to which the parts count as adding up; bfloat16 rounds to 0.004."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Names of modules inside a block.

    Attributes:
        attention: Its output is what attention adds to the residual stream.
        mlp: Its output is what the MLP adds to the residual stream.
        norms: The norms applied to the residual stream after each addition; none in pre-norm models.
    """

    attention: str
    mlp: str
    norms: tuple[str, str] | None = None


# The first row whose modules all exist. Rows with norms behind the parts come first, because those blocks have plain
# self_attn and mlp modules too, whose outputs are not yet what is added.
_KNOWN_PARTS = (
    Parts("post_self_attn_layernorm", "post_mlp_layernorm"),  # GLM-4
    Parts("post_attention_layernorm", "post_feedforward_layernorm"),  # Gemma 2 and 3, OLMo 2
    Parts("attention.output.dense", "output.dense", ("attention.output.LayerNorm", "output.LayerNorm")),  # BERT
    Parts("attention", "ffn", ("sa_layer_norm", "output_layer_norm")),  # DistilBERT
    Parts("attn", "mlp"),  # GPT-2, GPT-J
    Parts("self_attn", "mlp"),  # Llama, Mistral, Qwen, Gemma, Phi
    Parts("attention", "mlp"),  # GPT-NeoX (Pythia)
    Parts("self_attention", "mlp"),  # Falcon
)


def find_parts(block: nn.Module) -> Parts:
    """Names of the parts of a block.

    Raises:
        UserError: If the block is of no known kind.
    """
    names = {name for name, _ in block.named_modules()}
    for parts in _KNOWN_PARTS:
        if {parts.attention, parts.mlp, *(parts.norms or ())} <= names:
            return parts
    raise unsupported(block)


def site_module(model: Any, block: Block, layer: int, site: Site) -> nn.Module:
    """The module whose output is the activation: the block itself for ``residual``.

    Args:
        model: The whole model, in which names of modules begin.
        block: The block.
        layer: Its number, which stands for the * of a pattern.
        site: The place in the block, or a pattern.

    Raises:
        UserError: If the block has no such part that is known, or the pattern names no module within it.
    """
    if site == "residual":
        return block.module
    if not is_pattern(site):
        parts = find_parts(block.module)
        return block.module.get_submodule(parts.mlp if site == "mlp" else parts.attention)
    name, within = site.replace("*", str(layer)), {id(module) for module in block.module.modules()}
    for root in (model, model.base_model):
        try:
            found: nn.Module = root.get_submodule(name)
        except AttributeError:
            continue
        if id(found) not in within:
            raise UserError(f"model.site {site} names {name}, which is not within block {layer} ({block.name}).")
        return found
    examples = ", ".join(part for part, _ in block.module.named_children())
    raise UserError(
        f"model.site {site} names {name}, and the model has no such module; block {layer} is {block.name} and holds "
        f"{examples}."
    )


@torch.no_grad()
def check_hook(module: nn.Module, site: Site, shape: tuple[int, ...], forward: Callable[[], object]) -> int:
    """Run the model once and check that a module gives one activation a token; by what it does, not by its name.

    Args:
        module: The module that a pattern names.
        site: The pattern.
        shape: Texts and tokens [B, L] that are run.
        forward: Runs the model on them.

    Returns:
        The dimension D of what it gives.

    Raises:
        UserError: If it is not called exactly once, or gives no tensor [B, L, D].
    """
    seen: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _args, output: seen.append(output), prepend=True)
    try:
        forward()
    finally:
        handle.remove()
    kind = f"model.site {site} names a {type(module).__name__}"
    if len(seen) != 1:
        raise UserError(
            f"{kind}, which is called {len(seen)} times in a forward pass and not once; name another module."
        )
    output = seen[0]
    if isinstance(output, (tuple, list)) and len(output) and isinstance(output[0], Tensor):
        output = output[0]  # attention gives its weights, too
    if not isinstance(output, Tensor) or output.ndim != 3 or output.shape[:2] != shape:
        got = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise UserError(
            f"{kind}, which gives {got} for {list(shape)} tokens and no tensor [B, T, D]; name another module."
        )
    return int(output.shape[2])


@torch.no_grad()
def check_parts_add_up(block: nn.Module, forward: Callable[[], object]) -> None:
    """Run the model once and check that the block's output is its input plus its parts.

    The names in the table above say little about a model that it was not written for: a block may scale its parts or
    add the residual inside them. Then this raises, instead of letting something else be read.

    Args:
        block: The block to check.
        forward: Runs the model on some text.

    Raises:
        UserError: If they do not add up.
    """
    parts = find_parts(block)
    seen: dict[str, Tensor] = {}

    def keep_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["input"] = (args[0] if args else kwargs["hidden_states"]).clone()

    def keep_output(name: str) -> Callable[[nn.Module, Any, Any], None]:
        # A copy, as some models add to the output of a part in its place.
        return lambda _module, _args, output: seen.update({name: first_output(output).clone()})

    handles = [
        block.register_forward_pre_hook(keep_input, with_kwargs=True),
        # In front of a hook that ends the forward pass.
        block.register_forward_hook(keep_output("output"), prepend=True),
        block.get_submodule(parts.attention).register_forward_hook(keep_output("attention")),
        block.get_submodule(parts.mlp).register_forward_hook(keep_output("mlp")),
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    if parts.norms is None:
        expected = seen["input"] + seen["attention"] + seen["mlp"]
    else:
        after_attention, after_mlp = (block.get_submodule(name) for name in parts.norms)
        expected = after_mlp(after_attention(seen["input"] + seen["attention"]) + seen["mlp"])
    difference = (seen["output"] - expected).float().norm() / seen["output"].float().norm()
    if not difference <= TOLERANCE:
        raise unsupported(block)


def common_width(
    places: Sequence[tuple[nn.Module, Site]], d_model: int, shape: tuple[int, ...], forward: Callable[[], object]
) -> int:
    """The dimension of what is read at places, which is the same at all of them; see `check_hook`.

    Raises:
        UserError: If it is not, or a module that a pattern names gives no activation a token.
    """
    widths = {
        site: check_hook(module, site, shape, forward) if is_pattern(site) else d_model for module, site in places
    }
    if len({*widths.values()}) > 1:
        said = ", ".join(f"{width} at {site}" for site, width in widths.items())
        raise UserError(f"Places that are read together have to be of one dimension, not {said}; train one by one.")
    return next(iter(widths.values()))


def unsupported(block: nn.Module) -> UserError:
    """That the parts of a block cannot be read."""
    return UserError(
        f"What attention and MLP add to the residual stream cannot be read from a {type(block).__name__}; "
        "set model.site to residual."
    )
