"""What a model's files lack of its weights, and whether what is read depends on it: transformers fills up at random."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sae_core.activations.origins.language_model.model.blocks import Blocks
from sae_core.activations.origins.language_model.model.running import first_output, run_model
from sae_core.foundation.errors import UserError

Part = Literal["read", "above", "head", "unused"]
"""Where a weight acts: on what is read; in a block above; between the last block and the logits; nowhere."""


@dataclass(frozen=True, slots=True)
class Weights:
    """How a model's files fit the model.

    Attributes:
        source: The folder, or the model's name on the hub.
        missing: Weights of the model that the files lack, or hold in another shape; in the model's order.
        shapes: Of the latter, what is wrong with the shape.
        unexpected: Weights in the files that the model has no place for.
        headed: Whether the files say of which class they are: then one that predicts must have its head.
        fault: Why the model could not be run in bfloat16 and is in float32; None if it is in what was asked for.
        checked: Whether the kinds of numbers in the files were looked at.
    """

    source: str = ""
    missing: tuple[str, ...] = ()
    shapes: Mapping[str, str] = field(default_factory=dict)
    unexpected: tuple[str, ...] = ()
    headed: bool = True
    fault: str | None = None
    checked: bool = True

    @classmethod
    def of(
        cls,
        source: str,
        model: nn.Module,
        loaded: Mapping[str, Any],
        *,
        headed: bool,
        fault: str | None = None,
        checked: bool = True,
    ) -> Weights:
        """From what transformers says of loading."""
        shapes = {
            name: f"{tuple(found)} in the file, {tuple(wanted)} in the model"
            for name, found, wanted in loaded["mismatched_keys"]
        }
        lost = {*loaded["missing_keys"], *shapes}
        base = getattr(model, "base_model", model)
        own = {getattr(model, "base_model_prefix", ""), *(name for name, _ in base.named_children())}
        # Files of a model with another head hold that head; only what the model itself has no place for is odd.
        unexpected = [name for name in loaded["unexpected_keys"] if base is not model or name.split(".")[0] in own]
        ordered = [name for name in model.state_dict() if name in lost]
        names = (*ordered, *sorted(lost - {*ordered}))
        return cls(source, names, shapes, tuple(sorted(unexpected)), headed, fault, checked)

    def remarks(self) -> Iterator[str]:
        """Sentences about weights that are left over, and about numbers that are not what was asked for."""
        if self.fault is not None:
            yield f"The model is run in float32, as it cannot be run in bfloat16 ({self.fault})."
        if not self.checked:
            yield (
                f"Nobody has checked that {self.source} holds floating-point numbers and no codes of a quantized "
                "model, as its files are not found where they were read."
            )
        if self.unexpected:
            count = len(self.unexpected)
            yield (
                f"{self.source} holds {count} weight{'s' if count > 1 else ''} that the model has no place for, "
                f"{'the first' if count > 1 else 'called'} {self.unexpected[0]}."
            )

    def said(self, names: Sequence[str], *, use: str) -> str:
        """A sentence that names the first of these missing weights."""
        return f"{self._lacks(names)}, {use}."

    def _lacks(self, names: Sequence[str]) -> str:
        first, more = names[0], len(names) - 1
        what = f"has {first} in another shape ({self.shapes[first]})" if first in self.shapes else f"lacks {first}"
        others = f" and {more} more weight{'s' if more > 1 else ''}" if more else ""
        return f"{self.source} {what}{others}"

    def refuse(self, names: Sequence[str], *, use: str) -> UserError:
        """An error that names the first of these weights."""
        left = f"; it holds {self.unexpected[0]} instead" if self.unexpected else ""
        return UserError(
            f"{self._lacks(names)}{left}: transformers would fill up at random what {use}; give a whole model folder."
        )


def part_missing(
    weights: Weights, model: nn.Module, base: nn.Module, blocks: Blocks, *, last: int, ids_BL: Tensor
) -> dict[Part, list[str]]:
    """The missing weights, by where they act.

    Those of a block act there. For the others a gradient says whether what is read, or the logits, depend on them.

    Args:
        weights: What is missing.
        model: The whole model.
        base: The model without its head.
        blocks: All its blocks.
        last: The last block that is read.
        ids_BL: Ids to run it on.
    """
    parts: dict[Part, list[str]] = {"read": [], "above": [], "head": [], "unused": []}
    elsewhere: list[str] = []
    front = next((f"{name}." for name, module in model.named_modules() if module is base and name), "")
    for name in weights.missing:
        number = blocks.number_of(name.removeprefix(front))
        if number is None:
            elsewhere.append(name)
        else:
            parts["read" if number <= last else "above"].append(name)
    if elsewhere:
        parameters = {name: parameter for name, parameter in model.named_parameters() if name in elsewhere}
        reads, predicts = _depending(model, base, blocks, parameters, last=last, ids_BL=ids_BL)
        for name in elsewhere:
            # A buffer has no gradient; nobody knows whether the one that the model made itself is the right one.
            part: Part = "read" if name in reads or name not in parameters else "unused"
            parts["head" if part == "unused" and name in predicts else part].append(name)
    order = {name: number for number, name in enumerate(weights.missing)}
    return {part: sorted(names, key=order.__getitem__) for part, names in parts.items()}


@torch.enable_grad()
def _depending(
    model: nn.Module, base: nn.Module, blocks: Blocks, parameters: Mapping[str, nn.Parameter], *, last: int, ids_BL: Any
) -> tuple[set[str], set[str]]:
    """Names of parameters on which the output of block ``last`` depends, and of those on which the logits do."""
    seen: list[Tensor] = []
    handles = blocks.on_output(last, lambda _module, _args, output: seen.append(first_output(output).clone()))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        logits = getattr(run_model(model, ids_BL), "logits", None)
        return _reaching(seen[:1], parameters), _reaching([logits] if logits is not None else [], parameters)
    except Exception:  # a model whose code runs forward alone: nothing is known, so everything counts
        return {*parameters}, {*parameters}
    finally:
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        for handle in handles:
            handle.remove()


def _reaching(outputs: Iterable[Tensor], parameters: Mapping[str, nn.Parameter]) -> set[str]:
    found: set[str] = set()
    for output in outputs:
        if output.requires_grad:
            total = output.float().square().sum()
            grads = torch.autograd.grad(total, list(parameters.values()), retain_graph=True, allow_unused=True)
            found |= {name for name, grad in zip(parameters, grads, strict=True) if grad is not None}
    return found
