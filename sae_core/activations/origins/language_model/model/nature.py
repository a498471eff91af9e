"""What a model is, from what it does: where its blocks are, whether it looks ahead, how long a text it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sae_core.activations.origins.language_model.model.blocks import Blocks, find_blocks
from sae_core.activations.origins.language_model.model.running import first_output, run_model
from sae_core.activations.origins.language_model.model.switching import Switch, unswitched
from sae_core.foundation.errors import UserError

LENGTH = 12
"""Tokens of the text that a model is run on to see what it does."""
EXACT, ROUNDED = 1e-4, 0.02
"""Relative difference up to which numbers count as the same in float32, and in bfloat16."""


class Reached(Exception):
    """Ends a forward pass, so that nothing behind a place is computed."""


@dataclass(frozen=True, slots=True)
class Nature:
    """What was found of a model.

    Attributes:
        blocks: Its blocks.
        causal: Whether no token changes what comes before it; else the model is an encoder.
        predicts: Whether it is causal and has a head that gives every token of its vocabulary a logit.
        context: Tokens that a text may have, special ones included: at most as many as are wanted.
        pads: Whether a text gives the same in a batch, where padding stands behind it, as alone.
        rows: Rows of its embedding; None if it has no table of them.
        short: What its code changes in the model for the text that it was run on.
        long: What it changes for a text of ``context`` tokens.
        ids_BL: The ids that it was run on [1, L].
    """

    blocks: Blocks
    causal: bool
    predicts: bool
    context: int
    pads: bool
    rows: int | None
    short: tuple[Switch, ...]
    long: tuple[Switch, ...]
    ids_BL: Tensor

    @property
    def restores(self) -> bool:
        """Whether a run must put back what it changes in the model, as other texts are read otherwise."""
        return self.short != self.long

    def remarks(self, wanted: int) -> Iterator[str]:
        """Sentences about what is not as one might expect."""
        if self.context < wanted:
            yield f"Texts are cut to {self.context} tokens, not {wanted}: the model takes no more."
        for name, before, after in self.short:
            which = "Short texts" if self.restores else f"Texts of up to {self.context} tokens"
            yield f"{which} are read with {name} {after}, not {before}: the model's code changes it."
        if not self.pads:
            yield "Texts are read in batches of one length: beside padding the model reads them differently."


@torch.no_grad()
def examine(model: Any, tokenizer: Any, *, name: str, context: int) -> Nature:
    """Run a model some times on a short text, and once through its first block on a text as long as is wanted.

    Args:
        model: As it was loaded, all blocks included. On a CPU, since a GPU does not survive a position that is not
            there.
        tokenizer: Its tokenizer.
        name: What the model is called in messages.
        context: Tokens that a text is to have.

    Raises:
        UserError: If it is no language model over text whose blocks can be found.
    """
    base, device = model.base_model, next(model.parameters()).device
    rows = embedding_rows(model)
    declared = declared_context(model.config)
    length = LENGTH if declared is None else max(2, min(LENGTH, declared - 2))
    ids_BL = torch.tensor([_ordinary_ids(tokenizer, rows, length)], device=device)
    blocks = find_blocks(base, ids_BL, name=name)
    causal = _is_causal(base, ids_BL)
    wanted = context if declared is None else min(context, declared)
    works = wanted if device.type != "cpu" else longest(base, blocks, ids_BL, wanted)
    short, long = (_switches(base, blocks, ids_BL, tokens) for tokens in (length, works))
    return Nature(
        blocks=blocks,
        causal=causal,
        predicts=causal and _has_head(model, ids_BL),
        context=works,
        # Beside a longer text a short one would be read as long ones are.
        pads=short == long and _takes_padding(base, ids_BL),
        rows=rows,
        short=short,
        long=long,
        ids_BL=ids_BL,
    )


def declared_context(config: Any) -> int | None:
    """Tokens that a configuration says a model takes at most; None if it does not say (XLNet says −1)."""
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(most) if isinstance(most, int) and most > 0 else None


def embedding_rows(model: Any) -> int | None:
    """Rows of a model's embedding, if it is a table."""
    try:
        embedding = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    weight = getattr(embedding, "weight", getattr(embedding, "W_E", None))
    return len(weight) if isinstance(weight, Tensor) and weight.ndim == 2 else None


def longest(base: nn.Module, blocks: Blocks, ids_BL: Tensor, wanted: int) -> int:
    """The longest text up to ``wanted`` tokens that gets through the first block.

    A table of positions may have fewer rows than a configuration says: those of RoBERTa and its kin begin behind the
    padding's.
    """

    def works(length: int) -> bool:
        try:
            _through_first_block(base, blocks, ids_BL, length)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # an index beyond a table, shapes that do not fit …, by the model's code
            if "alloc" in str(error):
                raise
            return False
        return True

    for length in range(wanted, max(wanted - 4, 0), -1):
        if works(length):
            return length
    short, long = 1, wanted  # one works, the other does not
    while long - short > 1:
        middle = (short + long) // 2
        short, long = (middle, long) if works(middle) else (short, middle)
    return short


def _switches(base: nn.Module, blocks: Blocks, ids_BL: Tensor, length: int) -> tuple[Switch, ...]:
    """What the model's code changes in the model for a text of so many tokens; it is put back."""
    with unswitched(base) as switches:
        _through_first_block(base, blocks, ids_BL, length, restore=False)
    return tuple(dict.fromkeys(switches))


def _through_first_block(base: nn.Module, blocks: Blocks, ids_BL: Tensor, length: int, *, restore: bool = True) -> None:
    """Run the model on a text of so many tokens up to the end of its first block."""
    repeated = ids_BL.repeat(1, length // ids_BL.shape[1] + 1)[:, :length]
    handles = blocks.on_output(0, _stop)
    try:
        with suppress(Reached):
            run_model(base, repeated, restore=restore)
    finally:
        for handle in handles:
            handle.remove()


def _stop(_module: nn.Module, _args: Any, _output: Any) -> None:
    raise Reached


def _ordinary_ids(tokenizer: Any, rows: int | None, length: int) -> list[int]:
    """Different ids of ordinary tokens, as far as there are so many."""
    special = set(getattr(tokenizer, "all_special_ids", ()))
    allowed = [number for number in range(min(rows or 512, 4096)) if number not in special] or [0]
    places = np.linspace(0, len(allowed) - 1, length).round().astype(int)
    return [allowed[place] for place in places]


def _hidden(output: Any) -> Tensor:
    """The last hidden states among what a model returns; the logits of a model that returns those alone."""
    for name in ("last_hidden_state", "logits"):
        value = getattr(output, name, None)
        if isinstance(value, Tensor):
            return value.float()
    return first_output(output).float()


def _tolerance(base: nn.Module) -> float:
    return EXACT if next(base.parameters()).dtype == torch.float32 else ROUNDED


def _is_causal(base: nn.Module, ids_BL: Tensor) -> bool:
    """Whether other tokens in the second half of a text change nothing in the first."""
    half = ids_BL.shape[1] // 2
    other_BL = torch.cat([ids_BL[:, :half], ids_BL[:, half:].flip(1).roll(1, 1)], dim=1)
    change_L = (_hidden(run_model(base, other_BL)) - _hidden(run_model(base, ids_BL))).abs().amax(dim=(0, 2))
    return bool(change_L[:half].max() <= _tolerance(base) * change_L[half:].max())


def _has_head(model: Any, ids_BL: Tensor) -> bool:
    logits = getattr(run_model(model, ids_BL), "logits", None)
    head = model.get_output_embeddings()
    if logits is None or head is None:
        return False
    weight = getattr(head, "weight", getattr(head, "W_U", None))
    return isinstance(weight, Tensor) and logits.shape[:2] == ids_BL.shape and logits.shape[-1] in weight.shape


def _takes_padding(base: nn.Module, ids_BL: Tensor) -> bool:
    """Whether the beginning of a text gives the same beside a longer text as alone."""
    short = max(1, ids_BL.shape[1] - 4)
    padded_BL = ids_BL.repeat(2, 1)
    padded_BL[0, short:] = 0
    present_BL = np.ones(padded_BL.shape, np.bool_)
    present_BL[0, short:] = False
    alone = _hidden(run_model(base, ids_BL[:, :short]))[0]
    try:
        batched = _hidden(run_model(base, padded_BL, present_BL, device=str(ids_BL.device)))[0, :short]
    except Exception:  # whatever a model's code raises that cannot read texts side by side
        return False
    return bool((batched - alone).norm() <= 10 * _tolerance(base) * alone.norm())


def refuse_layer(name: str, blocks: int, layer: int) -> UserError:
    """That a model has no such block."""
    return UserError(f"Model {name!r} has {blocks} layers, so model.layer must be 0 to {blocks - 1}, not {layer}.")
