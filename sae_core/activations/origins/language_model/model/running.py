"""Running a model of whatever kind: it is given what its code takes, and hooks say what came out where."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sae_core.activations.origins.language_model.model.spreading import entrance
from sae_core.activations.origins.language_model.model.switching import unswitched
from sae_core.foundation.errors import UserError


def run_model(
    model: nn.Module,
    ids_BL: NDArray[np.int64] | Tensor,
    present_BL: NDArray[np.bool_] | None = None,
    *,
    device: str = "cpu",
    restore: bool = True,
    **options: Any,
) -> Any:
    """What a model returns for ids [B, L].

    Args:
        model: The model.
        ids_BL: Ids, padded on the right.
        present_BL: Which of them are not padding; all, if it is not given.
        device: Where the model is, unless it is spread over several devices.
        restore: Whether settings that the model's code changes in the model, as for short texts, are put back.
        options: Passed on where the model takes them.
    """
    named, open_ended = _parameters(type(model).forward)
    ids = torch.as_tensor(ids_BL, device=entrance(model, device))
    mask = None if present_BL is None or present_BL.all() else torch.from_numpy(present_BL).long().to(ids.device)
    given = {name: value for name, value in options.items() if name in named or open_ended}
    if "attention_mask" in named:
        given["attention_mask"] = mask
    if "use_cache" in named:
        given["use_cache"] = False
    with unswitched(model) if restore else nullcontext():
        return model(input_ids=ids, **given)


@cache
def _parameters(forward: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """Names of what the forward pass takes, and whether it takes any others."""
    parameters = inspect.signature(forward).parameters
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return frozenset(parameters), open_ended


def first_output(output: Any) -> Tensor:
    """The hidden states among what a module returns."""
    hidden = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(hidden, Tensor):
        raise UserError(f"A model whose blocks return {type(hidden).__name__} is not supported; choose another model.")
    return hidden


def with_hidden(output: Any, hidden_BLD: Tensor) -> Any:
    """What a module returned, with other hidden states."""
    return type(output)((hidden_BLD, *output[1:])) if isinstance(output, (tuple, list)) else hidden_BLD


def copied(output: Any) -> Any:
    """What a module returned, with a copy of its hidden states: some models change them in their place."""
    return with_hidden(output, first_output(output).clone())


@contextmanager
def returning(module: nn.Module, output: Any) -> Iterator[None]:
    """Let a module return something, without running it."""
    own = vars(module).get("forward")
    module.forward = lambda *args, **kwargs: output  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own  # type: ignore[method-assign]


def reason_of(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
