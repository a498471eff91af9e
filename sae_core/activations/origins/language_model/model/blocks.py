"""A model's blocks, found by running it: the modules whose outputs are the hidden states that it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sae_core.activations.origins.language_model.model.hooked import HookedModel
from sae_core.activations.origins.language_model.model.running import reason_of, run_model
from sae_core.foundation.errors import UserError

SAME = 1e-5
"""Relative error up to which an output is a hidden state: it is the same tensor, or a multiple of it."""

Lists = nn.ModuleList | nn.Sequential
Hook = Callable[[nn.Module, Any, Any], Any]


@dataclass(frozen=True, slots=True)
class Block:
    """One block: a call of a module, as a model with shared weights calls one module several times.

    Attributes:
        module: The module.
        name: Its name in the model.
        call: Which of its calls in a forward pass this block is, counted from 0.
        state: Number of the hidden state that is its output; None where none is, as behind the last block most models
            report what their final norm makes of it.
        scale: The output is so many times the hidden state: RWKV halves it after some blocks.
        transposed: Whether it returns [L, B, D] where the hidden state is [B, L, D], as XLNet does.
    """

    module: nn.Module
    name: str
    call: int = 0
    state: int | None = None
    scale: float = 1.0
    transposed: bool = False


class Blocks:
    """The blocks of a model, in the order in which they run.

    Attributes:
        d_model: Dimension of what they return, D.
        shared: Whether several of them share their weights.
    """

    def __init__(self, base: nn.Module, blocks: Sequence[Block], modules: Lists | None, d_model: int) -> None:
        self._base, self._blocks, self._modules = base, list(blocks), modules
        self.d_model = d_model
        self.shared = any(block.call for block in blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, number: int) -> Block:
        return self._blocks[number]

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks)

    def number_of(self, parameter: str) -> int | None:
        """The first block that a parameter of this name in the base model is part of; None if it is part of none."""
        found = (number for number, block in enumerate(self) if parameter.startswith(f"{block.name}."))
        return next(found, None)

    def cut(self, count: int) -> None:
        """Take those behind the first ``count`` out of the model, which frees their memory. They can no more be run."""
        if self._modules is not None and not self.shared:
            del self._modules[count:]
        del self._blocks[count:]

    def on_output(self, number: int, act: Hook) -> list[RemovableHandle]:
        """Call a function with what a block returns, like a forward hook."""
        block = self._blocks[number]
        if not self.shared:
            return [block.module.register_forward_hook(act)]
        calls = 0

        def begin(_module: nn.Module, _args: Any) -> None:
            nonlocal calls
            calls = 0

        def at_its_call(module: nn.Module, args: Any, output: Any) -> Any:
            nonlocal calls
            calls += 1
            return act(module, args, output) if calls == block.call + 1 else None

        return [self._base.register_forward_pre_hook(begin), block.module.register_forward_hook(at_its_call)]


@dataclass(slots=True)
class _Call:
    """One call of a module in a list: what went in and what came out."""

    module: nn.Module
    name: str
    before: Tensor | None
    after: Tensor


@torch.no_grad()
def find_blocks(base: nn.Module, ids_BL: Tensor, *, name: str) -> Blocks:
    """Run a model once and find its blocks.

    A list of modules holds them if its calls give the model's hidden states one after the other. Behind the last one
    comes the final norm in most models: there the call must have read the state before.

    Args:
        base: The model without its head.
        ids_BL: Ids of one text [1, L].
        name: What the model is called in messages.

    Raises:
        UserError: If the model cannot read text by itself, reports no hidden states or they come from no list.
    """
    if isinstance(base, HookedModel):
        return _listed(base)
    lists = [(name, module) for name, module in base.named_modules() if isinstance(module, Lists) and len(module)]
    records: dict[str, list[_Call]] = {place: [] for place, _ in lists}
    handles: list[RemovableHandle] = []
    for place, modules in lists:
        for number, module in enumerate(modules):
            handles += _recording(records[place], module, f"{place}.{number}")
    try:
        reported = run_model(base, ids_BL, output_hidden_states=True, return_dict=True)
    except Exception as error:  # whatever a model's code raises when it is given ids alone
        raise UserError(
            f"Model {name!r} cannot be run on text alone ({reason_of(error)}); give a language model over text."
        ) from None
    finally:
        for handle in handles:
            handle.remove()
    states = getattr(reported, "hidden_states", None)
    for place, modules in lists:
        found = _matched(records[place], list(states or ()))
        if found:
            alone = modules if len(modules) == len(found) else None
            return Blocks(base, found, alone, int(records[place][0].after.shape[-1]))
    if not all(bool(state.isfinite().all()) for state in states or ()):
        raise UserError(
            f"Model {name!r} gave an activation that is not a number; choose another layer or model, or look for "
            "weights that are not finite."
        )
    raise UserError(
        f"The blocks of model {name!r} ({type(base).__name__}) cannot be found: no list of modules gives the hidden "
        "states that it reports, token by token; give another model."
    )


def _recording(calls: list[_Call], module: nn.Module, name: str) -> list[RemovableHandle]:
    def keep(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        after = output[0] if isinstance(output, (tuple, list)) and len(output) else output
        before = args[0] if args else kwargs.get("hidden_states")
        if isinstance(after, Tensor) and after.ndim == 3:
            copy = before.clone() if isinstance(before, Tensor) else None
            calls.append(_Call(module, name, copy, after.clone()))

    return [module.register_forward_hook(keep, with_kwargs=True)]


def _matched(calls: Sequence[_Call], states: Sequence[Tensor]) -> list[Block]:
    """The blocks, if these calls give the hidden states; else none.

    Most models report the embedding first; RWKV and Mamba begin with what the first block returns.
    """
    count = len(states) - 1
    if count < 1 or len(calls) != count or len({call.after.shape for call in calls}) > 1:
        return []
    for transposed in (False, True):
        if transposed:
            calls = [_turned(call) for call in calls]
        for first in (1, 0):
            scales = [_multiple(call.after, states[number + first]) for number, call in enumerate(calls)]
            last_reads = first and calls[-1].before is not None and _multiple(calls[-1].before, states[count - 1])
            if None not in scales[:-1] and (scales[-1] is not None or last_reads):
                return list(_as_blocks(calls, scales, first, transposed))
    return []


def _as_blocks(calls: Sequence[_Call], scales: Sequence[float | None], first: int, transposed: bool) -> Iterator[Block]:
    seen: dict[str, int] = {}
    for number, (call, scale) in enumerate(zip(calls, scales, strict=True)):
        place = seen[call.name] = seen.get(call.name, -1) + 1
        state = None if scale is None else number + first
        yield Block(call.module, call.name, place, state, scale or 1.0, transposed)


def _turned(call: _Call) -> _Call:
    before = None if call.before is None or call.before.ndim != 3 else call.before.transpose(0, 1)
    return _Call(call.module, call.name, before, call.after.transpose(0, 1))


def _multiple(output: Tensor, state: Tensor) -> float | None:
    """How many times a hidden state an output is; None if it is no multiple of it."""
    if output.shape != state.shape:
        return None
    a, b = output.double().flatten(), state.double().flatten()
    square = float(b @ b)
    scale = float(a @ b) / square if square else 0.0
    if not scale > 0 or not float((a - scale * b).norm()) <= SAME * float(a.norm()):
        return None
    return 1.0 if abs(scale - 1) < SAME else scale


def _listed(model: HookedModel) -> Blocks:
    """Those of a model of TransformerLens, which says where they are."""
    modules = model.hooked.blocks
    blocks = [Block(module, f"hooked.blocks.{number}", state=number + 1) for number, module in enumerate(modules)]
    return Blocks(model, blocks, modules, model.config.hidden_size)
